"""log_run: every kind of run, new, interrupted or of a lost database, is there once."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from pipeline.config.evaluations import RenderingConfig
from pipeline.config.experiments import RunConfig
from pipeline.config.project import Project
from pipeline.evaluation.class_scores import ClassScores
from pipeline.tracking.client import KIND_TAG, Tracker, TrackingError
from pipeline.tracking.origin import origin_tags
from pipeline.tracking.runs import (
    KEY_TAG,
    RunRecord,
    experiment_run,
    log_evaluation,
    log_run,
    log_sweep,
    save_sweep_runs,
    send_missing,
)
from pipeline.tracking.store import RELOGGED_TAG
from pipeline.training.metrics_file import MetricEntry

TIMES = 1_700_000_000_000, 1_700_000_060_000


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One database for all tests: creating its tables takes seconds."""
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
    return log_run(tracker, replace(UNDER_WAY, key=key, parameters=parameters or {}, **changes))


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


NOTE = "mlflow.note.content"
NO_CLASSES = ClassScores("AP", {})
NOBODY = "0123456789abcdef0123456789abcdef"
UNDER_WAY = RunRecord("key", "my run", {}, {}, TIMES[0])
ENTRIES = [
    MetricEntry(key, math.nan if step == 3 else step / 7, TIMES[0] + step, step)
    for step in range(6)
    for key in ("loss", "learning_rate")
]
FINISHED = RunRecord(
    "key", "my run", {"seed": "3"}, {"kind": "training"}, *TIMES, metrics=ENTRIES, config={"a": None}, parent=NOBODY
)
KILLED = MlflowException("killed", INVALID_PARAMETER_VALUE)  # is not tried again


def count(tracker: Tracker) -> int:
    return len(tracker.runs({}))


def check_finished(tracker: Tracker, run_id: str, artifacts: Path) -> None:
    """Checks that a run is as :data:`FINISHED` says, with every entry once."""
    run = tracker.get(run_id)
    assert (run.info.run_name, run.info.status) == ("my run", "FINISHED")
    assert (run.info.start_time, run.info.end_time) == TIMES
    assert run.data.params == FINISHED.parameters
    assert (run.data.tags["kind"], run.data.tags[KEY_TAG]) == ("training", "key")
    assert run.data.tags["mlflow.parentRunId"] == NOBODY
    assert sorted(map(repr, tracker.entries(run_id))) == sorted(map(repr, ENTRIES))
    assert json.loads((artifacts / run_id / "artifacts" / "config.json").read_text()) == {"a": None}


@pytest.fixture(scope="module")
def config(repository: Path) -> RunConfig:
    project = Project(repository)
    selection = project.select("demo", "data")
    return project.run("demo", "coco_pointrend_r50-0", selection.runs["coco_pointrend_r50-0"])[0]


Evaluate = Callable[..., str]


@pytest.fixture
def evaluate(tracker: Tracker, config: RunConfig) -> Evaluate:
    """Logs an evaluation of 28x28 pixels in a training's MLflow run."""

    def evaluate(parent: str, resolution: int = 28, logged_as: str | None = None, **metrics: float) -> str:
        setting = RenderingConfig(resolution=resolution)
        return log_evaluation(config, "28x28", setting, metrics, NO_CLASSES, TIMES, parent, tracker, logged_as)

    return evaluate


# Starting and resuming


def test_a_new_run(tracker: Tracker, client: MlflowClient) -> None:
    run_id = start(tracker, "key", {"seed": "3"}, tags={"kind": "training"})
    run = client.get_run(run_id)
    assert run.info.status == "RUNNING"
    assert run.info.run_name == "my run"
    assert run.data.params == {"seed": "3"}
    assert run.data.tags["kind"] == "training"
    assert run.data.tags["pointrend.key"] == "key"


@pytest.mark.parametrize("status", [None, "FAILED", "KILLED"])
def test_an_unfinished_run_is_resumed(tracker: Tracker, client: MlflowClient, status: str | None) -> None:
    first = start(tracker, "key", {"seed": "3"})
    if status is not None:
        tracker.finish(first, status)
    assert start(tracker, "key", {"seed": "3"}) == first
    assert client.get_run(first).info.status == "RUNNING"
    assert len(client.search_runs([client.get_experiment_by_name(tracker.experiment).experiment_id])) == 1


def test_a_finished_run_is_not_resumed(tracker: Tracker, client: MlflowClient) -> None:
    first = start(tracker, "key")
    tracker.finish(first, "FINISHED")
    second = start(tracker, "key")
    assert second != first
    assert client.get_run(first).info.status == "FINISHED"
    assert start(tracker, "key") == second


def test_runs_of_other_keys_and_experiments_are_not_resumed(tracker: Tracker, uri: str) -> None:
    first = start(tracker, "key")
    assert start(tracker, "other") != first
    assert start(Tracker(uri, f"experiment-{uuid4()}"), "key") != first


def test_an_experiment_is_made_once(tracker: Tracker, uri: str) -> None:
    first = start(tracker, "key")
    assert start(Tracker(uri, tracker.experiment), "key") == first


def test_a_run_s_configuration_is_kept(tracker: Tracker, tmp_path: Path) -> None:
    run_id = start(tracker, "key", config={"b": [1, 2], "a": {"c": None}})
    (file,) = (tmp_path / "artifacts").rglob("config.json")
    assert run_id in file.parts
    assert json.loads(file.read_text()) == {"a": {"c": None}, "b": [1, 2]}


# All at once


def test_a_finished_run_is_logged_once(tracker: Tracker, tmp_path: Path) -> None:
    run_id = log_run(tracker, FINISHED)
    check_finished(tracker, run_id, tmp_path / "artifacts")
    assert log_run(tracker, FINISHED) == run_id
    assert count(tracker) == 1


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("method", ["search_runs", "create_run", "log_batch", "log_text", "set_terminated"])
def test_a_finished_run_that_was_left_half_way_is_completed(
    tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, late: bool
) -> None:
    with monkeypatch.context() as broken, pytest.raises(TrackingError):
        flaky(broken, method, 1, KILLED, late)
        log_run(tracker, FINISHED)
    check_finished(tracker, log_run(tracker, FINISHED), tmp_path / "artifacts")
    assert count(tracker) == 1


def test_only_what_is_missing_is_sent(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = start(tracker, "key")
    tracker.send_metrics(run_id, ENTRIES[:5])
    sent: list[MetricEntry] = []
    monkeypatch.setattr(Tracker, "send_metrics", lambda self, run_id, entries: sent.extend(entries))
    send_missing(tracker, run_id, ENTRIES)
    assert list(map(repr, sent)) == list(map(repr, ENTRIES[5:]))


def test_a_run_under_way_is_finished_with_what_its_record_has(
    tracker: Tracker, client: MlflowClient, tmp_path: Path
) -> None:
    run_id = log_run(tracker, replace(FINISHED, ended=None, metrics=ENTRIES[:4], tags={"kind": "?"}))
    assert client.get_run(run_id).info.status == "RUNNING"
    assert log_run(tracker, replace(FINISHED, run_id=run_id)) == run_id
    check_finished(tracker, run_id, tmp_path / "artifacts")
    assert RELOGGED_TAG not in client.get_run(run_id).data.tags


def test_a_run_whose_id_is_not_known_is_the_unfinished_one_of_its_key(tracker: Tracker) -> None:
    """A training that is complete, but whose process was killed before or after MLflow knew."""
    before = log_run(tracker, FINISHED)
    under_way = log_run(tracker, replace(FINISHED, ended=None))
    assert under_way != before
    assert [log_run(tracker, FINISHED), tracker.get(under_way).info.status] == [under_way, "FINISHED"]
    assert log_run(tracker, FINISHED) in (before, under_way)
    assert count(tracker) == 2


# A lost database. Runs that are deleted are as good as lost.


@pytest.mark.parametrize("ended", [TIMES[1], None])
def test_a_lost_run_is_logged_again_once(tracker: Tracker, tmp_path: Path, ended: int | None) -> None:
    """One that was finished, and one that was under way when it was lost."""
    lost = log_run(tracker, replace(FINISHED, ended=ended))
    tracker.delete(lost)
    record = replace(FINISHED, run_id=lost)
    again = log_run(tracker, record)
    assert again != lost
    check_finished(tracker, again, tmp_path / "artifacts")
    assert tracker.get(again).data.tags[RELOGGED_TAG] == lost
    assert log_run(tracker, record) == again
    assert count(tracker) == 1


def test_a_run_that_is_being_logged_again_is_not_resumed(
    tracker: Tracker, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = replace(FINISHED, run_id=NOBODY)
    with monkeypatch.context() as broken:
        flaky(broken, "set_terminated", 1, KILLED, late=False)
        with pytest.raises(TrackingError):
            log_run(tracker, record)
    training = start(tracker, "key", {"seed": "3"})
    again = log_run(tracker, record)
    assert again != training
    assert [client.get_run(run_id).info.status for run_id in (training, again)] == ["RUNNING", "FINISHED"]
    assert client.get_run(again).data.tags[RELOGGED_TAG] == NOBODY


def test_a_lost_training_that_was_done_twice_is_logged_twice(tracker: Tracker) -> None:
    """Two trainings of one key, the second after the weights of the first were lost."""
    records = [replace(FINISHED, run_id=run_id) for run_id in ("first", "second")]
    first, second = (log_run(tracker, record) for record in records)
    assert first != second
    assert [log_run(tracker, record) for record in records] == [first, second]


def test_a_lost_evaluation_is_logged_again_once(tracker: Tracker, evaluate: Evaluate) -> None:
    parent = start(tracker, "key", {"seed": "3"})
    lost = evaluate(parent, AP=36.3)
    tracker.delete(lost)
    again = evaluate(parent, logged_as=lost, AP=36.3)
    assert evaluate(parent, logged_as=lost, AP=36.3) == again != lost
    run = tracker.get(again)
    assert (run.data.tags[RELOGGED_TAG], run.data.tags["mlflow.parentRunId"]) == (lost, parent)
    assert len(tracker.history(parent, "AP_28x28")) == 1


def test_a_lost_sweep_is_logged_again_once(tracker: Tracker, tmp_path: Path) -> None:
    under_way = replace(FINISHED, key="sweep", parent=None, ended=None)
    sweep = log_run(tracker, under_way)
    of = replace(FINISHED, parent=sweep, tags=origin_tags("stages/run_sweep.py", "unknown"))
    trials = [log_run(tracker, replace(of, key=f"trial {n}", name=f"trial {n}")) for n in range(2)]
    tags = {"kind": "sweep", "best": "trial 1", **origin_tags("stages/run_sweep.py", "unknown")}
    ended = replace(under_way, run_id=sweep, ended=TIMES[1], tags=tags)
    save_sweep_runs(tmp_path, ended, trials, tracker)
    log_run(tracker, ended)
    log_sweep(tmp_path, tracker)
    assert {run.info.run_id for run in tracker.runs({})} == {sweep, *trials}, "nothing was lost"

    def content() -> list[Any]:
        runs = tracker.runs({})
        names = {run.info.run_id: run.info.run_name for run in runs}
        return sorted(
            repr((
                run.info.run_name,
                names.get(run.data.tags.get("mlflow.parentRunId", "")),
                (run.info.status, run.info.start_time, run.info.end_time),
                sorted(run.data.params.items()),
                sorted((key, run.data.tags.get(key)) for key in ("kind", "best", "mlflow.user", KEY_TAG)),
                sorted(tracker.entries(run.info.run_id), key=repr),
            ))
            for run in runs
        )  # fmt: skip

    before = content()
    for run_id in (sweep, *trials):
        tracker.delete(run_id)
    for _ in range(2):
        log_sweep(tmp_path, tracker)
        assert content() == before
    assert {run.data.tags[RELOGGED_TAG] for run in tracker.runs({})} == {sweep, *trials}


# Several seeds


def test_seeds_of_an_experiment_are_nested_in_one_run(tracker: Tracker, config: RunConfig) -> None:
    tags = {"seeds": "0, 1", **origin_tags("dvc repro train@a", "unknown")}
    assert experiment_run(tracker, config, {}) is None, "there is one seed"
    parent = experiment_run(tracker, config, tags)
    again = config.model_copy(update={"run": "coco_pointrend_r50-1", "seed": 1, "starts_from": "other-1"})
    assert experiment_run(tracker, again, tags) == parent is not None
    shorter = config.schedule.model_copy(update={"batch_size": config.schedule.batch_size * 2})
    assert experiment_run(tracker, config.model_copy(update={"schedule": shorter}), tags) != parent
    run = tracker.get(parent)
    assert (run.info.run_name, run.info.status) == ("coco_pointrend_r50", "FINISHED")
    assert "seed" not in run.data.params
    assert run.data.params["head"] == "PointRend"
    assert run.data.tags[NOTE] == "coco_pointrend_r50 with the seeds 0, 1."


# Evaluations


def test_an_evaluation_is_nested_and_has_its_training_s_parameters(
    tracker: Tracker, client: MlflowClient, config: RunConfig
) -> None:
    parent = start(tracker, "key", {"seed": "3", "head": "PointRend"})
    setting = RenderingConfig(resolution=224, num_points=784)
    child = log_evaluation(config, "224x224", setting, {"AP": 36.3, "AP50": 57.1}, NO_CLASSES, TIMES, parent, tracker)
    run = client.get_run(child)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "coco_pointrend_r50-0 224x224"
    assert run.data.tags["mlflow.parentRunId"] == parent
    assert run.data.tags["kind"] == "evaluation"
    assert run.data.params == {"seed": "3", "head": "PointRend", "resolution": "224", "subdivision_points": "784"}
    assert run.data.metrics == {"AP": 36.3, "AP50": 57.1}
    assert client.get_run(parent).data.metrics == {"AP_224x224": 36.3, "AP50_224x224": 57.1}
    assert start(tracker, "key") == parent


def test_an_evaluation_has_the_scores_of_each_class_and_its_training_s_origin(
    tracker: Tracker, client: MlflowClient, config: RunConfig
) -> None:
    parent = start(tracker, "key", tags={**origin_tags("dvc repro train@a", "0123456789ab-dirty"), NOTE: "Shapes."})
    classes = ClassScores("AP", {"traffic light": 12.5, "dog/cat (both)": 0.0}, {"traffic light": 15.0})
    setting = RenderingConfig(resolution=28)
    found = log_evaluation(config, "28x28", setting, {"AP": 6.25}, classes, TIMES, parent, tracker)
    run = client.get_run(found)
    by_class = {"AP_by_class/traffic light": 12.5, "AP_by_class/dog_cat _both_": 0.0}
    assert run.data.metrics == {"AP": 6.25, **by_class, "AP_star_by_class/traffic light": 15.0}
    assert client.get_run(parent).data.metrics == {"AP_28x28": 6.25}
    tags = run.data.tags
    assert tags["mlflow.source.name"] == "dvc repro evaluate@coco_pointrend_r50-0"
    assert (tags["mlflow.source.git.commit"], tags["mlflow.source.git.dirty"]) == ("0123456789ab", "true")
    assert tags["mlflow.user"] == client.get_run(parent).data.tags["mlflow.user"]
    assert tags[NOTE] == "Evaluation of coco_pointrend_r50-0 under its setting 28x28. Shapes."


def test_an_evaluation_is_there_once_however_often_it_is_added(
    tracker: Tracker, client: MlflowClient, monkeypatch: pytest.MonkeyPatch, evaluate: Evaluate
) -> None:
    parent, other = (start(tracker, key, {"seed": "3"}) for key in ("key", "other"))

    def add(parent: str = parent, setting: int = 28, ap: float = 36.3) -> str:
        return evaluate(parent, setting, AP=ap, AP50=math.nan)

    # Left half-way: the run is there, its metrics are not.
    with monkeypatch.context() as broken:
        flaky(broken, "set_terminated", 1, KILLED, late=False)
        with pytest.raises(TrackingError):
            add()
    first = add()
    assert add() == first
    run = client.get_run(first)
    assert (run.info.status, run.info.start_time, run.info.end_time) == ("FINISHED", *TIMES)
    assert [entry.timestamp for entry in client.get_metric_history(first, "AP")] == [TIMES[1]]
    assert [entry.timestamp for entry in client.get_metric_history(parent, "AP_28x28")] == [TIMES[1]]
    assert len({first, add(other), add(setting=56), add(ap=36.4)}) == 4, (
        "another training, setting or result is another"
    )
    assert count(tracker) == 2 + 4


def test_an_evaluation_of_an_unknown_run_is_refused(tracker: Tracker, evaluate: Evaluate) -> None:
    with pytest.raises(TrackingError, match=NOBODY):
        evaluate(NOBODY, AP=1.0)
    assert count(tracker) == 0


def test_an_evaluation_without_subdivision_has_no_parameter_of_it(tracker: Tracker, evaluate: Evaluate) -> None:
    child = evaluate(start(tracker, "key"), AP=1.0)
    assert tracker.get(child).data.params == {"resolution": "28"}


def test_a_metric_that_is_not_a_number_survives(tracker: Tracker, evaluate: Evaluate) -> None:
    found = tracker.get(evaluate(start(tracker, "key"), AP=36.3, APs=math.nan)).data.metrics
    assert found["AP"] == 36.3
    assert math.isnan(found["APs"])


# Finding


def test_runs_are_found_unless_they_are_deleted(tracker: Tracker) -> None:
    run_id = start(tracker, "key", tags={"kind": "training"})
    assert tracker.find(NOBODY) is None
    found = tracker.find(run_id)
    assert found is not None
    assert found.info.run_id == run_id
    assert [run.info.run_id for run in tracker.runs({"kind": "training"})] == [run_id]
    tracker.delete(run_id)
    assert tracker.find(run_id) is None
    assert tracker.runs({"kind": "training"}) == []


def test_mlflow_s_page_shows_experiments_as_trainings(tracker: Tracker, client: MlflowClient, uri: str) -> None:
    earlier, chosen = (f"experiment-{uuid4()}" for _ in range(2))
    client.create_experiment(earlier)
    client.create_experiment(chosen, tags={KIND_TAG: "automl"})
    kinds = [
        client.get_experiment(of.experiment_id).tags[KIND_TAG]
        for of in (tracker, Tracker(uri, earlier), Tracker(uri, chosen))
    ]
    assert kinds == ["custom_model_development", "custom_model_development", "automl"]


def test_an_experiment_that_was_deleted_is_restored(tracker: Tracker, client: MlflowClient, uri: str) -> None:
    name = f"{tracker.experiment}-table1"
    assert not tracker.has_experiment(name)
    run_id = start(tracker.of_experiment(name), "key")
    assert tracker.has_experiment(name)
    assert tracker.runs({}) == [], "the other experiment has none"
    client.delete_experiment(client.get_experiment_by_name(name).experiment_id)
    assert not tracker.has_experiment(name)
    assert start(Tracker(uri, name), "key") == run_id
