"""The network of a run, and what it takes of another's weights."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pipeline.config.experiments import RunConfig
from pipeline.config.project import Project
from pipeline.errors import UserError
from pipeline.training.model import build_initial_model, build_run_model, load_shared_weights
from pointrend import build_model, save_weights
from pointrend.weights import read_state_dict

BOX_PREDICTOR = {
    f"roi_heads.box_predictor.{layer}.{kind}" for layer in ("cls_score", "bbox_pred") for kind in ("weight", "bias")
}


def network(name: str, num_classes: int = 3, seed: int = 0) -> nn.Module:
    """A model whose every tensor, norms and biases too, has values of its own."""
    torch.manual_seed(seed)
    model = build_model(name, num_classes=num_classes)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def clones(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def taken(model: nn.Module, before: dict[str, Tensor], given: dict[str, Tensor]) -> set[str]:
    """The names of what a model has from a file; all else must be as it was."""
    after = model.state_dict()
    assert after.keys() == before.keys()
    found = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert all(torch.equal(after[name], given[name]) for name in found)
    return found


def written(model: nn.Module, folder: Path) -> Path:
    save_weights(model, folder / "model.safetensors")
    return folder / "model.safetensors"


@pytest.mark.parametrize("name", ["maskrcnn_tiny_fpn", "pointrend_rcnn_tiny_fpn"])
def test_takes_the_detector_and_leaves_the_mask_head(name: str, tmp_path: Path) -> None:
    source, model = network("maskrcnn_tiny_fpn", seed=1), network(name)
    before = clones(model)
    loaded = load_shared_weights(model, written(source, tmp_path))
    found = taken(model, before, source.state_dict())
    assert loaded == found
    assert found == {key for key in source.state_dict() if not key.startswith("mask_head.")}
    # Backbone, proposals and boxes are all of a detector.
    assert found == {key for key in before if not key.startswith("mask_head.")}


def test_leaves_a_mask_head_of_its_own_kind(tmp_path: Path) -> None:
    source, model = network("pointrend_rcnn_tiny_fpn", seed=1), network("pointrend_rcnn_tiny_fpn")
    before = clones(model)
    load_shared_weights(model, written(source, tmp_path))
    heads = {key for key in before if key.startswith(("mask_head.coarse_head.", "mask_head.point_head."))}
    assert heads
    assert taken(model, before, source.state_dict()) == before.keys() - heads


def test_takes_what_fits_of_a_network_with_other_classes(tmp_path: Path) -> None:
    source, model = network("maskrcnn_tiny_fpn", num_classes=5, seed=1), network("pointrend_rcnn_tiny_fpn")
    before = clones(model)
    loaded = load_shared_weights(model, written(source, tmp_path))
    found = taken(model, before, source.state_dict())
    assert found == {key for key in before if not key.startswith("mask_head.")} - BOX_PREDICTOR
    assert loaded == found


@pytest.mark.parametrize("name", ["maskrcnn_tiny18_fpn", "pointrend_rcnn_tiny26_fpn"])
def test_a_deeper_network_begins_as_the_shallower_one(name: str, tmp_path: Path) -> None:
    source = network("maskrcnn_tiny_fpn", seed=1)
    torch.manual_seed(0)
    model = build_model(name, num_classes=3)
    load_shared_weights(model, written(source, tmp_path))
    images = torch.rand(2, 3, 96, 64)
    with torch.no_grad():
        expected, found = source.backbone(images), model.backbone(images)
    assert expected.keys() == found.keys() == {"p2", "p3", "p4", "p5", "pool"}
    for level, feature in expected.items():
        torch.testing.assert_close(found[level], feature)


def head_only(repository: Path) -> RunConfig:
    """A run that trains its mask head alone."""
    project = Project(repository)
    written = project.experiment("demo", "coco_pointrend_r50")
    experiment = written.model_copy(update={"train": "mask_head"})
    return project.training("mine-0", "mine", 0, written, experiment)


def test_a_detector_that_is_not_trained_is_the_file_s(repository: Path, tmp_path: Path) -> None:
    config = head_only(repository)
    source = build_model("maskrcnn_tiny_fpn", num_classes=5, norm="group")
    model = build_initial_model(config, 5, written(source, tmp_path))
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name, _ in model.named_parameters() if not name.startswith("mask_head.")}
    assert all(torch.equal(model.state_dict()[name], source.state_dict()[name]) for name in frozen)


@pytest.mark.parametrize("fault", ["blocks", "classes"])
def test_a_detector_that_is_not_trained_must_be_whole(repository: Path, tmp_path: Path, fault: str) -> None:
    """Neither blocks nor, where the classes are others, the box predictor may be missing."""
    config, classes = head_only(repository), 5
    if fault == "blocks":
        deeper = config.model.model_copy(update={"name": "pointrend_rcnn_tiny18_fpn"})
        config = config.model_copy(update={"model": deeper})
    else:
        classes = 6
    weights = written(build_model("maskrcnn_tiny_fpn", num_classes=5, norm="group"), tmp_path)
    with pytest.raises(
        UserError, match=r"mine-0 trains nothing but its mask_head, and these weights have no \S+ of its shape"
    ):
        build_initial_model(config, classes, weights)


@pytest.mark.parametrize("name", ["cityscapes_semantic_fpn_pointrend_r101", "cityscapes_deeplabv3_pointrend_r103"])
def test_a_backbone_that_is_not_trained_is_the_file_s(repository: Path, tmp_path: Path, name: str) -> None:
    project = Project(repository)
    experiment = project.experiment("demo", name)
    assert experiment.train == "head"
    config = project.training(f"{name}-0", name, 0, experiment, experiment)
    source = build_model("semantic_fpn_tiny", num_classes=19, norm="group")
    model = build_initial_model(config, 19, written(source, tmp_path))
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name, _ in model.named_parameters() if name.startswith("backbone.")}
    assert all(torch.equal(model.state_dict()[name], source.state_dict()[name]) for name in frozen)


def test_pointrend_over_a_semantic_model(tmp_path: Path) -> None:
    source, model = (network("pointrend_semantic_fpn_tiny", seed=seed) for seed in (1, 0))
    before = clones(model)
    load_shared_weights(model, written(source, tmp_path))
    heads = {key for key in before if key.startswith(("head.", "pointrend."))}
    assert any(key.startswith("head.") for key in heads)
    assert taken(model, before, source.state_dict()) == before.keys() - heads


def backbone_alone(name: str, folder: Path) -> Path:
    """A file with tensors of a backbone's shapes; they are views of a single zero."""
    with torch.device("meta"):
        body = build_model(name, num_classes=3).state_dict()
    state = {key: torch.zeros(()).expand(value.shape) for key, value in body.items() if key.startswith("backbone.")}
    torch.save(state, folder / "model.pt")
    return folder / "model.pt"


@pytest.mark.parametrize(
    ("name", "other", "misfit"),
    [
        # The same stem and, further in, convolutions of the same shapes.
        ("maskrcnn_r50_fpn_coco", "maskrcnn_x101_fpn_coco", "backbone.body.layer1.0.conv1.weight"),
        ("maskrcnn_tiny_fpn", "maskrcnn_r50_fpn_coco", "backbone.body.conv1.weight"),
        ("maskrcnn_tiny_fpn", "maskrcnn_tiny18_fpn", "backbone.body.layer1.1.conv1.weight"),
        ("deeplabv3_tiny", "deeplabv3_r103_cityscapes", "backbone.body.conv1.0.weight"),
    ],
)
def test_refuses_the_weights_of_another_backbone(name: str, other: str, misfit: str, tmp_path: Path) -> None:
    model = network(name)
    before = clones(model)
    weights = backbone_alone(other, tmp_path)
    with pytest.raises(UserError) as caught:
        load_shared_weights(model, weights)
    message = str(caught.value)
    assert message.startswith(f"{weights}: of another backbone than the network of the run that starts from it")
    assert f": {misfit} does not fit; set starts_from to a run with the same backbone" in message
    assert taken(model, before, {}) == set()


def test_refuses_weights_without_a_backbone(tmp_path: Path) -> None:
    torch.save({"rpn.head.cls_logits.bias": torch.zeros(3)}, tmp_path / "model.pt")
    with pytest.raises(UserError, match=r"model\.pt: of another backbone .*: it has no ResNet"):
        load_shared_weights(network("maskrcnn_tiny_fpn"), tmp_path / "model.pt")


# What the configuration asks for


DEMO = Project(Path(__file__).parents[3])
#: One experiment of each model that begins with other weights.
BEGINNERS = {
    experiment.model: name
    for name in DEMO.experiment_names("demo")
    if (experiment := DEMO.experiment("demo", name)).starts_from is not None
}


@pytest.fixture(scope="module")
def runs() -> dict[str, RunConfig]:
    selected = DEMO.select("demo", "data").runs
    return {name: DEMO.run("demo", name, params)[0] for name, params in selected.items()}


@pytest.fixture(scope="module")
def first_weights(runs: dict[str, RunConfig], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Untrained weights of the runs whose weights others begin with, of three classes."""
    selected, files = DEMO.select("pretraining", "data").runs, {}
    for file in {run.starts_from for run in runs.values()} - {None}:
        name = f"{Path(file).stem}-0"
        run, _ = DEMO.run("pretraining", name, selected[name])
        torch.manual_seed(1)
        files[file] = written(build_run_model(run, 3, pretrained=False), tmp_path_factory.mktemp(name))
    return files


@pytest.mark.parametrize("name", BEGINNERS.values(), ids=BEGINNERS.keys())
def test_the_demo_s_networks_begin_with_the_backbone_they_are_given(
    name: str, runs: dict[str, RunConfig], first_weights: dict[str, Path]
) -> None:
    run = runs[f"{name}-0"]
    assert run.starts_from is not None
    weights = first_weights[run.starts_from]
    model = build_run_model(run, 8, pretrained=False)
    load_shared_weights(model, weights)
    given = {key: value for key, value in read_state_dict(weights).items() if key.startswith("backbone.body.")}
    # A stem of a convolution and a norm; four blocks of two of each; three shortcuts. A norm has two tensors.
    assert len(given) == 3 + 4 * 6 + 3 * 3
    after = model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in given.items())
