import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, TEMPORARILY_UNAVAILABLE
from sqlalchemy.exc import OperationalError

from pipeline.config.evaluations import RenderingConfig
from pipeline.config.experiments import RunConfig
from pipeline.config.project import Project
from pipeline.tracking.client import KEY_TAG, Tracker, TrackingError, code_version, run_parameters
from pipeline.tracking.store import RELOGGED_TAG, tracking_uri

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


@pytest.fixture(scope="module")
def paper_runs(repository: Path) -> dict[str, RunConfig]:
    project = Project(repository)
    params = project.select("paper", "data")
    return {name: project.run("paper", name, run)[0] for name, run in params.runs.items()}


# Starting and resuming


def test_a_new_run(tracker: Tracker, client: MlflowClient) -> None:
    run_id = tracker.start("key", "my run", {"seed": "3"}, {"kind": "training"})
    run = client.get_run(run_id)
    assert run.info.status == "RUNNING"
    assert run.info.run_name == "my run"
    assert run.data.params == {"seed": "3"}
    assert run.data.tags["kind"] == "training"
    assert run.data.tags["pointrend.key"] == "key"


@pytest.mark.parametrize("status", [None, "FAILED", "KILLED"])
def test_an_unfinished_run_is_resumed(tracker: Tracker, client: MlflowClient, status: str | None) -> None:
    first = tracker.start("key", "my run", {"seed": "3"}, {})
    if status is not None:
        tracker.finish(first, status)
    assert tracker.start("key", "my run", {"seed": "3"}, {}) == first
    assert client.get_run(first).info.status == "RUNNING"
    assert len(client.search_runs([client.get_experiment_by_name(tracker.experiment).experiment_id])) == 1


def test_a_finished_run_is_not_resumed(tracker: Tracker, client: MlflowClient) -> None:
    first = tracker.start("key", "my run", {}, {})
    tracker.finish(first, "FINISHED")
    second = tracker.start("key", "my run", {}, {})
    assert second != first
    assert client.get_run(first).info.status == "FINISHED"
    assert tracker.start("key", "my run", {}, {}) == second


def test_runs_of_other_keys_and_experiments_are_not_resumed(tracker: Tracker, uri: str) -> None:
    first = tracker.start("key", "my run", {}, {})
    assert tracker.start("other", "my run", {}, {}) != first
    assert Tracker(uri, f"experiment-{uuid4()}").start("key", "my run", {}, {}) != first


def test_an_experiment_is_made_once(tracker: Tracker, uri: str) -> None:
    first = tracker.start("key", "my run", {}, {})
    assert Tracker(uri, tracker.experiment).start("key", "my run", {}, {}) == first


def test_a_run_s_configuration_is_kept(tracker: Tracker, tmp_path: Path) -> None:
    run_id = tracker.start("key", "my run", {}, {})
    tracker.log_config(run_id, {"b": [1, 2], "a": {"c": None}})
    (file,) = (tmp_path / "artifacts").rglob("config.json")
    assert run_id in file.parts
    assert json.loads(file.read_text()) == {"a": {"c": None}, "b": [1, 2]}


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
        tracker.with_patience(0).start("no such key", "my run", {}, {})


# Parameters


def test_the_parameters_of_pointrend(paper_runs: dict[str, RunConfig]) -> None:
    assert run_parameters(paper_runs["coco_pointrend_r50-2"]) == {
        "dataset": "coco2017",
        "head": "PointRend",
        "backbone": "r50_fpn_coco",
        "seed": "2",
        "batch_size": "16",
        "updates": "90000",
        "learning_rate": "0.02",
        "precision": "float32",
        "norm": "frozen_batch",
        "train_size": "640-800",
        "test_size": "800",
        "sampling": "biased",
        "train_points": "196",
        "oversample_ratio": "3",
        "importance_sample_ratio": "0.75",
        "point_layers": "3",
        "point_channels": "256",
    }


def test_parameters_of_points_are_of_pointrend_alone(paper_runs: dict[str, RunConfig]) -> None:
    point, conv = (run_parameters(paper_runs[f"coco_{head}_r50-0"]) for head in ("pointrend", "4xconv"))
    of_points = ["sampling", "train_points", "oversample_ratio", "importance_sample_ratio"]
    of_points += ["point_layers", "point_channels"]
    assert list(point) == [*conv, *of_points]
    assert {key for key in conv if point[key] != conv[key]} == {"head"}
    assert conv["head"] == "4xconv"


def test_a_regular_grid_has_no_k_and_beta(paper_runs: dict[str, RunConfig]) -> None:
    grid = run_parameters(paper_runs["coco_pointrend_r50_grid-0"])
    assert (grid["sampling"], grid["train_points"]) == ("grid", "196")
    assert grid.keys().isdisjoint(("oversample_ratio", "importance_sample_ratio"))


def test_one_training_size(repository: Path) -> None:
    project = Project(repository)
    params = project.select("nuclei", "data")
    run, _ = project.run("nuclei", "coco_4xconv_r50-0", params.runs["coco_4xconv_r50-0"])
    assert run_parameters(run)["train_size"] == "256"


# Evaluations


def test_an_evaluation_is_nested_and_has_its_training_s_parameters(tracker: Tracker, client: MlflowClient) -> None:
    parent = tracker.start("key", "my run", {"seed": "3", "head": "PointRend"}, {})
    setting = RenderingConfig(resolution=224, num_points=784)
    child = tracker.add_evaluation(
        parent, "my run 224x224", setting, {"AP": 36.3, "AP50": 57.1}, {"kind": "evaluation"}, TIMES
    )
    run = client.get_run(child)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "my run 224x224"
    assert run.data.tags["mlflow.parentRunId"] == parent
    assert run.data.tags["kind"] == "evaluation"
    assert run.data.params == {"seed": "3", "head": "PointRend", "resolution": "224", "subdivision_points": "784"}
    assert run.data.metrics == {"AP": 36.3, "AP50": 57.1}
    assert tracker.start("key", "my run", {}, {}) == parent


def test_an_evaluation_is_there_once_however_often_it_is_added(
    tracker: Tracker, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent, other = (tracker.start(key, "my run", {"seed": "3"}, {}) for key in ("key", "other"))
    metrics = {"AP": 36.3, "AP50": math.nan}

    def add(parent: str = parent, setting: int = 28, ap: float = 36.3) -> str:
        values = {**metrics, "AP": ap}
        return tracker.add_evaluation(parent, "28x28", RenderingConfig(resolution=setting), values, {}, TIMES)

    # Left half-way: the run is there, its metrics are not.
    with monkeypatch.context() as broken:
        flaky(broken, "set_terminated", 1, MlflowException("no", INVALID_PARAMETER_VALUE), late=False)
        with pytest.raises(TrackingError):
            add()
    first = add()
    assert add() == first
    run = client.get_run(first)
    assert (run.info.status, run.info.start_time, run.info.end_time) == ("FINISHED", *TIMES)
    assert [entry.timestamp for entry in client.get_metric_history(first, "AP")] == [TIMES[1]]
    assert len({first, add(other), add(setting=56), add(ap=36.4)}) == 4, (
        "another training, setting or result is another"
    )
    experiment = client.get_experiment_by_name(tracker.experiment).experiment_id
    assert len(client.search_runs([experiment])) == 2 + 4


def test_a_run_that_is_being_logged_again_is_not_resumed(
    tracker: Tracker, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = {KEY_TAG: "key", RELOGGED_TAG: NOBODY}

    def log_again() -> str:
        return tracker.record(identity, "my run", {"seed": "3"}, {}, [], TIMES)

    with monkeypatch.context() as broken:
        flaky(broken, "set_terminated", 1, MlflowException("no", INVALID_PARAMETER_VALUE), late=False)
        with pytest.raises(TrackingError):
            log_again()
    training = tracker.start("key", "my run", {"seed": "3"}, {})
    again = log_again()
    assert again != training
    assert [client.get_run(run_id).info.status for run_id in (training, again)] == ["RUNNING", "FINISHED"]
    assert client.get_run(again).data.tags[RELOGGED_TAG] == NOBODY


def test_runs_are_found_unless_they_are_deleted(tracker: Tracker) -> None:
    run_id = tracker.start("key", "my run", {}, {"kind": "training"})
    assert tracker.find(NOBODY) is None
    found = tracker.find(run_id)
    assert found is not None
    assert found.info.run_id == run_id
    assert [run.info.run_id for run in tracker.runs({"kind": "training"})] == [run_id]
    tracker.delete(run_id)
    assert tracker.find(run_id) is None
    assert tracker.runs({"kind": "training"}) == []


def test_an_experiment_that_was_deleted_is_restored(tracker: Tracker, client: MlflowClient, uri: str) -> None:
    name = f"{tracker.experiment}-table1"
    assert not tracker.has_experiment(name)
    run_id = tracker.of_experiment(name).start("key", "my run", {}, {})
    assert tracker.has_experiment(name)
    assert tracker.runs({}) == [], "the other experiment has none"
    client.delete_experiment(client.get_experiment_by_name(name).experiment_id)
    assert not tracker.has_experiment(name)
    assert Tracker(uri, name).start("key", "my run", {}, {}) == run_id


def test_an_evaluation_without_subdivision_has_the_same_keys(tracker: Tracker) -> None:
    parent = tracker.start("key", "my run", {}, {})
    child = tracker.add_evaluation(parent, "28x28", RenderingConfig(resolution=28), {"AP": 1.0}, {}, TIMES)
    assert tracker.get(child).data.params == {"resolution": "28", "subdivision_points": "-"}


def test_a_metric_that_is_not_a_number_survives(tracker: Tracker) -> None:
    parent = tracker.start("key", "my run", {}, {})
    metrics = {"AP": 36.3, "APs": math.nan}
    found = tracker.get(
        tracker.add_evaluation(parent, "28x28", RenderingConfig(resolution=28), metrics, {}, TIMES)
    ).data.metrics
    assert found["AP"] == 36.3
    assert math.isnan(found["APs"])


# Metrics


def test_history_is_in_order(tracker: Tracker) -> None:
    run_id = tracker.start("key", "my run", {}, {})
    tracker.log_metrics(run_id, [("loss", 0.5, 30), ("loss", 2.0, 10), ("other", 9.0, 99)])
    tracker.log_metrics(run_id, [("loss", 1.0, 20)])
    assert tracker.history(run_id, "loss") == [(10, 2.0), (20, 1.0), (30, 0.5)]
    assert tracker.history(run_id, "nothing") == []


def test_the_last_step(tracker: Tracker) -> None:
    run_id = tracker.start("key", "my run", {}, {})
    assert tracker.last_step(run_id, "loss") == 0
    tracker.log_metrics(run_id, [("loss", 0.5, 30), ("loss", 2.0, 10), ("other", 9.0, 99)])
    assert tracker.last_step(run_id, "loss") == 30


def test_more_metrics_than_one_request_takes(tracker: Tracker) -> None:
    run_id = tracker.start("key", "my run", {}, {})
    tracker.log_metrics(run_id, (("loss", float(step), step) for step in range(2500)))
    assert tracker.history(run_id, "loss") == [(step, float(step)) for step in range(2500)]


def test_tags_are_set(tracker: Tracker) -> None:
    run_id = tracker.start("key", "my run", {}, {"a": "1"})
    tracker.set_tags(run_id, {"a": "2", "b": "3"})
    tags = tracker.get(run_id).data.tags
    assert (tags["a"], tags["b"]) == ("2", "3")


ROUNDS = 15
WORKER = f"""
import sys
from pathlib import Path
from pipeline.tracking.client import Tracker

uri, experiment, run_id, ready = sys.argv[1:]
tracker = Tracker(uri, experiment)
Path(ready).touch()
for i in range({ROUNDS}):
    tracker.log_metrics(run_id, [("loss", float(i), 2 * i), ("loss_theirs", float(i), i)])
"""


def test_two_processes_at_once_lose_nothing(tracker: Tracker, tmp_path: Path, repository: Path) -> None:
    run_id = tracker.start("key", "my run", {}, {})
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
        tracker.log_metrics(run_id, [("loss", float(i), 2 * i + 1), ("loss_ours", float(i), i)])
    _, errors = other.communicate()
    assert other.returncode == 0, errors
    assert tracker.history(run_id, "loss") == [(step, float(step // 2)) for step in range(2 * ROUNDS)]
    for name in ("loss_theirs", "loss_ours"):
        assert tracker.history(run_id, name) == [(i, float(i)) for i in range(ROUNDS)]


def test_an_entry_that_is_sent_twice_is_there_once(tracker: Tracker) -> None:
    run_id = tracker.start("key", "my run", {}, {})
    entries = [Metric("loss", math.nan if step == 3 else step / 7, 1000 + step, step) for step in range(6)]
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
    run_id = tracker.start("key", "my run", {}, {})
    calls = flaky(monkeypatch, "log_batch", 3, error, late)
    tracker.log_metrics(run_id, [("loss", 1.0, 1)])
    assert len(calls) == 4
    assert tracker.history(run_id, "loss") == [(1, 1.0)]


@pytest.mark.parametrize("method", ["search_runs", "create_run", "log_batch"])
@pytest.mark.parametrize("late", [False, True])
def test_a_start_that_is_tried_again_makes_one_run(
    tracker: Tracker, client: MlflowClient, monkeypatch: pytest.MonkeyPatch, method: str, late: bool
) -> None:
    flaky(monkeypatch, method, 2, NO_ANSWER, late)
    run_id = tracker.start("key", "my run", {"seed": "3"}, {})
    assert client.get_run(run_id).data.params == {"seed": "3"}
    assert len(client.search_runs([client.get_experiment_by_name(tracker.experiment).experiment_id])) == 1


def test_parameters_that_an_interrupted_start_left_out_are_logged_by_the_next(
    tracker: Tracker, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(TrackingError):
        flaky(patch, "log_batch", 99, NO_ANSWER, late=False)
        tracker.with_patience(0).start("key", "my run", {"seed": "3"}, {})
    assert client.get_run(tracker.start("key", "my run", {"seed": "3"}, {})).data.params == {"seed": "3"}


def test_patience_has_an_end(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = tracker.start("key", "my run", {}, {})
    calls = flaky(monkeypatch, "log_batch", 99, LOCKED, late=False)
    with pytest.raises(TrackingError, match=rf"{run_id}: .*database is locked$"):
        tracker.with_patience(0.5).log_metrics(run_id, [("loss", 1.0, 1)])
    assert 3 <= len(calls) < 99


def test_what_fails_for_good_is_not_tried_again(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = flaky(monkeypatch, "log_batch", 0, LOCKED, late=False)
    with pytest.raises(TrackingError, match=NOBODY):
        tracker.log_metrics(NOBODY, [("loss", 1.0, 1)])
    assert len(calls) == 1


def test_waiting_is_said(tracker: Tracker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("pipeline.tracking.client.SILENT_SECONDS", 0.1)
    flaky(monkeypatch, "set_terminated", 4, NO_ANSWER, late=False)
    tracker.finish(tracker.start("key", "my run", {}, {}), "FINISHED")
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
    "log_metrics": lambda t: t.log_metrics(NOBODY, [("loss", 1.0, 1)]),
    "set_tags": lambda t: t.set_tags(NOBODY, {"a": "b"}),
    "finish": lambda t: t.finish(NOBODY, "FINISHED"),
    "add_evaluation": lambda t: t.add_evaluation(
        NOBODY, "28x28", RenderingConfig(resolution=28), {"AP": 1.0}, {}, TIMES
    ),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_an_unknown_run_is_named(tracker: Tracker, uri: str, call: Callable[[Tracker], Any]) -> None:
    with pytest.raises(TrackingError) as caught:
        call(tracker)
    assert NOBODY in str(caught.value)
    assert uri in str(caught.value)


# Where things are


def test_the_tracking_uri(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri(tmp_path) == f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    assert tracking_uri(tmp_path) == f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert tracking_uri(tmp_path) == "http://mlflow:5000"


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_code_s_version(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    (tmp_path / "file").write_text("1")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "--quiet", "-m", "first")
    git(tmp_path, "tag", "-a", "v1", "-m", "a tag is no commit")
    commit = git(tmp_path, "rev-parse", "HEAD")[:12]
    assert code_version(tmp_path) == commit
    (tmp_path / "untracked").write_text("")
    assert code_version(tmp_path) == commit
    (tmp_path / "file").write_text("2")
    assert code_version(tmp_path) == f"{commit}-dirty"


def test_the_version_of_code_without_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert code_version(tmp_path) == "unknown"


def test_the_version_of_code_where_there_is_no_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert code_version(tmp_path) == "unknown"


def test_ctrl_c_in_the_middle_of_a_write_locks_nobody_out(tracker: Tracker) -> None:
    """MLflow leaves a transaction open that an interrupt tears apart: its database is locked for all others then."""
    run_id = tracker.start("key", "my run", {}, {})
    before = {
        signal.SIGALRM: signal.signal(signal.SIGALRM, lambda number, frame: os.kill(os.getpid(), signal.SIGINT)),
        signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler),
    }
    try:
        for attempt in range(10):
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.01 + 0.003 * attempt)
                for step in range(1000):
                    tracker.log_metrics(run_id, [(f"metric {number}", 1.0, step) for number in range(20)])
            except KeyboardInterrupt:
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
