"""The hash of all that a training's result depends on."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.config.evaluations import RenderingConfig
from pipeline.config.experiments import ValidationConfig
from pipeline.config.project import Project
from pipeline.config.selection import SelectedRun
from pipeline.data.manifest import FINER, VAL_ANNOTATIONS
from pipeline.data.storage import Storage
from pipeline.training.training import Training


@pytest.fixture
def training(chain: Project, tmp_path: Path) -> Training:
    """One that begins with the weights in ``weights``, which hold a few bytes."""
    params = SelectedRun(
        task="instance",
        dataset="shapes",
        experiment="coco_pointrend_r50",
        seed=0,
        starts_from="train/shapes_detector-0",
    )
    config, _ = chain.run("demo", "coco_pointrend_r50-0", params)
    prepared, weights = tmp_path / "prepared", tmp_path / "weights"
    prepared.mkdir()
    for name in ("dataset.json", "train.parquet", "val.parquet"):
        (prepared / name).write_text(name)
    weights.write_bytes(b"learned")
    return Training(config, prepared, Storage(str(tmp_path)), "code", tmp_path / "runs", weights)


def test_the_same_inputs_elsewhere_have_the_same_key(training: Training, tmp_path: Path) -> None:
    moved = tmp_path / "weights_elsewhere"
    moved.write_bytes(b"learned")
    again = replace(training, starts_from=moved, root=tmp_path / "elsewhere", images=Storage("s3://bucket"))
    assert again.key == training.key
    assert again.id == training.id == f"coco_pointrend_r50-0-{training.key}"


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("weights", "learned more"),
        ("prepared/train.parquet", "other images"),
        ("prepared/dataset.json", "other categories"),
    ],
)
def test_the_key_changes_with_its_files(training: Training, tmp_path: Path, file: str, content: str) -> None:
    before = training.key
    assert replace(training).key == before
    (tmp_path / file).write_text(content)
    assert replace(training).key != before


def test_the_key_does_not_change_with_the_val_split(training: Training) -> None:
    before = training.key
    (training.prepared / "val.parquet").write_text("other images")
    assert replace(training).key == before


def test_the_key_of_a_training_that_validates_does_not_change_with_finer_annotations(training: Training) -> None:
    validation = ValidationConfig(setting=RenderingConfig(resolution=28), code="code")
    validated = replace(training, config=training.config.model_copy(update={"validation": validation}))
    before = validated.key
    (training.prepared / "truth").mkdir()
    for name in (FINER, VAL_ANNOTATIONS):
        (training.prepared / name).write_text("finer")
        assert replace(validated).key == before
    (training.prepared / "truth" / "instances.json").write_text("other objects")
    assert replace(validated).key != before


def test_beginning_with_nothing_is_another_training(training: Training) -> None:
    config = training.config.model_copy(update={"starts_from": None})
    keys = {
        training.key,
        replace(training, starts_from=None).key,
        replace(training, config=config).key,
        replace(training, code="other code").key,
    }
    assert len(keys) == 4
