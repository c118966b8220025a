"""System metrics: those of MLflow's own monitor, only where they are wanted."""

import time
from pathlib import Path

from pipeline.tracking.client import Tracker
from pipeline.tracking.runs import RunRecord, log_run
from pipeline.tracking.system import SYSTEM, SystemMetrics


def test_the_machine_is_measured_where_that_is_wanted(tmp_path: Path) -> None:
    tracker = Tracker(f"sqlite:///{tmp_path / 'mlflow.db'}", "experiment", tmp_path / "artifacts")
    run_id = log_run(tracker, RunRecord("key", "my run", {}, {}, 1))
    with SystemMetrics(tracker.uri, run_id, None) as nothing:
        nothing.start()
    assert tracker.get(run_id).data.metrics == {}
    with SystemMetrics(tracker.uri, run_id, 0.05) as machine:
        machine.start()
        machine.start()  # at every update
        end = time.monotonic() + 60
        while f"{SYSTEM}cpu_utilization_percentage" not in (found := tracker.get(run_id).data.metrics):
            assert time.monotonic() < end, "nothing was measured"
            time.sleep(0.05)
    assert all(name.startswith(SYSTEM) for name in found)
