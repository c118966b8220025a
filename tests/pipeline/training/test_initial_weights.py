"""Files of weights for other runs to start from."""

import sys
from pathlib import Path

import pytest
import torch
from made_up_configs import linked_project
from safetensors import safe_open
from torch import nn

from pipeline.config.experiments import RunConfig
from pipeline.config.project import Project
from pipeline.config.selection_files import params_text
from pipeline.stage import run_stage
from pipeline.training.initial_weights import main, write_initial_weights
from pipeline.training.model import build_initial_model, build_run_model
from pipeline.training.record import WEIGHTS, TrainingRecord
from pipeline.training.starting_weights import load_shared_weights
from pointrend import build_model, save_weights
from pointrend.backbones import stride_in_1x1
from pointrend.weights import read_state_dict

NAMES = ("shapes_detector", "streets_detector", "streets_segmenter")
HEADS = ("mask_head.", "head.", "pointrend.")


def resolved(repository: Path, scale: str, name: str) -> RunConfig:
    project = Project(repository)
    return project.run(scale, name, project.select(scale, "data").runs[name])[0]


def trained(config: RunConfig, folder: Path, model: nn.Module | None = None) -> dict[str, torch.Tensor]:
    """Writes what a training leaves, and returns its weights: those of 5 classes that it begins with, or a model's."""
    torch.manual_seed(7)
    folder.mkdir(parents=True)
    model = model or build_run_model(config, 5, pretrained=False)
    save_weights(model, folder / WEIGHTS)
    TrainingRecord(
        run=config.run, key="a key", mlflow_run_id="an id", config=config, data="0123456789abcdef", code="abcdef123456",
        parameters={}, tags={}, started=1, ended=2, seconds=3.0, hardware="2 CPU threads",
    ).write(folder)  # fmt: skip
    return model.state_dict()


@pytest.mark.parametrize("name", NAMES)
def test_a_file_has_all_but_the_heads_in_half_precision(name: str, repository: Path, tmp_path: Path) -> None:
    whole = trained(resolved(repository, "pretraining", f"{name}-0"), tmp_path / "trained")
    write_initial_weights(tmp_path / "trained", tmp_path / "file.safetensors")
    found = read_state_dict(tmp_path / "file.safetensors")
    assert any(key.startswith(HEADS) for key in whole)
    assert found.keys() == {key for key in whole if not key.startswith(HEADS)}
    for key, tensor in found.items():
        assert tensor.dtype == torch.float16
        assert torch.equal(tensor, whole[key].half())


def test_counts_are_not_rounded(repository: Path, tmp_path: Path) -> None:
    """Batch norms have seen a number of batches, which may be larger than half precision can say."""
    model = nn.ModuleDict({"backbone": nn.BatchNorm2d(4)})
    model["backbone"].num_batches_tracked.fill_(90_001)
    trained(resolved(repository, "pretraining", "shapes_detector-0"), tmp_path / "trained", model)
    write_initial_weights(tmp_path / "trained", tmp_path / "file.safetensors")
    assert read_state_dict(tmp_path / "file.safetensors")["backbone.num_batches_tracked"].item() == 90_001


def test_a_file_says_what_it_is(repository: Path, tmp_path: Path) -> None:
    config = resolved(repository, "pretraining", "shapes_detector-0")
    trained(config, tmp_path / "trained")
    file = tmp_path / "file.safetensors"
    write_initial_weights(tmp_path / "trained", file)
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    assert RunConfig.model_validate_json(metadata.pop("config")) == config
    assert metadata == {"data": "0123456789abcdef", "code": "abcdef123456"}
    assert file.stat().st_mode & 0o777 == 0o644, "everybody may read it"


def test_strides_of_detectron2_s_backbones_go_along(repository: Path, tmp_path: Path) -> None:
    model = build_model("maskrcnn_r50_fpn_coco", num_classes=5, norm="group", stride_in_1x1=True)
    trained(resolved(repository, "pretraining", "shapes_detector-0"), tmp_path / "trained", model)
    write_initial_weights(tmp_path / "trained", tmp_path / "file.safetensors")
    other = build_model("pointrend_rcnn_r50_fpn_coco", num_classes=5, norm="group")
    load_shared_weights(other, tmp_path / "file.safetensors")
    assert stride_in_1x1(other) is True


def test_a_mask_head_learns_on_the_detector_of_a_file(repository: Path, tmp_path: Path) -> None:
    whole = trained(resolved(repository, "pretraining", "shapes_detector-0"), tmp_path / "trained")
    file = tmp_path / "file.safetensors"
    write_initial_weights(tmp_path / "trained", file)
    config = resolved(repository, "demo", "coco_pointrend_r50-0")
    assert config.train == "mask_head"
    model = build_initial_model(config, 5, file)
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name, _ in model.named_parameters() if not name.startswith("mask_head.")}
    for name in frozen:
        assert model.state_dict()[name].dtype == torch.float32
        assert torch.equal(model.state_dict()[name], whole[name].half().float())


# The command


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that the command is asked for, in a project whose selected scale is the one with such trainings."""
    project = linked_project(tmp_path)
    project.params_file.write_text(params_text(project.initial_params("pretraining", "data", "laptop")))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["initial_weights", "shapes_detector-0", "own.safetensors"])
    return tmp_path / "own.safetensors"


def test_the_command_writes_a_run_of_the_selected_scale(written: Path, repository: Path) -> None:
    config = resolved(repository, "pretraining", "shapes_detector-0")
    trained(config, written.parent / "outputs/pretraining/train/shapes_detector-0")
    run_stage(main)
    assert "backbone.body.conv1.weight" in read_state_dict(written)


def test_a_training_that_is_not_there_is_one_error(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name for path in written.parent.iterdir()}
    with pytest.raises(SystemExit) as ended:
        run_stage(main)
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert "outputs/pretraining/train/shapes_detector-0/train.json" in line
    assert {path.name for path in written.parent.iterdir()} == before
