"""What a training logs."""

from pathlib import Path

import pytest

from pipeline.training.loop import Update
from pipeline.training.metrics_file import MetricsFile
from pipeline.training.run_log import RunLog


def update(number: int) -> Update:
    return Update(number, {"loss_mask": 1 / number, "loss_box": 2.0}, 0.01, float(number), 0.05, (7,))


@pytest.fixture
def file(tmp_path: Path) -> MetricsFile:
    return MetricsFile(tmp_path / "metrics.jsonl")


def test_means_of_every_ten_updates_and_of_the_rest(file: MetricsFile) -> None:
    notified: list[int] = []
    log = RunLog(file, lambda: notified.append(file.last_step()))
    log.started(0, workers=2, passes=4)
    for number in range(1, 14):
        log.add(update(number))
    log.flush()
    log.flush()
    assert notified == [10, 13]
    rows: dict[int, dict[str, float]] = {}
    for entry in file.entries():
        rows.setdefault(entry.step, {})[entry.key] = entry.value
    mean = sum(1 / number for number in range(11, 14)) / 3
    assert list(rows) == [0, 10, 13]
    assert rows[0] == {"workers": 2, "passes": 4}
    assert rows[13] == pytest.approx({
        "loss_mask": mean,
        "loss_box": 2.0,
        "loss": mean + 2.0,
        "learning_rate": 0.01,
        "gradient_norm": 12.0,
        "updates_per_second": 20.0,
    })  # fmt: skip
    assert log.last_losses == pytest.approx({"loss_mask": mean, "loss_box": 2.0})


def test_a_resumed_training_does_not_log_a_step_twice(file: MetricsFile) -> None:
    for first, last in ((1, 50), (31, 100)):
        log = RunLog(file, lambda: None)
        for number in range(first, last + 1):
            log.add(update(number))
    assert [entry.step for entry in file.entries() if entry.key == "loss"] == list(range(10, 101, 10))
