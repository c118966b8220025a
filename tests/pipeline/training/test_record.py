import hashlib
import os
from pathlib import Path

import pytest

from pipeline.config.experiments import RunConfig
from pipeline.config.project import Project
from pipeline.data.storage import Storage
from pipeline.training.record import METRICS, RECORD, WEIGHTS, data_digest, file_digest, training_key
from pipeline.training.training import Training


@pytest.fixture
def config(repository: Path) -> RunConfig:
    project = Project(repository)
    name = "coco_pointrend_r50-0"
    return project.run("demo", name, project.select("demo", "data").runs[name])[0]


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    folder = tmp_path / "prepared"
    folder.mkdir()
    for name in ("dataset.json", "train.parquet", "val.parquet"):
        (folder / name).write_text(name)
    return folder


def test_a_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    file = tmp_path / "file"
    found = []
    for number, text in enumerate(("one", "two", "two and more")):
        file.write_text(text)
        os.utime(file, ns=(number, number))
        found.append((file_digest(file), file_digest(file)))
    assert found == [(hashlib.sha256(t.encode()).hexdigest(),) * 2 for t in ("one", "two", "two and more")]


def test_the_data_are_what_training_reads(prepared: Path) -> None:
    first = data_digest(prepared)
    (prepared / "val.parquet").write_text("other")
    assert data_digest(prepared) == first
    found = {first}
    for name in ("dataset.json", "train.parquet"):
        (prepared / name).write_text("other than before")
        found.add(data_digest(prepared))
    assert len(found) == 3


def test_a_key_depends_on_everything(config: RunConfig, tmp_path: Path) -> None:
    weights = [tmp_path / name for name in ("a", "b", "again a")]
    for file in weights:
        file.write_text(file.name[-1])
    first = training_key(config, "data", "code", None)
    assert training_key(config.model_copy(), "data", "code", None) == first
    others = [
        training_key(config.model_copy(update={"seed": 1}), "data", "code", None),
        training_key(config, "other", "code", None),
        training_key(config, "data", "other", None),
        training_key(config, "data", "code", weights[0]),
        training_key(config, "data", "code", weights[1]),
    ]
    assert len({first, *others}) == 6
    assert training_key(config, "data", "code", weights[2]) == others[3]


def test_what_is_collected_can_be_logged_again(config: RunConfig, prepared: Path, tmp_path: Path) -> None:
    training = Training(config, prepared, Storage(str(tmp_path)), "code", tmp_path / "runs")
    assert training.key == training_key(config, data_digest(prepared), "code", None)
    training.storage.mkdir(parents=True)
    for name in (WEIGHTS, RECORD, METRICS, "metrics.sent.json", "summary.json"):
        (training.storage / name).write_text(name)
    training.collect(tmp_path / "output")
    assert sorted(path.name for path in (tmp_path / "output").iterdir()) == [METRICS, WEIGHTS, RECORD]
