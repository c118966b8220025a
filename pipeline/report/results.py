"""What the runs of a scale came to, read from MLflow: as far as their files are there and of today's configuration."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.config.evaluations import EvaluationConfig
from pipeline.config.experiments import RunConfig
from pipeline.config.reader import ConfigError, load
from pipeline.config.selection import Selection
from pipeline.evaluation.record import EvaluationRecord, UnreadableMetricsError
from pipeline.stage import Outputs
from pipeline.tracking.client import Tracker
from pipeline.tracking.runs import evaluation_run, training_run
from pipeline.training.metrics_file import MetricsFileError
from pipeline.training.record import METRICS, WEIGHTS, TrainingRecord, UnreadableRecordError, data_digest, training_key


@dataclass(frozen=True)
class EvaluationResult:
    """One evaluation setting of one run: its metrics and parameters as MLflow has them."""

    mlflow_run_id: str
    metrics: dict[str, float]
    parameters: dict[str, str]


@dataclass(frozen=True)
class RunResult:
    """One training run and its evaluations.

    Args:
        run: its name.
        experiment: what it is a run of.
        dataset: what it was trained on.
        seed: its own.
        mlflow_run_id: of the training.
        mlflow_experiment_id: where that is.
        parameters: as MLflow has them.
        tags: as MLflow has them.
        seconds: that training took, since it was last resumed.
        losses: the total loss after updates, as MLflow has it.
        evaluations: by the name of their setting.
        config: the whole configuration.
        data: a hash of what its prepared dataset has for training.
        hardware: what it was trained on.
        code: the version of the code that trained it.
    """

    run: str
    experiment: str
    dataset: str
    seed: int
    mlflow_run_id: str
    mlflow_experiment_id: str
    parameters: dict[str, str]
    tags: dict[str, str]
    seconds: float
    losses: list[tuple[int, float]]
    evaluations: dict[str, EvaluationResult]
    config: RunConfig
    data: str
    hardware: str
    code: str


@dataclass(frozen=True)
class Results:
    """The results of the selected runs that have some, and why the others, by their names, have none."""

    runs: list[RunResult]
    missing: dict[str, str]


class MissingResultError(Exception):
    """A run without results to show; the message says why."""


def read_results(selection: Selection, outputs: Outputs, code: str, tracker: Tracker) -> Results:
    """The results of every selected run; others, of earlier selections, are not looked at.

    What is of another configuration, data or code than the outputs would be today is not a result. What MLflow does
    not have is logged there again.

    Args:
        selection: the selected runs.
        outputs: the folders of its outputs.
        code: the hash of the code that trains, see :func:`pipeline.graph.code_digest`.
        tracker: where the runs are logged.

    Raises:
        TrackingError: if MLflow does not answer.
    """
    results, missing = [], {}
    for name in selection.runs:
        try:
            config, training, evaluation = _current(name, outputs, code)
            results.append(_read(config, training, evaluation, outputs.trained(name), tracker))
        except (MissingResultError, MetricsFileError) as error:
            missing[name] = _line(error)
    return Results(results, missing)


def _current(name: str, outputs: Outputs, code: str) -> tuple[RunConfig, TrainingRecord, EvaluationRecord]:
    """A run's configuration and its records.

    Raises:
        MissingResultError: if a record is missing, unreadable or not of this configuration.
    """
    for kind in ("train", "evaluate"):
        if not outputs.config(kind, name).is_file():
            raise MissingResultError(f"{name} is not configured yet")
    try:
        config = load(RunConfig, outputs.config("train", name))
        settings = load(EvaluationConfig, outputs.config("evaluate", name))
        training = TrainingRecord.read(outputs.trained(name))
    except FileNotFoundError as error:
        raise MissingResultError(f"{name} is not trained") from error
    except (ConfigError, UnreadableRecordError) as error:
        raise MissingResultError(f"{name} cannot be read: {_line(error)}") from error
    if not (outputs.trained(name) / METRICS).is_file():
        raise MissingResultError(f"{name} is without its training's metrics")
    _check_training(config, training, outputs, code)
    try:
        evaluation = EvaluationRecord.read(outputs.metrics(name))
    except FileNotFoundError as error:
        raise MissingResultError(f"{name} is not evaluated") from error
    except UnreadableMetricsError as error:
        raise MissingResultError(f"{name} cannot be read: {_line(error)}") from error
    if evaluation.training != training.key:
        raise MissingResultError(f"{name} was trained again since it was evaluated")
    if evaluation.settings != settings:
        raise MissingResultError(f"{name} was evaluated with other settings than today's")
    return config, training, evaluation


def _line(error: Exception) -> str:
    """An error on one line, as it stands below a table."""
    return " ".join(str(error).split())


def _check_training(config: RunConfig, training: TrainingRecord, outputs: Outputs, code: str) -> None:
    """Checks that a training is the one that would be run today.

    Raises:
        MissingResultError: if not.
    """
    name = config.run
    try:
        data = data_digest(outputs.prepared(config.dataset))
    except FileNotFoundError as error:
        raise MissingResultError(f"{name} has a dataset that is not prepared: {config.dataset}") from error
    weights: Path | None = None
    if config.starts_from is not None:
        weights = outputs.trained(config.starts_from) / WEIGHTS
        if not weights.is_file():
            raise MissingResultError(f"{name} begins with a run that is not trained: {config.starts_from}")
    if training.key == training_key(config, data, code, weights):
        return
    if training.config != config:
        changed = "configuration"
    elif training.data != data:
        changed = "data"
    else:
        changed = "code, or with other weights to begin with," if weights else "code"
    raise MissingResultError(f"{name} was trained with other {changed} than today's")


def _read(
    config: RunConfig, training: TrainingRecord, evaluation: EvaluationRecord, trained: Path, tracker: Tracker
) -> RunResult:
    """A run's results from MLflow."""
    run_id = training_run(training, trained, tracker)
    run = tracker.get(run_id)
    evaluations = {}
    for name in evaluation.settings.root:
        found = tracker.get(evaluation_run(evaluation, name, config, run_id, tracker))
        evaluations[name] = EvaluationResult(found.info.run_id, dict(found.data.metrics), dict(found.data.params))
    return RunResult(
        run=config.run,
        experiment=config.experiment,
        dataset=config.dataset,
        seed=config.seed,
        mlflow_run_id=run_id,
        mlflow_experiment_id=run.info.experiment_id,
        parameters=dict(run.data.params),
        tags=dict(run.data.tags),
        seconds=training.seconds,
        losses=tracker.history(run_id, "loss"),
        evaluations=evaluations,
        config=config,
        data=training.data,
        hardware=training.hardware,
        code=training.code,
    )
