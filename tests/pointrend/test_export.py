"""Exported graphs, run by onnxruntime and torch, against the models that they were made of."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from typer.testing import CliRunner

from pointrend import build_model, export_model, save_weights
from pointrend.agreement import compare_instances, compare_semantics
from pointrend.cli import app
from pointrend.export import export_program, load_graph, output_names
from pointrend.paste import paste_masks, paste_masks_densely

#: Rows and columns: landscape, portrait, a multiple of 32, much smaller and larger than what the network takes.
SIZES = [(50, 75), (90, 64), (64, 96), (20, 31), (301, 150)]


def picture(size: tuple[int, int], seed: int = 0) -> Tensor:
    return torch.rand(3, *size, generator=torch.Generator().manual_seed(seed))


@dataclass
class Exported:
    model: Any
    path: Path
    run: Callable[[Tensor], dict[str, Tensor]]

    def compare(self, image: Tensor) -> dict[str, float]:
        with torch.no_grad():
            expected, found = self.model([image])[0], self.run(image)
            if isinstance(expected, Tensor):
                return compare_semantics(expected, found["logits"])
            return compare_instances(expected, found)


Export = Callable[..., Exported]


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Export:
    def export(model: nn.Module, suffix: str, paste: bool = False) -> Exported:
        path = tmp_path_factory.mktemp("exported") / f"model{suffix}"
        export_model(model, path, paste=paste)
        return Exported(model, path, load_graph(path, output_names(model, paste)))

    return export


def semantic_model(name: str, seed: int = 0, **options: Any) -> nn.Module:
    torch.manual_seed(seed)
    model = build_model(name, num_classes=5, **options)
    for module, layer in model.named_modules():
        if module.endswith("predictor"):
            nn.init.normal_(layer.weight, std=0.3)
    return model.eval()


@pytest.fixture(scope="module")
def program(export: Export, tiny_model: Callable[..., nn.Module]) -> Exported:
    return export(tiny_model("pointrend"), ".pt2")


#: A picture of each size, and more of the first.
PICTURES = [picture(size) for size in SIZES] + [picture(SIZES[0], seed) for seed in range(1, 6)]


@pytest.fixture(scope="module")
def onnx(export: Export, tiny_model: Callable[..., nn.Module]) -> Exported:
    """A model that finds a region in half of the pictures, and none in the others."""
    model = tiny_model("pointrend")
    with torch.no_grad():
        best = sorted(float(found["scores"].max()) for found in model.eval()(PICTURES))
    model.roi_heads.score_thresh = (best[4] + best[5]) / 2
    return export(model, ".onnx")


class TestInstances:
    @pytest.mark.parametrize("size", SIZES, ids=str)
    def test_a_program_equals_the_model_at_any_size(self, program: Exported, size: tuple[int, int]) -> None:
        found = program.compare(picture(size))
        assert found["detections"] == found["other_detections"] == 5
        assert found["box"] < 0.01
        assert found["score"] < 1e-4
        assert found["region_mask_iou"] > 0.99

    def test_an_onnx_graph_equals_the_model_at_any_size_and_with_any_number_of_regions(self, onnx: Exported) -> None:
        numbers = []
        for image in PICTURES:
            found = onnx.compare(image)
            numbers.append(found["detections"])
            assert found["detections"] == found["other_detections"]
            if found["detections"]:
                assert found["box"] < 0.01
                assert found["score"] < 1e-4
                assert found["region_mask_iou"] > 0.99
            each = onnx.run(image)
            regions = len(each["boxes"])
            assert [tuple(value.shape) for value in each.values()] == [
                (regions, 4),
                (regions,),
                (regions,),
                (regions, 1, 28, 28),
            ]
        assert sorted(map(bool, numbers)) == [False] * 5 + [True] * 5

    def test_four_conv_with_masks_on_the_image(self, export: Export, tiny_model: Callable[..., nn.Module]) -> None:
        exported = export(tiny_model("4xconv"), ".onnx", paste=True)
        for size in SIZES[:3]:
            found = exported.run(picture(size))
            assert found["masks"].shape == (5, 1, *size)
            agreement = exported.compare(picture(size))
            assert agreement["detections"] == agreement["other_detections"] == 5
            assert agreement["mask_iou"] > 0.99

    def test_an_onnx_file_says_what_it_takes_and_gives(self, onnx: Exported) -> None:
        import onnxruntime

        session = onnxruntime.InferenceSession(onnx.path)
        (taken,) = session.get_inputs()
        assert (taken.name, taken.shape) == ("image", [3, "height", "width"])
        assert [output.name for output in session.get_outputs()] == ["boxes", "labels", "scores", "region_masks"]


class TestSemantics:
    @pytest.mark.parametrize(
        ("name", "suffix"), [("pointrend_semantic_fpn_tiny", ".pt2"), ("pointrend_deeplabv3_tiny", ".onnx")]
    )
    def test_equal_to_the_model_at_any_size(self, export: Export, name: str, suffix: str) -> None:
        # Fewer points than the last grid has cells, and more than the first.
        exported = export(semantic_model(name, points_per_step=2000), suffix)
        for size in [(100, 130), (128, 96), (97, 301), (20, 31)]:
            found = exported.compare(picture(size))
            assert found["labels_equal"] > 0.995
            assert found["logit"] < 1e-3 or found["labels_equal"] < 1, found

    def test_a_pooling_window_larger_and_smaller_than_the_image(self, export: Export) -> None:
        exported = export(semantic_model("deeplabv3_tiny", pool_window=(64, 128)), ".onnx")
        for size in [(100, 150), (40, 150), (100, 80), (40, 50)]:
            found = exported.compare(picture(size))
            assert found["labels_equal"] > 0.995
            assert found["logit"] < 1e-4

    def test_an_image_that_a_program_does_not_take(self, export: Export) -> None:
        exported = export(semantic_model("deeplabv3_tiny", pool_window=(64, 128)), ".pt2")
        assert exported.compare(picture((100, 150)))["logit"] < 1e-4
        with pytest.raises(ValueError, match=r"model\.pt2: does not accept images of 40x150 pixels"):
            exported.run(picture((40, 150)))


class TestDensePasting:
    def test_equal_to_pasting_one_by_one(self) -> None:
        torch.manual_seed(0)
        corners = torch.rand(20, 2) * torch.tensor([90.0, 60.0]) - 10
        boxes = torch.cat((corners, corners + torch.rand(20, 2) * 60 + 0.5), dim=1)
        masks = torch.rand(20, 1, 14, 14)
        torch.testing.assert_close(paste_masks_densely(masks, boxes, (60, 90)), paste_masks(masks, boxes, (60, 90)))

    def test_nothing(self) -> None:
        assert paste_masks_densely(torch.zeros(0, 1, 28, 28), torch.zeros(0, 4), (6, 9)).shape == (0, 1, 6, 9)


class TestErrors:
    def test_another_suffix(self, tiny_model: Callable[..., nn.Module], tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"model\.tflite: expected a name that ends in \.onnx or \.pt2"):
            export_model(tiny_model(), tmp_path / "model.tflite")

    def test_a_semantic_model_pastes_nothing(self) -> None:
        with pytest.raises(ValueError, match="no regions to paste"):
            export_program(semantic_model("semantic_fpn_tiny"), paste=True)

    def test_a_graph_that_differs_is_not_written(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        model, path = semantic_model("deeplabv3_tiny"), tmp_path / "model.pt2"
        path.write_bytes(b"what was there before")

        def other_weights(program: Any, names: Any, path: Path) -> None:
            torch.export.save(export_program(semantic_model("deeplabv3_tiny", seed=1)), path)

        monkeypatch.setitem(sys.modules["pointrend.export"].WRITERS, ".pt2", other_weights)
        with pytest.raises(ValueError, match="not written, the graph differs from the model on image 0: logit"):
            export_model(model, path, images=[picture(SIZES[0])])
        assert path.read_bytes() == b"what was there before"
        assert list(tmp_path.iterdir()) == [path]

    @pytest.mark.parametrize("module", ["onnx_ir", "onnxscript", "onnxruntime"])
    def test_what_onnx_needs_is_named(
        self, module: str, tiny_model: Callable[..., nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(ValueError, match=rf"needs {module}: pip install 'pointrend\[export\]'"):
            export_model(tiny_model(), tmp_path / "model.onnx", images=[picture(SIZES[0])])
        assert not list(tmp_path.iterdir())


class TestCommand:
    @pytest.fixture
    def weights(self, tmp_path: Path) -> Path:
        save_weights(semantic_model("deeplabv3_tiny"), tmp_path / "tiny.safetensors")
        return tmp_path / "tiny.safetensors"

    def test_writes_and_checks(self, weights: Path, tmp_path: Path) -> None:
        pixels = (picture((40, 60)).permute(1, 2, 0) * 255).byte().numpy()
        Image.fromarray(np.ascontiguousarray(pixels)).save(tmp_path / "picture.png")
        output = tmp_path / "graphs" / "tiny.pt2"
        result = CliRunner().invoke(
            app, ["export", str(weights), str(output), "--check", str(tmp_path / "picture.png")]
        )
        assert result.exit_code == 0, result.output
        assert output.is_file()
        assert "picture.png: logit " in result.output
        assert "labels_equal 1" in result.output

    def test_a_missing_picture_is_an_error_before_anything_is_written(self, weights: Path, tmp_path: Path) -> None:
        output = tmp_path / "tiny.onnx"
        result = CliRunner().invoke(app, ["export", str(weights), str(output), "--check", str(tmp_path / "none.png")])
        assert result.exit_code == 1
        assert "none.png" in result.stderr
        assert not output.exists()
