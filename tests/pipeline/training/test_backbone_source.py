"""Whose ImageNet weights a run's backbone starts from, and what is loaded from such a run later."""

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2_weights import detectron2_shapes
from torch import Tensor, nn

from pipeline.config.experiments import RunConfig
from pipeline.config.project import Project
from pipeline.errors import UserError
from pipeline.sweep.trial import _load_all_but_point_head
from pipeline.training.model import build_initial_model, build_run_model
from pipeline.training.starting_weights import backbone_source, fine_tune, load_shared_weights
from pointrend import build_model, load_model, save_weights, zoo
from pointrend.backbones import stride_in_1x1
from pointrend.transform import IMAGENET_STD

PREFIX = "backbone.bottom_up."
BACKBONES = {
    "coco_4xconv_r50": "ImageNetPretrained/MSRA/R-50.pkl",
    "coco_pointrend_r101_3x": "ImageNetPretrained/MSRA/R-101.pkl",
    "coco_pointrend_x101_3x": "ImageNetPretrained/FAIR/X-101-32x8d.pkl",
}


def run_of(repository: Path, experiment: str, **model: Any) -> RunConfig:
    """A run of the paper, with other settings of its model."""
    project = Project(repository)
    selected = project.select("paper", "data").runs[f"{experiment}-0"]
    run, _ = project.run("paper", f"{experiment}-0", selected)
    return run.model_copy(update={"model": run.model.model_copy(update=model)})


@pytest.fixture(scope="module", autouse=True)
def _fast_building() -> Iterator[None]:
    """Backbones whose every weight is loaded need no random ones first: zeros are quicker."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("kaiming_normal_", "kaiming_uniform_", "normal_", "uniform_"):
            patch.setattr(nn.init, name, lambda tensor, *_, **__: nn.init.zeros_(tensor))
        yield


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where downloads are kept."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _only_that_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POINTREND_CACHE", str(cache))
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", None)  # torchvision's weights are asked for by no test


def downloaded(cache: Path, run: RunConfig, file: str) -> dict[str, Tensor]:
    """Detectron2's file of a run's backbone, with made-up values, where a download would be."""
    generator = torch.Generator().manual_seed(0)
    state = {
        name.removeprefix(PREFIX): torch.rand(1, generator=generator).expand(shape)
        for name, shape in detectron2_shapes(run.model.name).items()
        if name.startswith(PREFIX) and "fpn" not in name
    }
    state["stem.conv1.weight"] = torch.rand(64, 3, 7, 7, generator=generator)
    path = cache / "dl.fbaipublicfiles.com" / "detectron2" / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps({name: value.numpy() for name, value in state.items()}, 4))
    return state


@pytest.fixture(scope="module")
def r50(repository: Path, cache: Path) -> RunConfig:
    run = run_of(repository, "coco_4xconv_r50")
    downloaded(cache, run, BACKBONES["coco_4xconv_r50"])
    return run


@pytest.mark.parametrize("experiment", BACKBONES)
def test_the_paper_s_instance_models_start_from_detectron2_s_backbones(
    experiment: str, cache: Path, repository: Path
) -> None:
    run = run_of(repository, experiment)
    state = downloaded(cache, run, BACKBONES[experiment])
    model: Any = build_run_model(run, 2, pretrained=True)
    resnext = "x101" in experiment
    assert stride_in_1x1(model) is not resnext
    assert model.metadata.spec.stride_in_1x1 is not resnext
    body = model.backbone.body
    assert torch.equal(body.layer3[0].conv1.weight, state["res4.0.conv1.weight"])
    assert torch.equal(body.layer4[2].bn3.running_var, state["res5.2.conv3.norm.running_var"])
    # MSRA's images are BGR of 0 to 255 without the mean, FAIR's also divided by ImageNet's deviation.
    scale = torch.ones(3) if resnext else 255 * torch.tensor(IMAGENET_STD)
    expected = state["stem.conv1.weight"].flip(1) * scale.view(1, 3, 1, 1)
    torch.testing.assert_close(body.conv1.weight, expected, rtol=1e-4, atol=1e-6)
    frozen = {name.split(".")[2] for name, value in model.named_parameters() if not value.requires_grad}
    assert frozen == {"conv1", "layer1"}


def test_strides_are_theirs_also_where_the_weights_are_not_loaded(repository: Path) -> None:
    """Evaluation loads a run's own weights, and the plan counts operations without any."""
    for experiment, expected in (("coco_pointrend_r50", True), ("coco_pointrend_x101_3x", False)):
        with torch.device("meta"):
            model = build_run_model(run_of(repository, experiment), 2, pretrained=False)
        assert stride_in_1x1(model) is expected
    with torch.device("meta"):
        model = build_run_model(
            run_of(repository, "coco_pointrend_r50", pretrained_backbone="torchvision"), 2, pretrained=False
        )
    assert stride_in_1x1(model) is False


def test_a_run_or_sweep_that_starts_from_one_has_its_strides(r50: RunConfig, repository: Path, tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    save_weights(build_run_model(r50, 2, pretrained=True), weights)
    assert stride_in_1x1(load_model(weights)) is True
    assert backbone_source(weights) == "detectron2"
    other = run_of(repository, "coco_pointrend_r50", pretrained_backbone="torchvision")
    model = build_run_model(other, 2, pretrained=False)
    load_shared_weights(model, weights)
    assert stride_in_1x1(model) is True
    model = build_run_model(other, 2, pretrained=False)
    fine_tune(model, weights, other.model.name, ["a", "b"])
    assert stride_in_1x1(model) is True
    model = build_run_model(other.model_copy(update={"model": r50.model, "sampling": None}), 2, pretrained=False)
    weights_of_torchvision = tmp_path / "torchvision.safetensors"
    save_weights(build_model(r50.model.name, num_classes=2), weights_of_torchvision)
    assert backbone_source(weights_of_torchvision) == "torchvision"
    assert stride_in_1x1(model) is True
    _load_all_but_point_head(model, weights_of_torchvision)
    assert stride_in_1x1(model) is False


def test_a_run_that_starts_from_one_trains_and_freezes_the_same(r50: RunConfig, tmp_path: Path) -> None:
    first = build_run_model(r50, 2, pretrained=True)
    weights = tmp_path / "model.safetensors"
    save_weights(first, weights)
    model = build_initial_model(r50, 2, weights)
    assert torch.equal(
        model.get_parameter("backbone.body.conv1.weight"), first.get_parameter("backbone.body.conv1.weight")
    )
    assert [p.requires_grad for p in model.parameters()] == [p.requires_grad for p in first.parameters()]


def test_weights_of_another_norm_are_refused(repository: Path, tmp_path: Path) -> None:
    """Group norm's weights have the names and shapes of batch norm's."""
    weights = tmp_path / "model.safetensors"
    save_weights(build_model("maskrcnn_r50_fpn_coco", num_classes=2, norm="group"), weights)
    run = run_of(repository, "coco_4xconv_r50")
    with pytest.raises(UserError, match=r"model\.safetensors: of another norm .* no backbone.body.bn1.running_mean"):
        load_shared_weights(build_run_model(run, 2, pretrained=False), weights)


def test_a_failed_download_names_the_run_and_the_address(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POINTREND_CACHE", str(tmp_path))
    monkeypatch.setattr(zoo, "_BASE", "http://127.0.0.1:9/")
    with pytest.raises(UserError, match=r"run coco_4xconv_r50-0: .*127\.0\.0\.1:9/.*MSRA/R-50\.pkl: download failed"):
        build_run_model(run_of(repository, "coco_4xconv_r50"), 2, pretrained=True)
