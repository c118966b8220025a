"""Weights of a model with other classes: the layers that predict them are redrawn, the rest is kept bit for bit."""

from pathlib import Path

import pytest
import torch
from detectron2_weights import random_detectron2
from made_up_images import prepared_images
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.config.project import Project
from pipeline.config.reader import ConfigError
from pipeline.data.annotations import Annotation
from pipeline.data.coco import ImageRecord
from pipeline.data.dataset import TrainingImages
from pipeline.data.manifest import SplitManifest, read_prepared, write_prepared
from pipeline.data.samplers import Draw
from pipeline.errors import UserError
from pipeline.training.model import build_initial_model
from pipeline.training.starting_weights import PREDICTORS, fine_tune
from pointrend import build_model
from pointrend.backbones import stride_in_1x1
from pointrend.detectron2 import from_detectron2
from pointrend.metadata import ClassInfo
from pointrend.weights import save_weights

TINY, R50 = "pointrend_rcnn_tiny_fpn", "pointrend_rcnn_r50_fpn_coco"


def network(name: str, num_classes: int, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build_model(name, num_classes=num_classes)


def written(state: dict[str, Tensor], path: Path) -> Path:
    save_file(state, path)
    return path


def tensors(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("name", [TINY, "maskrcnn_tiny_fpn", "pointrend_semantic_fpn_tiny", "deeplabv3_tiny"])
@pytest.mark.parametrize("classes", [2, 5])
def test_only_what_predicts_classes_is_redrawn(name: str, classes: int, tmp_path: Path) -> None:
    """Also where the file has as many classes: without their names they are others."""
    source = tensors(network(name, 5, seed=1))
    model = network(name, classes)
    before = tensors(model)
    found = fine_tune(model, written(source, tmp_path / "a.safetensors"), name, [f"class {i}" for i in range(classes)])
    after = model.state_dict()
    redrawn = {key for key in before if key.startswith(PREDICTORS)}
    assert set(found.redrawn) == redrawn
    assert redrawn
    assert all(torch.equal(after[key], before[key]) for key in redrawn)
    assert found.kept == before.keys() - redrawn - set(found.adapted)
    assert all(torch.equal(after[key], source[key]) for key in found.kept)
    assert bool(found.adapted) == ("pointrend" in name)
    for key in found.adapted:
        features = before[key].shape[1] - classes
        assert torch.equal(after[key][:, :features], source[key][:, :features])
        assert torch.equal(after[key][:, features:], before[key][:, features:])
    assert not found.absent
    assert all(key in found.summary for key in redrawn)


def test_the_same_classes_keep_everything(tmp_path: Path) -> None:
    trained, classes = network(TINY, 2, seed=1), ["cat", "dog"]
    save_weights(trained, tmp_path / "a.safetensors", classes=[ClassInfo(i, name) for i, name in enumerate(classes)])
    source, model = tensors(trained), network(TINY, 2)
    found = fine_tune(model, tmp_path / "a.safetensors", TINY, classes)
    assert found.kept == source.keys()
    assert all(torch.equal(value, source[key]) for key, value in model.state_dict().items())
    found = fine_tune(network(TINY, 2), tmp_path / "a.safetensors", TINY, classes[::-1])
    assert found.redrawn


def test_a_file_without_mask_heads_leaves_new_ones(tmp_path: Path) -> None:
    source = {key: value for key, value in network(TINY, 5).state_dict().items() if not key.startswith("mask_head.")}
    model = network(TINY, 2, seed=1)
    found = fine_tune(model, written(source, tmp_path / "a.safetensors"), TINY, ["cat", "dog"])
    assert {key for key in found.absent + found.redrawn if key.startswith("mask_head.")} == {
        key for key in model.state_dict() if key.startswith("mask_head.")
    }


def test_a_checkpoint_of_detectron2(tmp_path: Path) -> None:
    """COCO's 80 classes in Detectron2's layout, for two classes: its strides come with its weights."""
    state = random_detectron2(R50, 0)
    torch.save({"model": state}, tmp_path / "model_final.pth")
    with torch.device("meta"):
        reference = build_model(R50).state_dict()
    source, problems = from_detectron2(state, reference)
    assert not problems
    model = network(R50, 2)
    before = tensors(model)
    found = fine_tune(model, tmp_path / "model_final.pth", R50, ["cat", "dog"])
    after = model.state_dict()
    assert set(found.redrawn) == {key for key in before if key.startswith(PREDICTORS)}
    assert found.adapted == [f"mask_head.point_head.layers.{index}.weight" for index in range(3)]
    assert not found.absent
    assert found.kept == before.keys() - {*found.redrawn, *found.adapted}
    assert all(torch.equal(after[key], source[key]) for key in found.kept)
    assert all(torch.equal(after[key][:, :256], source[key][:, :256]) for key in found.adapted)
    assert stride_in_1x1(model) is True


def test_the_backbone_must_fit(tmp_path: Path) -> None:
    source = written(tensors(network("maskrcnn_tiny18_fpn", 5)), tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="of another backbone"):
        fine_tune(network(TINY, 2), source, TINY, ["cat", "dog"])


# In a run


def project_with(folder: Path, repository: Path, lines: str) -> Project:
    for name in ("datasets", "models", "schedules", "synthetic"):
        (folder / "configs").mkdir(exist_ok=True)
        (folder / "configs" / name).symlink_to(repository / "configs" / name)
    (folder / "configs" / "metrics.yaml").symlink_to(repository / "configs" / "metrics.yaml")
    (folder / "configs" / "experiments" / "mine").mkdir(parents=True)
    (folder / "configs" / "experiments" / "mine" / "mine.yaml").write_text(
        "description: mine\ndataset: shapes\nmodel: mask_rcnn_tiny_shapes\nschedule: demo\nseeds: [0]\n"
        f"evaluations: {{}}\n{lines}"
    )
    return Project(folder)


def test_a_run_says_what_it_keeps(tmp_path: Path, repository: Path) -> None:
    file = written(tensors(network("maskrcnn_tiny_fpn", 5)), tmp_path / "a.safetensors")
    project = project_with(tmp_path, repository, f"starts_from: {file}\nfine_tune: true\n")
    experiment = project.experiment("mine", "mine")
    config = project.training("mine-0", "mine", 0, experiment, experiment)
    said: list[str] = []
    build_initial_model(config, 2, file, ["cat", "dog"], said.append)
    assert said[0].startswith(f"mine-0 starts from {file}: ")
    assert "roi_heads.box_predictor.cls_score.weight" in said[0]


def test_fine_tuning_needs_weights(tmp_path: Path, repository: Path) -> None:
    project = project_with(tmp_path, repository, "fine_tune: true\n")
    with pytest.raises(ConfigError, match="fine_tune: needs a file of weights"):
        project.experiment("mine", "mine")


def test_negatives_are_trained_on(tmp_path: Path) -> None:
    """An image without objects has losses, and none of a mask."""
    folder, storage = prepared_images(tmp_path, 2)
    prepared = read_prepared(folder)
    rows = prepared.manifest("train").to_pylist()
    first = [Annotation(**a) for a in rows[0].pop("annotations")]
    rows[1].pop("annotations")
    split = SplitManifest([ImageRecord(**rows[0], annotations=first), ImageRecord(**rows[1])])
    write_prepared(folder, prepared.categories, {"train": split, "val": split})
    prepared = read_prepared(folder)
    assert len(TrainingImages(prepared, storage, [48], 64)) == 1
    images = TrainingImages(prepared, storage, [48], 64, negatives=True)
    assert len(images) == 2
    with_none = [images[Draw(1, 0)].to_device(torch.device("cpu"))]
    both = [images[Draw(0, 0)].to_device(torch.device("cpu")), *with_none]
    model = network(TINY, 2)
    for batch in (with_none, both):
        pictures, targets = zip(*batch, strict=True)
        losses = model(list(pictures), list(targets))
        assert all(torch.isfinite(loss) for loss in losses.values())
        sum(losses.values()).backward()
