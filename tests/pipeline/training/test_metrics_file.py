"""The file of a run's metrics: what is appended is there, whatever happens to the process."""

import json
import math
import time
from pathlib import Path

import pytest

from pipeline.training.metrics_file import MetricEntry, MetricsFile, MetricsFileError
from pipeline.training.record import METRICS


def steps(file: MetricsFile, start: int = 0) -> list[int]:
    return [entry.step for entry in file.read(start)[0]]


@pytest.fixture
def file(tmp_path: Path) -> MetricsFile:
    return MetricsFile(tmp_path / "storage" / METRICS)


def test_what_is_appended_is_read_again_in_order(file: MetricsFile) -> None:
    before = int(time.time() * 1000)
    file.append(10, {"loss": 0.1, "learning_rate": 1e-17})
    file.append(20, {"loss": math.nan})
    entries, end = file.read(0)
    assert [(e.key, e.step) for e in entries] == [("loss", 10), ("learning_rate", 10), ("loss", 20)]
    assert [e.value for e in entries[:2]] == [0.1, 1e-17]
    assert math.isnan(entries[2].value)
    assert before <= entries[0].timestamp <= entries[2].timestamp <= time.time() * 1000
    assert end == file.path.stat().st_size
    assert [e.timestamp for e in file.entries()] == [e.timestamp for e in entries]


def test_a_file_that_is_not_there_yet(file: MetricsFile) -> None:
    assert file.last_step() == 0
    assert file.read(0) == ([], 0)
    with pytest.raises(MetricsFileError, match=rf"{file.path}: missing"):
        file.entries()


def test_only_what_is_new_is_read(file: MetricsFile) -> None:
    file.append(10, {"loss": 0.1})
    _, end = file.read(0)
    assert file.read(end) == ([], end)
    file.append(20, {"loss": 0.2})
    assert steps(file, end) == [20]
    assert file.last_step() == 20


@pytest.mark.parametrize("kept", [0, 1, 20, -1])
def test_a_line_that_a_killed_process_left_unfinished_is_dropped(file: MetricsFile, kept: int) -> None:
    for step in (10, 20, 30):
        file.append(step, {"loss": 0.1})
    lines = file.path.read_bytes().splitlines(keepends=True)
    file.path.write_bytes(b"".join(lines[:2]) + lines[2][:kept])
    assert steps(file) == [10, 20]
    assert file.last_step() == 20
    file.append(30, {"loss": 0.3})
    assert steps(file) == [10, 20, 30]


def test_an_unfinished_line_alone(file: MetricsFile) -> None:
    file.append(10, {"loss": 0.1})
    file.path.write_bytes(file.path.read_bytes()[:5])
    file.append(20, {"loss": 0.3})
    assert steps(file) == [20]


@pytest.mark.parametrize("damage", ["no JSON", "[]", '{"step": 10}'])
def test_a_damaged_line_is_named(file: MetricsFile, damage: str) -> None:
    file.append(10, {"loss": 0.1})
    size = file.path.stat().st_size
    with file.path.open("a") as stream:
        stream.write(damage + "\n")
    with pytest.raises(MetricsFileError, match=rf"{file.path}: the line at byte {size} is damaged; delete it"):
        steps(file)


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "storage").write_text("a file where the folder should be")
    with pytest.raises(MetricsFileError, match=r"storage/metrics\.jsonl: .*free some space and run `dvc repro` again"):
        MetricsFile(tmp_path / "storage" / METRICS).append(10, {"loss": 0.1})


def test_a_lost_file_is_restored(file: MetricsFile) -> None:
    # As MLflow gives them: metric by metric.
    logged = [
        MetricEntry("loss", 0.5, 1000, 10),
        MetricEntry("loss", 1 / 3, 2000, 20),
        MetricEntry("rate", math.inf, 1000, 10),
    ]
    file.restore(logged)
    assert [json.loads(line) for line in file.path.read_text().splitlines()] == [
        {"step": 10, "time": 1000, "metrics": {"loss": 0.5, "rate": math.inf}},
        {"step": 20, "time": 2000, "metrics": {"loss": 1 / 3}},
    ]
    assert sorted(file.entries()) == sorted(logged)
    file.append(30, {"loss": 0.25})
    assert steps(file) == [10, 10, 20, 30]
    file.restore([])
    assert file.entries() == []
