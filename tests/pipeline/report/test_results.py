import math
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from pipeline.config.evaluations import EvaluationConfig, RenderingConfig
from pipeline.config.experiments import RunConfig
from pipeline.config.parameters import run_parameters
from pipeline.config.project import Project
from pipeline.config.selection import Selection
from pipeline.evaluation.class_scores import ClassScores
from pipeline.evaluation.record import EvaluationRecord
from pipeline.report.results import Results, RunResult, read_results
from pipeline.stage import Outputs
from pipeline.tracking.client import Tracker, TrackingError
from pipeline.tracking.runs import KEY_TAG, RunRecord, log_evaluation, log_run, training_run
from pipeline.tracking.store import RELOGGED_TAG
from pipeline.training.metrics_file import MetricsFile
from pipeline.training.record import METRICS, RECORD, WEIGHTS, TrainingRecord, data_digest, training_key

CODE = "a hash of the code"
SETTINGS = EvaluationConfig(
    {"28x28": RenderingConfig(resolution=28, num_points=784), "224x224": RenderingConfig(resolution=224)}
)
#: More digits than a table shows, and, of MLflow's float64, all.
AP = 36.123456789012345
LOSSES = [(10, 2.5), (20, 1.0 / 3.0), (30, 0.125)]
RUNS = ["coco_4xconv_r50-0", "coco_pointrend_r50-0"]
PARENT = "mlflow.parentRunId"


class World:
    """Outputs of two runs, as the stages write them, and an MLflow database."""

    def __init__(self, root: Path, empty_database: Path, project: Project) -> None:
        self.root, self.empty_database = root, empty_database
        self.database = root / "mlflow.db"
        shutil.copy(empty_database, self.database)
        selected = project.select("demo", "data")
        runs = {
            name: selected.runs[name].model_copy(update={"starts_from": "data/shapes", "dataset": "shapes"})
            for name in RUNS
        }
        self.selection: Selection = selected.model_copy(update={"runs": runs})
        self.outputs = Outputs(root, "demo")
        self.configs: dict[str, RunConfig] = {}
        self.prepare("prepared")
        for name in RUNS:
            config, _ = project.run("demo", name, selected.runs[name])
            self.configure(config.model_copy(update={"starts_from": None}))
            self.train(name)
            self.evaluate(name)

    @property
    def tracker(self) -> Tracker:
        return Tracker(f"sqlite:///{self.database}", "pointrend-demo", self.root / "mlartifacts")

    def prepare(self, data: str) -> None:
        folder = self.outputs.prepared("shapes")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "dataset.json").write_text("{}")
        (folder / "train.parquet").write_text(data)

    def configure(self, config: RunConfig, settings: EvaluationConfig = SETTINGS) -> None:
        self.configs[config.run] = config
        for kind, value in (("train", config), ("evaluate", settings)):
            file = self.outputs.config(kind, config.run)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(value.model_dump_json())

    def train(self, name: str, weights: str = "weights") -> None:
        """As a training's job and stage do."""
        config, tracker, folder = self.configs[name], self.tracker, self.outputs.trained(name)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        data = data_digest(self.outputs.prepared("shapes"))
        start = self.outputs.trained(config.starts_from) / WEIGHTS if config.starts_from else None
        key = training_key(config, data, CODE, start)
        tags = {"kind": "training", "experiment": config.experiment, "code": "abcdef", "hardware": "2 CPU threads"}
        metrics = MetricsFile(folder / METRICS)
        metrics.append(0, {"workers": 1.0})
        for step, loss in LOSSES:
            metrics.append(step, {"loss": loss, "learning_rate": 0.02})
        entries = metrics.entries()
        started, ended = entries[0].timestamp, entries[-1].timestamp
        parameters, kept = run_parameters(config), config.model_dump(mode="json")
        run_id = log_run(tracker, RunRecord(key, name, parameters, tags, started, ended, entries, kept))
        TrainingRecord(
            run=name, key=key, mlflow_run_id=run_id, config=config, data=data, code="abcdef", parameters=parameters,
            tags=tags, started=started, ended=ended, seconds=754.0, hardware="2 CPU threads",
        ).write(folder)  # fmt: skip
        (folder / WEIGHTS).write_text(f"{weights} of {name}")

    def evaluate(self, name: str, settings: EvaluationConfig = SETTINGS) -> None:
        """As the stage does."""
        config, tracker, trained = self.configs[name], self.tracker, self.outputs.trained(name)
        training = TrainingRecord.read(trained)
        parent = training_run(training, trained, tracker)
        times = training.ended + 1000, training.ended + 3000
        evaluations: dict[str, dict[str, Any]] = {}
        for index, (setting, value) in enumerate(settings.root.items()):
            metrics = {"AP": AP + index, "AP50": 50.0}
            run_id = log_evaluation(config, setting, value, metrics, ClassScores("AP", {}), times, parent, tracker)
            evaluations[setting] = {"mlflow_run_id": run_id, **metrics, "by_class": {"a": 0.5}}
        EvaluationRecord(
            run=name, mlflow_run_id=parent, training=training.key, settings=settings, evaluations=evaluations,
            resamples={"28x28": {"AP": [AP - 1, None]}}, started=times[0], ended=times[1],
        ).write(self.outputs.evaluation_record(name))  # fmt: skip

    def read(self) -> Results:
        return read_results(self.selection.runs, self.outputs, self.tracker)

    def lose_database(self) -> None:
        # Of another name, for this process keeps the old one open.
        self.database = self.database.with_suffix(".new.db")
        shutil.copy(self.empty_database, self.database)

    def logged(self) -> list[Run]:
        client = MlflowClient(f"sqlite:///{self.database}")
        experiment = client.get_experiment_by_name("pointrend-demo")
        return [] if experiment is None else list(client.search_runs([experiment.experiment_id]))

    def histories(self, run: Run) -> dict[str, list[tuple[int, int, float]]]:
        """All that was ever logged of each metric: step, time and value."""
        client = MlflowClient(f"sqlite:///{self.database}")
        return {
            name: sorted((e.step, e.timestamp, e.value) for e in client.get_metric_history(run.info.run_id, name))
            for name in run.data.metrics
        }

    def content(self) -> list[tuple[Any, ...]]:
        """All that MLflow has of each run, but for ids; a nested run has its parent's name in place of its id."""
        runs = self.logged()
        names = {run.info.run_id: run.info.run_name for run in runs}
        own = (RELOGGED_TAG, KEY_TAG, PARENT)
        found = [
            (
                run.info.run_name,
                names.get(run.data.tags.get(PARENT, "")),
                run.info.status,
                run.info.start_time,
                run.info.end_time,
                run.data.params,
                {key: value for key, value in run.data.tags.items() if key not in own},
                self.histories(run),
            )
            for run in runs
        ]
        return sorted(found, key=lambda entry: entry[0])


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database without runs: making its tables takes seconds."""
    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture
def world(tmp_path: Path, empty_database: Path, repository: Path) -> World:
    return World(tmp_path, empty_database, Project(repository))


def without_ids(result: RunResult) -> tuple[Any, ...]:
    evaluations = {name: (found.metrics, found.parameters) for name, found in result.evaluations.items()}
    return result.run, result.parameters, result.seconds, result.losses, result.config, evaluations


# What is read


def test_results_are_what_mlflow_has(world: World) -> None:
    before = world.content()
    results = world.read()
    assert results.missing == {}
    assert [result.run for result in results.runs] == RUNS
    result = results.runs[1]
    assert (result.experiment, result.dataset, result.seed) == ("coco_pointrend_r50", "shapes", 0)
    assert result.losses == LOSSES
    assert result.evaluations["28x28"].metrics == {"AP": AP, "AP50": 50.0}
    assert result.evaluations["224x224"].metrics == {"AP": AP + 1, "AP50": 50.0}
    assert result.evaluations["224x224"].parameters["resolution"] == "224"
    # These MLflow does not have.
    assert result.evaluations["28x28"].resamples["AP"] == [AP - 1, pytest.approx(math.nan, nan_ok=True)]
    assert result.evaluations["224x224"].resamples == {}
    assert result.config == world.configs[result.run]
    assert result.data == data_digest(world.outputs.prepared("shapes"))
    assert (result.seconds, result.hardware, result.code) == (754.0, "2 CPU threads", "abcdef")
    assert result.tags["kind"] == "training"
    record = TrainingRecord.read(world.outputs.trained(result.run))
    assert result.mlflow_run_id == record.mlflow_run_id
    assert world.content() == before, "nothing is logged to read it"


def test_runs_of_earlier_selections_are_not_looked_at(world: World) -> None:
    world.selection = world.selection.model_copy(update={"runs": {RUNS[1]: world.selection.runs[RUNS[1]]}})
    results = world.read()
    assert [result.run for result in results.runs] == [RUNS[1]]
    assert results.missing == {}


# A database that is gone


def test_a_lost_database_is_filled_again_once(world: World) -> None:
    content, results = world.content(), world.read()
    before = {run.info.run_id for run in world.logged()}
    assert len(before) == 2 + 4
    world.lose_database()
    again = world.read()
    assert again.missing == {}
    assert [without_ids(result) for result in again.runs] == [without_ids(result) for result in results.runs]
    # Names, nesting, times, parameters, tags and whole histories, to the last digit and millisecond.
    assert world.content() == content

    runs = {run.info.run_id: run for run in world.logged()}
    assert not runs.keys() & before
    assert {run.data.tags[RELOGGED_TAG] for run in runs.values()} == before, "they say what they stand in for"
    for result in again.runs:
        record = TrainingRecord.read(world.outputs.trained(result.run))
        assert runs[result.mlflow_run_id].data.tags[KEY_TAG] == record.key
        (file,) = (world.root / "mlartifacts").rglob(f"{result.mlflow_run_id}/artifacts/config.json")
        assert RunConfig.model_validate_json(file.read_text()) == result.config

    third = world.read()
    assert {run.info.run_id for run in world.logged()} == runs.keys()
    assert world.content() == content
    assert third == again


@pytest.mark.parametrize("method", ["create_run", "log_batch", "set_terminated"])
def test_logging_again_that_is_killed_is_completed(world: World, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    content = world.content()
    world.lose_database()
    real: Callable[..., Any] = getattr(MlflowClient, method)
    # It gets one call further with each attempt.
    for allowed in range(1, 40):
        calls = []

        def call(*args: Any, calls: list[int] = calls, allowed: int = allowed, **kwargs: Any) -> Any:
            calls.append(1)
            if len(calls) > allowed:
                raise MlflowException("killed", INVALID_PARAMETER_VALUE)
            return real(*args, **kwargs)

        with monkeypatch.context() as broken:
            broken.setattr(MlflowClient, method, call)
            with suppress(TrackingError):
                world.read()
                break
    assert allowed >= 3, "it was interrupted twice at least"
    assert world.content() == content


def test_one_evaluation_that_is_gone_is_nested_in_its_training(world: World) -> None:
    content = world.content()
    results = world.read()
    lost = results.runs[0].evaluations["28x28"].mlflow_run_id
    world.tracker.delete(lost)
    again = world.read()
    assert again.runs[0].mlflow_run_id == results.runs[0].mlflow_run_id
    found = again.runs[0].evaluations["28x28"].mlflow_run_id
    assert found != lost
    assert world.content() == content
    assert world.read() == again


def test_an_evaluation_after_the_database_was_lost(world: World) -> None:
    """As `dvc repro` makes one after `dvc pull`: it needs its training's run."""
    world.lose_database()
    settings = EvaluationConfig({"28x28": RenderingConfig(resolution=28, num_points=196)})
    world.configure(world.configs[RUNS[0]], settings)
    world.evaluate(RUNS[0], settings)
    results = world.read()
    assert results.missing == {}
    assert results.runs[0].evaluations["28x28"].parameters["subdivision_points"] == "196"
    assert len(world.logged()) == (1 + 1) + (1 + 2)
    assert world.tracker.get(results.runs[0].mlflow_run_id).data.metrics["AP_28x28"] == AP


# Runs without results

NAME = RUNS[1]


def not_trained(world: World) -> None:
    shutil.rmtree(world.outputs.trained(NAME))


def record_damaged(world: World) -> None:
    (world.outputs.trained(NAME) / RECORD).write_text('{"run": ')


def record_of_another_version(world: World) -> None:
    (world.outputs.trained(NAME) / RECORD).write_text('{"run": "a"}')


def without_metrics(world: World) -> None:
    (world.outputs.trained(NAME) / METRICS).unlink()


def not_evaluated(world: World) -> None:
    world.outputs.evaluation_record(NAME).unlink()


def metrics_damaged(world: World) -> None:
    world.outputs.evaluation_record(NAME).write_text('{"run": "a", "evaluations": {}}')


def trained_again(world: World) -> None:
    schedule = world.configs[NAME].schedule.model_copy(update={"momentum": 0.5})
    world.configure(world.configs[NAME].model_copy(update={"schedule": schedule}))
    world.train(NAME)


REASONS = {
    not_trained: "is not trained",
    record_damaged: "cannot be read: .*train.json: damaged",
    record_of_another_version: r"cannot be read: .*train.json: .* of an earlier version \(key: Field required; .*\)",
    without_metrics: "has no metrics.jsonl beside its weights",
    not_evaluated: "is not evaluated",
    metrics_damaged: "cannot be read: .*coco_pointrend_r50-0.json: damaged, or of an earlier version",
    trained_again: "was trained again since it was evaluated",
}


@pytest.mark.parametrize("change", REASONS, ids=lambda change: change.__name__)
def test_a_run_without_results_says_why(world: World, change: Callable[[World], None]) -> None:
    change(world)
    logged = len(world.logged())
    results = world.read()
    assert [result.run for result in results.runs] == [RUNS[0]]
    assert results.missing.keys() == {NAME}
    assert results.missing[NAME].startswith(f"{NAME} ")
    assert "\n" not in results.missing[NAME]
    with pytest.raises(AssertionError, match=f"^{NAME} {REASONS[change]}"):
        raise AssertionError(results.missing[NAME])
    assert len(world.logged()) == logged


def test_damaged_metrics_matter_where_they_are_needed(world: World) -> None:
    file = world.outputs.trained(NAME) / METRICS
    file.write_text("no json\n")
    assert world.read().missing == {}
    world.lose_database()
    assert "the line at byte 0 is damaged" in world.read().missing[NAME]


# What DVC decides


def test_an_edit_since_the_run_empties_no_cell(world: World) -> None:
    """Whether a run is current is for DVC to say, which `dvc commit` tells; a run is labelled by its own record."""
    before = world.read()
    trained, evaluated = world.configs[NAME], SETTINGS
    schedule = trained.schedule.model_copy(update={"momentum": 0.5})
    world.configure(
        trained.model_copy(update={"schedule": schedule, "starts_from": "detector-0"}),
        EvaluationConfig({"28x28": evaluated.root["28x28"]}),
    )
    world.prepare("other data")
    assert world.read() == before
    shutil.rmtree(world.outputs.root / "config")
    shutil.rmtree(world.outputs.prepared("shapes"))
    assert world.read() == before
    assert before.missing == {}
    assert before.runs[1].config == trained
    assert before.runs[1].settings == evaluated


def test_a_run_is_labelled_by_the_settings_that_it_was_trained_with(world: World) -> None:
    changes = {"importance_sample_ratio": 0.5, "updates": 90, "sampler": "grid"}
    world.configure(world.configs[NAME].model_copy(update={"changes": changes}))
    world.train(NAME)
    world.evaluate(NAME)
    other, changed = world.read().runs
    assert (other.changes, other.label) == ("", "coco_4xconv_r50")
    assert changed.changes == "importance_sample_ratio 0.5, sampler grid, updates 90"
    assert changed.label == f"coco_pointrend_r50 [{changed.changes}]"
