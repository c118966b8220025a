"""The results of the selected runs: their records in the outputs folder, and their parameters and metrics in MLflow.

Whether the outputs are current is for DVC to decide. Here they are taken as they are, and each run is described by the
configuration in its own record.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.config.evaluations import EvaluationConfig
from pipeline.config.experiments import RunConfig
from pipeline.evaluation.class_scores import ClassScores, class_scores
from pipeline.evaluation.record import EvaluationRecord
from pipeline.stage import Outputs
from pipeline.tracking.client import Tracker
from pipeline.tracking.runs import evaluation_run, training_run
from pipeline.training.metrics_file import VALIDATION, MetricsFileError
from pipeline.training.record import METRICS, BestScore, TrainingRecord, UnreadableRecordError


@dataclass(frozen=True)
class EvaluationResult:
    """One evaluation setting of one run: its metrics and parameters as MLflow has them.

    Attributes:
        resamples: metrics on each resample of the val images, as the run's record has them. Runs of one dataset have
            the same resamples.
        classes: the scores of each class, as the run's record has them.
        timed_on: the device that images were timed on; empty if they were not timed.
    """

    mlflow_run_id: str
    metrics: dict[str, float]
    parameters: dict[str, str]
    resamples: dict[str, list[float]] = field(default_factory=dict)
    classes: ClassScores = field(default_factory=lambda: ClassScores("", {}))
    timed_on: str = ""


@dataclass(frozen=True)
class RunResult:
    """One training run and its evaluations.

    Args:
        run: its name.
        experiment: the experiment that it is a run of.
        dataset: the dataset that it was trained on.
        seed: its seed.
        mlflow_run_id: the MLflow run of the training.
        mlflow_experiment_id: the MLflow experiment of that run.
        parameters: as MLflow has them.
        tags: as MLflow has them.
        seconds: how long the training took since it was last resumed.
        losses: the total loss after updates, as MLflow has it.
        evaluations: by the name of their setting.
        settings: the evaluation settings, by the same names.
        config: the whole configuration.
        data: a hash of the prepared dataset's training part.
        hardware: the devices that it was trained on.
        code: the version of the code that trained it.
        validations: the score that ranks weights after updates, in percent, of a run that was validated.
        best: where its best weights are from, which were evaluated.
        stopped: why it stopped early, if it did.
        updates: how many updates it had; None if not known.
        updates_per_second: over the time since it was last resumed; None if not known.
        peak_memory_gb: the most memory of its first worker, in gigabytes: of the GPU, or of the process without one.
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
    settings: EvaluationConfig
    config: RunConfig
    data: str
    hardware: str
    code: str
    validations: list[tuple[int, float]] = field(default_factory=list)
    best: BestScore | None = None
    stopped: str | None = None
    updates: int | None = None
    updates_per_second: float | None = None
    peak_memory_gb: float | None = None

    @property
    def changes(self) -> str:
        """The settings of the experiment that were overridden for this run, such as "momentum 0.5, updates 90"."""
        return ", ".join(
            f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in sorted(self.config.changes.items())
        )

    @property
    def finest(self) -> str:
        """The evaluation setting of the highest resolution, or else of the most points."""

        def fineness(name: str) -> tuple[int, int]:
            setting = self.settings.root[name]
            return getattr(setting, "resolution", 0), setting.num_points or 0

        return max(self.evaluations, key=fineness)

    @property
    def label(self) -> str:
        """The experiment, with its overridden settings: what a line of a plot stands for."""
        return f"{self.experiment} [{self.changes}]" if self.changes else self.experiment


@dataclass(frozen=True)
class Results:
    """The results of the selected runs, and why the other runs have none, by the run's name."""

    runs: list[RunResult]
    missing: dict[str, str]


class MissingResultError(Exception):
    """A run without results to show; the message says why."""


def read_results(runs: Iterable[str], outputs: Outputs, tracker: Tracker) -> Results:
    """Reads the results of runs. A run that MLflow does not have is logged there again.

    Args:
        runs: the names of the selected runs.
        outputs: the folders of their outputs.
        tracker: where the runs are logged.

    Raises:
        TrackingError: if MLflow does not answer.
    """
    results, missing = [], {}
    for name in runs:
        try:
            training, evaluation = _records(name, outputs)
            results.append(_read(training, evaluation, outputs.trained(name), tracker))
        except UnreadableRecordError as error:
            missing[name] = f"{name} cannot be read: {_line(error)}"
        except (MissingResultError, MetricsFileError) as error:
            missing[name] = _line(error)
    return Results(results, missing)


def _records(name: str, outputs: Outputs) -> tuple[TrainingRecord, EvaluationRecord]:
    """The records of a run's training and of its evaluation.

    Raises:
        MissingResultError: if one of them is missing, or they are not of the same training.
        UnreadableRecordError: if one of them is damaged.
    """
    try:
        training = TrainingRecord.read(outputs.trained(name))
    except FileNotFoundError as error:
        raise MissingResultError(f"{name} is not trained") from error
    if not (outputs.trained(name) / METRICS).is_file():
        raise MissingResultError(f"{name} has no {METRICS} beside its weights")
    try:
        evaluation = EvaluationRecord.read(outputs.evaluation_record(name))
    except FileNotFoundError as error:
        raise MissingResultError(f"{name} is not evaluated") from error
    # The training's configuration labels the evaluation's numbers.
    if evaluation.training != training.key:
        raise MissingResultError(f"{name} was trained again since it was evaluated")
    return training, evaluation


def _line(error: Exception) -> str:
    """An error's message on one line, as a note below a table has it."""
    return " ".join(str(error).split())


def _read(training: TrainingRecord, evaluation: EvaluationRecord, trained: Path, tracker: Tracker) -> RunResult:
    """A run's results from MLflow."""
    config = training.config
    run_id = training_run(training, trained, tracker)
    run = tracker.get(run_id)
    evaluations = {}
    for name in evaluation.settings.root:
        found = tracker.get(evaluation_run(evaluation, name, config, run_id, tracker))
        evaluations[name] = EvaluationResult(
            found.info.run_id,
            dict(found.data.metrics),
            dict(found.data.params),
            evaluation.resampled(name),
            class_scores(evaluation, name),
            evaluation.timed_on(name),
        )
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
        settings=evaluation.settings,
        config=config,
        data=training.data,
        hardware=training.hardware,
        code=training.code,
        validations=tracker.history(run_id, f"{VALIDATION}{training.best.metric}") if training.best else [],
        best=training.best,
        stopped=training.stopped,
        updates=training.updates,
        updates_per_second=training.updates_per_second,
        peak_memory_gb=training.peak_memory_gb,
    )
