"""Models, their training points and renderings."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from made_up_configs import EXPERIMENT, MODEL, edited, refusal

from pipeline.config.experiments import ExperimentConfig
from pipeline.config.models import ModelConfig, load_model
from pipeline.config.project import Project
from pipeline.config.reader import load
from pipeline.training.model import build_run_model
from pointrend import list_models


def test_an_unknown_model_lists_the_models(written: Callable[[str], Path]) -> None:
    text = edited(MODEL, "pointrend_rcnn_tiny_fpn", "pointrend_rcnn_tiny")
    message = refusal(ModelConfig, written(text))
    assert "'pointrend_rcnn_tiny'" in message
    for name in list_models("instance"):
        assert name in message


@pytest.mark.parametrize(
    ("pretrained", "norm"), [("detectron2", "group"), ("torchvision", "group"), ("null", "frozen_batch")]
)
def test_imagenet_weights_and_frozen_normalisation_go_together(
    written: Callable[[str], Path], pretrained: str, norm: str
) -> None:
    text = edited(edited(MODEL, "backbone: null", f"backbone: {pretrained}"), "norm: group", f"norm: {norm}")
    message = refusal(ModelConfig, written(text))
    assert "pretrained_backbone" in message
    assert norm in message


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("maskrcnn_tiny_fpn", "mask_side: 55", "mask_side is 55, expected an even number"),
        ("pointrend_rcnn_tiny_fpn", "mask_side: 56", "mask_side is for the 4xconv head"),
        ("maskrcnn_tiny_fpn", "cascade: true", "cascade is for PointRend"),
    ],
)
def test_settings_of_the_other_mask_head(written: Callable[[str], Path], name: str, line: str, message: str) -> None:
    assert message in refusal(ModelConfig, written(edited(MODEL, "pointrend_rcnn_tiny_fpn", name) + f"{line}\n"))


def test_the_mask_branches_of_the_paper_s_text(repository: Path) -> None:
    """Sections 4 and 4.1: 56x56 masks "by doubling the default RoIAlign size", and training without the cascade."""
    project = Project(repository)
    runs = project.select("paper", "data").runs
    for experiment, attribute, expected in (
        ("coco_4xconv_r50", "pooled_size", 14),
        ("coco_4xconv_r50_56x56", "pooled_size", 28),
        ("coco_pointrend_r50", "cascade", True),
        ("coco_pointrend_r50_proposals", "cascade", False),
    ):
        run, evaluation = project.run("paper", f"{experiment}-0", runs[f"{experiment}-0"])
        with torch.device("meta"):
            model: Any = build_run_model(run, 80, pretrained=False)
        assert getattr(model.mask_head, attribute) == expected
        if "4xconv" in experiment:
            (setting,) = evaluation.root.values()
            assert setting.resolution == 2 * expected


@pytest.mark.parametrize(("name", "has"), [("pointrend_rcnn_tiny_fpn", True), ("maskrcnn_tiny_fpn", False)])
def test_which_models_have_a_point_head(written: Callable[[str], Path], name: str, has: bool) -> None:
    assert load_model(written(edited(MODEL, "pointrend_rcnn_tiny_fpn", name))).has_point_head is has


def test_sampling_and_rendering_as_the_network_takes_them(written: Callable[[str], Path]) -> None:
    experiment = load(ExperimentConfig, written(EXPERIMENT))
    assert experiment.sampling is not None
    sampling = experiment.sampling.build()
    assert (sampling.strategy, sampling.num_points, sampling.oversample_ratio, sampling.importance_sample_ratio) == (
        "biased", 196, 3.0, 0.75,
    )  # fmt: skip
    rendering = experiment.evaluations["28x28"].build()
    assert (rendering.resolution, rendering.num_points) == (28, 784)


def test_finite_values_only_in_sampling(written: Callable[[str], Path]) -> None:
    text = edited(EXPERIMENT, "ratio: 3.0", "ratio: .inf")
    assert "sampling" in refusal(ExperimentConfig, written(text))
