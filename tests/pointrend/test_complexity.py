import json
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner, Result

from pointrend import Rendering
from pointrend.cli import app
from pointrend.complexity import Complexity, Row, compare_heads, count, spec_complexity
from pointrend.points import mask_uncertainty
from pointrend.specs import MODELS, PAPER_RENDERING, InstanceSpec
from pointrend.subdivision import num_point_predictions, subdivide, subdivision_sizes


def spec(name: str = "pointrend_rcnn_r50_fpn_coco") -> InstanceSpec:
    found = MODELS[name]
    assert isinstance(found, InstanceSpec)
    return found


def round_as_printed(value: float) -> str:
    """One decimal below ten, none above."""
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"


class TestTable2:
    """256 channels, K = 80 classes, 224x224 masks, 28^2 points a step."""

    #: mask head, output resolution: FLOPs (multiply-adds), # activations
    PAPER = (
        ("4xconv", 28, "0.5B", "0.5M"),
        ("4xconv", 224, "34B", "33M"),
        ("pointrend", 224, "0.9B", "0.7M"),
    )

    @pytest.fixture(scope="class")
    def rows(self) -> list[Row]:
        return compare_heads(spec(), 80, Rendering(224, 28 * 28))

    def test_is_the_paper_s(self, rows: list[Row]) -> None:
        rounded = [
            (
                head,
                side,
                round_as_printed(cost.multiply_adds / 1e9) + "B",
                round_as_printed(cost.activations / 1e6) + "M",
            )
            for head, side, cost in rows
        ]
        assert rounded == list(self.PAPER)

    def test_four_conv_by_hand(self, rows: list[Row]) -> None:
        convs, deconv, predictor = 4 * 14**2 * 256 * 256 * 9, 14**2 * 256 * 256 * 4, 28**2 * 256 * 80
        pooled = 256 * 14**2
        activations = pooled + 4 * pooled + 256 * 28**2 + 80 * 28**2
        assert rows[0].cost == Complexity(convs + deconv + predictor, activations)

    def test_pointrend_by_hand(self, rows: list[Row]) -> None:
        coarse = 7**2 * 256 * 4 * 256 + (256 * 7**2) * 1024 + 1024 * 1024 + 1024 * 80 * 7**2
        a_point = 3 * (256 + 80) * 256 + (256 + 80) * 80
        # 7x7 to 28x28 is predicted at once, as each of its cells is; then 56, 112 and 224.
        assert rows[2].cost.multiply_adds == coarse + 4 * 28**2 * a_point
        layers = 256 * 14**2 + 256 * 7**2 + 2 * 1024 + 80 * 7**2
        assert rows[2].cost.activations == layers + 28**2 * (3 * 256 + 80)


class TestOfOneModel:
    """What a table's cell counts: a model's own mask head."""

    @pytest.mark.parametrize("of_one", ["maskrcnn_r50_fpn_coco", "pointrend_rcnn_r50_fpn_coco"])
    def test_is_its_row_of_the_comparison(self, of_one: str) -> None:
        rows = compare_heads(spec(of_one), 80, Rendering(224, 28 * 28))
        four_conv, pointrend = spec("maskrcnn_r50_fpn_coco"), spec("pointrend_rcnn_r50_fpn_coco")
        assert rows == [
            Row("4xconv", 28, spec_complexity(four_conv, 80, Rendering(28, 1))),
            Row("4xconv", 224, spec_complexity(four_conv, 80, Rendering(224, 1))),
            Row("pointrend", 224, spec_complexity(pointrend, 80, Rendering(224, 28 * 28))),
        ]

    def test_four_conv_takes_no_points(self) -> None:
        few, many = (spec_complexity(spec("maskrcnn_tiny_fpn"), 3, Rendering(28, n)) for n in (1, 10_000))
        convs, deconv, predictor = 4 * 14**2 * 64 * 64 * 9, 14**2 * 64 * 64 * 4, 28**2 * 64 * 3
        assert few == many == Complexity(convs + deconv + predictor, 5 * 64 * 14**2 + (64 + 3) * 28**2)

    @pytest.mark.parametrize(
        ("name", "classes", "resolution", "message"),
        [
            ("maskrcnn_tiny_fpn", 0, 28, "num_classes is 0"),
            ("maskrcnn_tiny_fpn", 3, 29, "resolution is 29: the 4xconv head doubles"),
            ("pointrend_rcnn_tiny_fpn", 0, 28, "num_classes is 0"),
            ("pointrend_rcnn_tiny_fpn", 3, 4, "7x7 grid to 4x4"),
        ],
    )
    def test_refuses(self, name: str, classes: int, resolution: int, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            spec_complexity(spec(name), classes, Rendering(resolution, 28 * 28))


def test_predictions_of_section_3_1() -> None:
    """ "PointRend requires N log2 (M / M0) <= 28^2 * 4.25 point predictions" from 7x7 to 224x224."""
    assert num_point_predictions(subdivision_sizes((7, 7), (224, 224)), 28**2) == 28**2 * 4.25


def test_predictions_that_are_made() -> None:
    """All cells of a grid that has no more than N make the grids before it needless: 28^2 * 0.25 points less."""
    asked = []

    def predict(points: torch.Tensor) -> torch.Tensor:
        asked.append(points.shape[1])
        return points.new_zeros(1, 1, points.shape[1])

    coarse = torch.zeros(1, 1, 7, 7)
    sizes = subdivision_sizes((7, 7), (224, 224))
    subdivide(coarse, predict, lambda logits: mask_uncertainty(logits[:, 0]), sizes, 28**2)
    assert asked == [28**2] * 4


class TestCount:
    def test_of_a_layer(self) -> None:
        layer = nn.Conv2d(3, 5, 3, stride=2, bias=False)
        output, cost = count(layer, torch.rand(2, 3, 9, 7))
        assert output.shape == (2, 5, 4, 3)
        assert cost == Complexity(2 * 5 * 4 * 3 * 3 * 9, 2 * 5 * 4 * 3)

    def test_activations_are_those_of_layers_with_weights(self) -> None:
        network = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Dropout(), nn.Linear(6, 2))
        assert count(network, torch.rand(10, 4))[1] == Complexity(10 * (4 * 6 + 6 * 2), 10 * (6 + 2))

    def test_leaves_no_hook_behind(self) -> None:
        layer = nn.Linear(4, 6)
        with pytest.raises(RuntimeError):
            count(layer, torch.rand(10, 5))
        count(layer, torch.rand(10, 4))
        assert not layer._forward_hooks

    def test_more_classes_cost_more(self) -> None:
        few, many = (compare_heads(spec(), classes, PAPER_RENDERING) for classes in (1, 80))
        for a, b in zip(few, many, strict=True):
            assert a.cost.multiply_adds < b.cost.multiply_adds
            assert a.cost.activations < b.cost.activations

    def test_pointrend_s_activations_do_not_grow_with_the_resolution(self) -> None:
        coarse, fine = (compare_heads(spec(), 80, Rendering(side, 28 * 28))[2].cost for side in (28, 448))
        assert fine.activations == coarse.activations
        assert fine.multiply_adds - coarse.multiply_adds == pytest.approx(4 * 28**2 * 284_928)


def run(*options: str) -> Result:
    return CliRunner().invoke(app, ["complexity", *options])


class TestCommand:
    def test_table(self) -> None:
        result = run()
        assert result.exit_code == 0, result.output
        lines = [line for line in result.output.splitlines() if "x" in line]
        for wanted in (
            ("4xconv", "28x28", "0.53B", "0.51M"),
            ("4xconv", "224x224", "34B", "33M"),
            ("pointrend", "224x224", "0.92B", "0.73M"),
        ):
            assert any(all(word in line.replace("│", " ").split() for word in wanted) for line in lines)

    def test_json(self) -> None:
        result = run("--json", "--num-classes", "3", "--model", "pointrend_rcnn_tiny_fpn", "--resolution", "56")
        assert result.exit_code == 0, result.output
        printed: dict[str, Any] = json.loads(result.output)
        assert {key: printed[key] for key in ("model", "num_classes")} == {
            "model": "pointrend_rcnn_tiny_fpn",
            "num_classes": 3,
        }
        expected = compare_heads(spec("pointrend_rcnn_tiny_fpn"), 3, Rendering(56, 28 * 28))
        assert printed["rows"] == [
            {
                "mask_head": head,
                "resolution": side,
                "multiply_adds": cost.multiply_adds,
                "activations": cost.activations,
            }
            for head, side, cost in expected
        ]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("--num-classes", "0"), "num_classes is 0"),
            (("--resolution", "5"), "resolution is 5"),
            (("--resolution", "4"), "7x7 grid to 4x4"),
            (("--num-points", "0"), "num_points is 0"),
            (("--model", "deeplabv3_tiny"), "unknown instance model 'deeplabv3_tiny'"),
        ],
    )
    def test_bad_input(self, options: tuple[str, ...], message: str) -> None:
        result = run(*options)
        assert result.exit_code == 1
        assert message in result.stderr
        assert result.stdout == ""
