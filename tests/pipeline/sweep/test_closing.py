"""The end of a trial in MLflow."""

from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from pipeline.sweep.records import Rung, TrialRecord, TrialRecords
from pipeline.sweep.training import finish_trial
from pipeline.tracking.client import Tracker, TrackingError
from pipeline.tracking.runs import RunRecord, log_run
from pipeline.training.metrics_file import MetricEntry

STARTED = 1_700_000_000_000


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    return Tracker(f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}", "trials")


def interrupted(*arguments: object, **keywords: object) -> None:
    raise MlflowException("killed", INVALID_PARAMETER_VALUE)


def test_a_trial_that_was_stopped_early_is_closed_once(
    tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = log_run(tracker, RunRecord("stopped", "trial", {"seed": "0"}, {"kind": "trial"}, STARTED))
    tracker.send_metrics(run_id, [MetricEntry("AP", 1.0, STARTED + 10, 5), MetricEntry("AP", 2.0, STARTED + 20, 10)])
    records = TrialRecords(tmp_path)
    record = TrialRecord({"num_points": 4}, run_id, "running", [Rung(10, {"AP": 2.0})], seconds=0.5, multiply_adds=7)
    records.write(record)
    (records.trial_folder(record.point) / "checkpoints").mkdir()
    with monkeypatch.context() as broken, pytest.raises(TrackingError):
        broken.setattr(MlflowClient, "set_terminated", interrupted)
        finish_trial(record, records, tracker)
    for _ in range(2):
        finish_trial(record, records, tracker)
    found = records.read(record.point)
    assert found is not None
    assert found.status == "stopped"
    assert not (records.trial_folder(record.point) / "checkpoints").exists()
    run = tracker.get(run_id)
    assert (run.info.status, run.info.start_time, run.info.end_time) == ("FINISHED", STARTED, STARTED + 20)
    assert (run.data.tags["trial_status"], run.data.tags["kind"]) == ("stopped", "trial")
    assert [tracker.history(run_id, name) for name in ("seconds", "multiply_adds")] == [[(0, 0.5)], [(0, 7.0)]]
    assert tracker.history(run_id, "AP") == [(5, 1.0), (10, 2.0)]


def test_a_setting_that_is_only_evaluated_has_its_metrics_from_its_record(tracker: Tracker, tmp_path: Path) -> None:
    run_id = log_run(tracker, RunRecord("evaluated", "trial", {}, {}, STARTED))
    record = TrialRecord({"num_points": 4}, run_id, "finished", [Rung(0, {"AP": 2.0})], seconds=0.5)
    finish_trial(record, TrialRecords(tmp_path), tracker)
    run = tracker.get(run_id)
    assert run.data.metrics == {"AP": 2.0, "seconds": 0.5}
    assert (run.info.status, run.data.tags["trial_status"]) == ("FINISHED", "finished")
