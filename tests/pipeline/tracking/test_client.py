"""Calls of MLflow: what fails is tried again, and named if it fails for good."""

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE
from sqlalchemy.exc import OperationalError

from pipeline.tracking.client import Tracker, TrackingError
from pipeline.tracking.runs import RunRecord, log_run
from pipeline.training.metrics_file import MetricEntry, now

TIMES = 1_700_000_000_000, 1_700_000_060_000


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One database for all tests: making its tables takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture
def tracker(uri: str, tmp_path: Path) -> Tracker:
    """An experiment of the test's own."""
    return Tracker(uri, f"experiment-{uuid4()}", tmp_path / "artifacts")


@pytest.fixture
def client(uri: str) -> MlflowClient:
    return MlflowClient(uri)


def start(tracker: Tracker, key: str, parameters: dict[str, str] | None = None, **changes: Any) -> str:
    """A training under way."""
    return log_run(tracker, RunRecord(key, "my run", parameters or {}, {}, TIMES[0], **changes))


def log(tracker: Tracker, run_id: str, values: Iterable[tuple[str, float, int]]) -> None:
    """Logs (name, value, step) triples."""
    tracker.send_metrics(run_id, [MetricEntry(name, value, now(), step) for name, value, step in values])


def test_an_error_says_what_is_wrong_and_not_what_programmers_are_advised(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As SQLAlchemy words it.
    said = (
        "(raised as a result of Query-invoked autoflush; consider using a session.no_autoflush block)\n"
        "(sqlite3.OperationalError) attempt to write a readonly database\n[SQL: INSERT INTO tags]"
    )

    def fail(*arguments: Any, **keywords: Any) -> None:
        raise MlflowException(said)

    monkeypatch.setattr(MlflowClient, "create_run", fail)
    with pytest.raises(TrackingError, match=r"my run: \(sqlite3.OperationalError\) attempt .* readonly database$"):
        start(tracker.with_patience(0), "no such key")


# Metrics


def test_history_is_in_order(tracker: Tracker) -> None:
    run_id = start(tracker, "key")
    log(tracker, run_id, [("loss", 0.5, 30), ("loss", 2.0, 10), ("other", 9.0, 99)])
    log(tracker, run_id, [("loss", 1.0, 20)])
    assert tracker.history(run_id, "loss") == [(10, 2.0), (20, 1.0), (30, 0.5)]
    assert tracker.history(run_id, "nothing") == []


def test_more_metrics_than_one_request_takes(tracker: Tracker) -> None:
    run_id = start(tracker, "key")
    log(tracker, run_id, (("loss", float(step), step) for step in range(2500)))
    assert tracker.history(run_id, "loss") == [(step, float(step)) for step in range(2500)]


ROUNDS = 15
WORKER = f"""
import sys
from pathlib import Path
from pipeline.tracking.client import Tracker
from pipeline.training.metrics_file import MetricEntry, now

uri, experiment, run_id, ready = sys.argv[1:]
tracker = Tracker(uri, experiment)
Path(ready).touch()
for i in range({ROUNDS}):
    values = [("loss", float(i), 2 * i), ("loss_theirs", float(i), i)]
    tracker.send_metrics(run_id, [MetricEntry(key, value, now(), step) for key, value, step in values])
"""


def test_two_processes_at_once_lose_nothing(tracker: Tracker, tmp_path: Path, repository: Path) -> None:
    run_id = start(tracker, "key")
    ready = tmp_path / "ready"
    other = subprocess.Popen(
        [sys.executable, "-c", WORKER, tracker.uri, tracker.experiment, run_id, str(ready)],
        cwd=repository,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not ready.exists() and other.poll() is None:
        time.sleep(0.01)
    for i in range(ROUNDS):
        log(tracker, run_id, [("loss", float(i), 2 * i + 1), ("loss_ours", float(i), i)])
    _, errors = other.communicate()
    assert other.returncode == 0, errors
    assert tracker.history(run_id, "loss") == [(step, float(step // 2)) for step in range(2 * ROUNDS)]
    for name in ("loss_theirs", "loss_ours"):
        assert tracker.history(run_id, name) == [(i, float(i)) for i in range(ROUNDS)]


def test_an_entry_that_is_sent_twice_is_there_once(tracker: Tracker) -> None:
    run_id = start(tracker, "key")
    entries = [MetricEntry("loss", math.nan if step == 3 else step / 7, 1000 + step, step) for step in range(6)]
    tracker.send_metrics(run_id, entries[:4])
    tracker.send_metrics(run_id, entries)
    assert [step for step, _ in tracker.history(run_id, "loss")] == list(range(6))


# What can go wrong


def flaky(monkeypatch: pytest.MonkeyPatch, method: str, failures: int, error: Exception, late: bool) -> list[str]:
    """Makes the first calls of a method fail, before they do anything or after. The list grows with every call."""
    real, calls = getattr(MlflowClient, method), []

    def call(*args: Any, **kwargs: Any) -> Any:
        calls.append(method)
        failing = len(calls) <= failures
        result = None if failing and not late else real(*args, **kwargs)
        if failing:
            raise error
        return result

    monkeypatch.setattr(MlflowClient, method, call)
    return calls


LOCKED = MlflowException("(sqlite3.OperationalError) database is locked", TEMPORARILY_UNAVAILABLE)
NO_ANSWER = MlflowException("API request failed with exception")


@pytest.mark.parametrize("error", [LOCKED, NO_ANSWER, OperationalError("SELECT", {}, Exception("database is locked"))])
@pytest.mark.parametrize("late", [False, True])
def test_what_fails_for_the_moment_is_tried_again(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch, error: Exception, late: bool
) -> None:
    run_id = start(tracker, "key")
    calls = flaky(monkeypatch, "log_batch", 3, error, late)
    log(tracker, run_id, [("loss", 1.0, 1)])
    assert len(calls) == 4
    assert tracker.history(run_id, "loss") == [(1, 1.0)]


@pytest.mark.parametrize("method", ["search_runs", "create_run", "log_batch"])
@pytest.mark.parametrize("late", [False, True])
def test_a_start_that_is_tried_again_makes_one_run(
    tracker: Tracker, client: MlflowClient, monkeypatch: pytest.MonkeyPatch, method: str, late: bool
) -> None:
    flaky(monkeypatch, method, 2, NO_ANSWER, late)
    run_id = start(tracker, "key", {"seed": "3"})
    assert client.get_run(run_id).data.params == {"seed": "3"}
    assert len(client.search_runs([client.get_experiment_by_name(tracker.experiment).experiment_id])) == 1


def test_parameters_that_an_interrupted_start_left_out_are_logged_by_the_next(
    tracker: Tracker, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(TrackingError):
        flaky(patch, "log_batch", 99, NO_ANSWER, late=False)
        start(tracker.with_patience(0), "key", {"seed": "3"})
    assert client.get_run(start(tracker, "key", {"seed": "3"})).data.params == {"seed": "3"}


def test_patience_has_an_end(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = start(tracker, "key")
    calls = flaky(monkeypatch, "log_batch", 99, LOCKED, late=False)
    with pytest.raises(TrackingError, match=rf"{run_id}: .*database is locked$"):
        log(tracker.with_patience(0.5), run_id, [("loss", 1.0, 1)])
    assert 3 <= len(calls) < 99


def test_what_fails_for_good_is_not_tried_again(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = flaky(monkeypatch, "log_batch", 0, LOCKED, late=False)
    with pytest.raises(TrackingError, match=NOBODY):
        log(tracker, NOBODY, [("loss", 1.0, 1)])
    assert len(calls) == 1


def test_waiting_is_said(tracker: Tracker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("pipeline.tracking.client.SILENT_SECONDS", 0.1)
    flaky(monkeypatch, "set_terminated", 4, NO_ANSWER, late=False)
    tracker.finish(start(tracker, "key"), "FINISHED")
    said = capsys.readouterr().out
    assert said.count("waiting up to 30 s") == said.count(f"MLflow at {tracker.uri} answers again") == 1


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "http://nowhere.invalid:5000"])
def test_a_server_that_does_not_answer_is_named(address: str) -> None:
    with pytest.raises(TrackingError) as caught:
        Tracker(address, "experiment", patience=0.2)
    assert address in str(caught.value)
    assert "MLFLOW_TRACKING_URI" in str(caught.value)


def test_a_database_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("this is no database\n" * 100)
    address = f"sqlite:///{tmp_path / 'mlflow.db'}"
    with pytest.raises(TrackingError) as caught:
        Tracker(address, "experiment", patience=0.2)
    assert address in str(caught.value)


def test_an_address_that_is_none_is_named() -> None:
    with pytest.raises(TrackingError, match="carrier-pigeon://loft"):
        Tracker("carrier-pigeon://loft", "experiment")


NOBODY = "0123456789abcdef0123456789abcdef"
CALLS: dict[str, Callable[[Tracker], Any]] = {
    "get": lambda t: t.get(NOBODY),
    "log_metrics": lambda t: log(t, NOBODY, [("loss", 1.0, 1)]),
    "entries": lambda t: t.entries(NOBODY),
    "delete": lambda t: t.delete(NOBODY),
    "finish": lambda t: t.finish(NOBODY, "FINISHED"),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_an_unknown_run_is_named(tracker: Tracker, uri: str, call: Callable[[Tracker], Any]) -> None:
    with pytest.raises(TrackingError) as caught:
        call(tracker)
    assert NOBODY in str(caught.value)
    assert uri in str(caught.value)


def test_ctrl_c_in_the_middle_of_a_write_locks_nobody_out(tracker: Tracker) -> None:
    """MLflow leaves a transaction open that an interrupt tears apart: its database is locked for all others then."""
    run_id = start(tracker, "key")
    before = {
        signal.SIGALRM: signal.signal(signal.SIGALRM, lambda number, frame: os.kill(os.getpid(), signal.SIGINT)),
        signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler),
    }
    try:
        for attempt in range(10):
            try:
                # Again after a second: Python drops an interrupt that hits a finalizer.
                signal.setitimer(signal.ITIMER_REAL, 0.01 + 0.003 * attempt, 1)
                for step in range(1000):
                    log(tracker, run_id, [(f"metric {number}", 1.0, step) for number in range(20)])
            except KeyboardInterrupt:
                signal.setitimer(signal.ITIMER_REAL, 0)
                # Here, as it is done for real: the traceback still holds on to what was torn apart.
                tracker.with_patience(1).finish(run_id, "KILLED")
            else:
                raise AssertionError("never interrupted")
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def test_ctrl_c_in_a_write_that_fails_is_not_forgotten(tracker: Tracker) -> None:
    """Another process holds the database just then: the write would be tried again, as if nothing had happened."""
    tries: list[int] = []

    def interrupted_and_refused() -> None:
        tries.append(1)
        os.kill(os.getpid(), signal.SIGINT)
        raise OperationalError("COMMIT", {}, Exception("database is locked"))

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            tracker._try(interrupted_and_refused)
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(tries) == 1
