"""Every parameter that a training of the paper's scale trains gets a gradient, as several workers need it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.config.experiments import RunConfig
from pipeline.config.models import InstanceModelConfig
from pipeline.config.project import Project
from pipeline.training.model import build_run_model, freeze

REPOSITORY = Path(__file__).parents[3]
CLASSES, HEIGHT, WIDTH = 3, 32, 64
#: The settings of a model that say something about images and not about the network.
IMAGES = {
    "train_min_sizes",
    "test_min_size",
    "max_size",
    "crop_size",
    "scales",
    "color_augmentation",
    "max_class_share",
}


def paper_trainings() -> dict[str, RunConfig]:
    """The trainings of the paper's scale, one for each network, by their experiment."""
    project = Project(REPOSITORY)
    found: dict[Any, RunConfig] = {}
    for name, selected in project.select("paper", "data").runs.items():
        config, _ = project.run("paper", name, selected)
        network = config.model.model_dump(exclude=IMAGES) | {"name": config.model.name.rpartition("_")[0]}
        found.setdefault((str(network), config.point_head_size, config.train), config)
    return {config.experiment: config for config in found.values()}


TRAININGS = paper_trainings()


def examples(task: str) -> list[dict[str, Tensor]]:
    """Targets of two images."""
    if task == "semantic":
        return [{"labels": torch.randint(CLASSES, (HEIGHT, WIDTH))} for _ in range(2)]
    return [
        {
            "boxes": torch.tensor([[4.0, 4.0, 30.0, 28.0]]),
            "labels": torch.tensor([1 + image]),
            "masks": torch.rand(1, HEIGHT, WIDTH) < 0.5,
        }
        for image in range(2)
    ]


@pytest.mark.parametrize("experiment", TRAININGS)
def test_every_trained_parameter_gets_a_gradient(experiment: str) -> None:
    """DistributedDataParallel stops at the second update otherwise.

    Nothing of the backbone is frozen here, since no pretrained weights are loaded: a stricter test than the training.
    """
    config = TRAININGS[experiment]
    if isinstance(config.model, InstanceModelConfig):
        few = {"rois_per_image": 8, "pretrained_backbone": None}
        config = config.model_copy(update={"model": config.model.model_copy(update=few)})
    torch.manual_seed(0)
    model = build_run_model(config, CLASSES, pretrained=False)
    freeze(model, config)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith("bn3.weight"):
                value.fill_(0.2)  # without pretrained weights and with frozen norms, features would grow without limit
    losses = model([torch.rand(3, HEIGHT, WIDTH) for _ in range(2)], examples(config.model.task))
    sum(losses.values()).backward()  # type: ignore[union-attr]
    trained = {name: value.grad for name, value in model.named_parameters() if value.requires_grad}
    assert trained
    assert [name for name, gradient in trained.items() if gradient is None or not gradient.any()] == []
    assert all(gradient.isfinite().all() for gradient in trained.values() if gradient is not None)


def test_the_networks_are_those_of_the_paper() -> None:
    assert len(TRAININGS) >= 16
    assert "cityscapes_semantic_fpn_p3_r101" in TRAININGS
