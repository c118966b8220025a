"""What a training takes, counted on the meta device, against counts by hand."""

from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.config.experiments import RunConfig
from pipeline.config.project import Project
from pipeline.config.reader import load
from pipeline.plan.throughput import (
    Cost,
    Counter,
    Throughput,
    ThroughputError,
    operations_counter,
    training_size,
    validation_area,
)

PROJECT = Project(Path(__file__).parents[3])
PAPER = PROJECT.select("paper", "data")

STATED = Throughput(
    gpu="old",
    gpus={
        "old": {"name": "an old GPU", "source": "x", "peak_tflops": {"float32": 2.0}, "utilisation": {"float32": "a"}},
        "new": {
            "name": "a new GPU",
            "source": "x",
            "peak_tflops": {"float32": 4.0, "bfloat16": 100.0},
            "utilisation": {"float32": "a", "bfloat16": "b"},
        },
    },
    utilisation={"a": {"r50": 0.5}, "b": {"r50": 0.1, "r101": 0.2}},
    foreground=0.125,
    image_sizes={"photos": [480, 640]},
    prediction_bytes={"instance": 10, "semantic": 20},
)


def run(experiment: str) -> RunConfig:
    return PROJECT.run("paper", f"{experiment}-0", PAPER.runs[f"{experiment}-0"])[0]


def cost(experiment: str, foreground: float = 0.125, train: str = "all") -> Cost:
    config = run(experiment).model_copy(update={"train": train})
    return Counter().cost(config, training_size(config, lambda dataset: (480, 640)), foreground)


class TestStatedFigures:
    def test_images_per_second(self) -> None:
        # 10^12 operations a second, 4 x 10^9 an image.
        assert STATED.images_per_second(4_000_000_000, "r50", "float32") == 250
        assert STATED.chosen(None) == STATED.chosen("old") == STATED

    def test_of_another_gpu(self) -> None:
        new = STATED.chosen("new")
        assert new.images_per_second(4_000_000_000, "r50", "float32") == 500
        assert new.images_per_second(4_000_000_000, "r101", "bfloat16") == 5000
        with pytest.raises(ThroughputError, match=r"--gpu K80: configs/throughput\.yaml has old, new; state"):
            STATED.chosen("K80")

    @pytest.mark.parametrize(
        ("ask", "words"),
        [
            (lambda: STATED.images_per_second(1, "r50", "bfloat16"), "gpus.old.peak_tflops has no 'bfloat16'"),
            (lambda: STATED.images_per_second(1, "r101", "float32"), "utilisation.a has no 'r101'"),
            (lambda: STATED.image_size("mine"), "image_sizes has no 'mine'"),
        ],
    )
    def test_what_is_not_stated_is_named(self, ask, words: str) -> None:
        with pytest.raises(ThroughputError, match=f"throughput.yaml: {words}; state it there"):
            ask()

    def test_the_projects_own(self) -> None:
        """The R50 that its utilisation was derived from: 16 images in 0.261 s on 8 GPUs, to a percent."""
        stated = load(Throughput, PROJECT.configs / "throughput.yaml")
        flops = cost("coco_4xconv_r50", stated.foreground).flops
        assert stated.images_per_second(flops, "r50", "float32") == pytest.approx(16 / 0.261 / 8, rel=0.01)

    def test_the_h100s_shares_are_of_the_measured_updates(self) -> None:
        """An update of 16 images of 800 x 1216: 0.80 s in float32, and the middle of those in TF32 and bfloat16."""
        stated = load(Throughput, PROJECT.configs / "throughput.yaml").chosen("H100")
        flops = Counter().cost(run("coco_pointrend_r50"), (800, 1216), stated.foreground).flops
        for precision, seconds in (("float32", 0.80), ("tf32", 0.38), ("bfloat16", 0.38)):
            assert stated.images_per_second(flops, "r50", precision) == pytest.approx(16 / seconds, rel=0.02)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"gpu": "K80"}, "gpu is 'K80', expected one of old, new"),
        ({"utilisation": {"a": {"r50": 0.5}}}, "gpus.new.utilisation names what utilisation has not: b"),
    ],
)
def test_figures_that_do_not_go_together(change: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Throughput.model_validate(STATED.model_dump() | change)


def test_a_val_image_is_of_the_size_for_evaluation() -> None:
    # 800 x 1067 pixels, padded to multiples of 32; a street as it is.
    assert validation_area(run("coco_4xconv_r50"), (480, 640)) == 800 * 1088
    assert validation_area(run("cityscapes_deeplabv3_r103"), (1024, 2048)) == 1024 * 2048


class TestTrainingSize:
    def test_of_instances_is_at_the_mean_edge_and_padded(self) -> None:
        # Edges of 640 to 800: 720, so 720 x 960; the pyramid needs multiples of 32.
        assert training_size(run("coco_4xconv_r50"), lambda dataset: (480, 640)) == (736, 960)

    def test_of_a_long_image_is_limited(self) -> None:
        # 1333 for the longer edge: 133 x 1333.
        assert training_size(run("coco_4xconv_r50"), lambda dataset: (100, 1000)) == (160, 1344)

    def test_of_semantic_models_is_their_crop(self) -> None:
        def never(dataset: str) -> tuple[int, int]:
            raise AssertionError("asked for the size of an image that is cropped")

        assert training_size(run("cityscapes_semantic_fpn_r101"), never) == (512, 1024)


class TestCost:
    def test_of_a_grouped_convolution(self) -> None:
        """Four groups of 2 -> 2 channels, 3x3, on 5x5: 3600 multiply-adds for the output and for each gradient."""
        with torch.device("meta"), operations_counter() as counter:
            nn.Conv2d(8, 8, 3, padding=1, groups=4)(torch.empty(1, 8, 5, 5, requires_grad=True)).sum().backward()
        assert counter.get_total_flops() == 3 * 2 * 25 * 8 * 2 * 9

    def test_of_the_point_head_of_a_semantic_model(self) -> None:
        """2048 points, three layers of 256 channels and a prediction of 19, each with 256 + 19 inputs."""
        with_points, without = cost("cityscapes_semantic_fpn_pointrend_r101"), cost("cityscapes_semantic_fpn_r101")
        multiply_adds = 2048 * 275 * (3 * 256 + 19)
        assert with_points.flops - without.flops == 3 * 2 * multiply_adds
        parameters = 3 * (275 * 256 + 256) + 275 * 19 + 19
        assert with_points.weights - without.weights == 4 * parameters

    def test_of_the_4xconv_head_grows_with_its_regions(self) -> None:
        """64 more regions: four convolutions on 14x14, a deconvolution to 28x28, and the prediction of one class."""
        more, fewer = cost("coco_4xconv_r50", 0.25), cost("coco_4xconv_r50", 0.125)
        of_one = 4 * 9 * 256 * 256 * 14 * 14 + 4 * 256 * 256 * 14 * 14 + 256 * 28 * 28
        assert more.flops - fewer.flops == 3 * 2 * 64 * of_one

    def test_a_level_that_a_head_does_not_read_costs_nothing(self) -> None:
        """P3 to P5 without points: there is no P2."""
        seldom, always = cost("cityscapes_semantic_fpn_p3_r101"), cost("cityscapes_semantic_fpn_p3_pointrend_r101")
        points = 3 * 2 * 2048 * 275 * (3 * 256 + 19)
        # P2 = what res2 gives, 1x1, and P3; then 3x3. Forward, and both gradients.
        lateral = 3 * 2 * 256 * 256 * 128 * 256
        output = 9 * lateral
        assert always.flops - seldom.flops == points + output + lateral

    def test_frozen_layers_have_no_momentum(self) -> None:
        """A checkpoint is two sets of weights, but for the stem and res2, and batch norm's four statistics."""
        found = cost("coco_4xconv_r50")
        stem = 3 * 64 * 49
        res2 = 64 * 64 + 9 * 64 * 64 + 2 * 64 * 256 + 2 * (256 * 64 + 9 * 64 * 64 + 64 * 256)
        statistics = 4 * 26560  # a ResNet-50 has 26,560 normalised channels
        assert 2 * found.weights - found.checkpoint == 4 * (stem + res2 + statistics)

    def test_forward_alone(self) -> None:
        """A third of what is trained as a whole; less goes back where layers are frozen."""
        whole, frozen = cost("coco_4xconv_r50"), cost("coco_4xconv_r50", train="mask_head")
        assert whole.flops / 3 < whole.forward < whole.flops / 2
        assert frozen.forward == whole.forward < frozen.flops < whole.flops

    def test_of_a_detector_that_is_not_trained_nothing_goes_back(self) -> None:
        """64 more regions cost what they cost with a trained one, without the gradient of their pooled features."""
        more, fewer = cost("coco_4xconv_r50", 0.25, "mask_head"), cost("coco_4xconv_r50", 0.125, "mask_head")
        first = 9 * 256 * 256 * 14 * 14
        of_one = 4 * first + 4 * 256 * 256 * 14 * 14 + 256 * 28 * 28
        assert more.flops - fewer.flops == 2 * 64 * (3 * of_one - first)
        assert more.flops < 0.6 * cost("coco_4xconv_r50", 0.25).flops
        head = 4 * (9 * 256 * 256 + 256) + 4 * 256 * 256 + 256 + 80 * 256 + 80
        assert more.checkpoint - more.weights == 4 * head
