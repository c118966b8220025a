"""One trial of a training sweep: the same training as a run's, judged at the rungs of the sweep."""

import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipeline.cluster.sweep_place import SweepError
from pipeline.config.clusters import ClusterConfig
from pipeline.config.evaluations import EvaluationConfig
from pipeline.config.experiments import RunConfig
from pipeline.config.parameters import run_parameters
from pipeline.config.sweep_tasks import TrainingTask
from pipeline.config.sweeps import Point
from pipeline.data.manifest import read_prepared
from pipeline.data.samplers import Share, TrainingBatches, draw_seed
from pipeline.data.storage import Storage
from pipeline.evaluation.run import own_device, predict, score
from pipeline.evaluation.trained_run import TrainedRun
from pipeline.sweep.costs import multiply_adds
from pipeline.sweep.records import Rung, TrialRecord, TrialRecords
from pipeline.sweep.search import point_name
from pipeline.tracking.client import Tracker
from pipeline.tracking.runs import RunRecord, log_run
from pipeline.training.checkpoint import CheckpointStore
from pipeline.training.loading import load_batches
from pipeline.training.loop import DivergedTrainingError, Update, apply_layout, build_optimizer, train
from pipeline.training.metrics_file import MetricEntry, now
from pipeline.training.model import build_run_model
from pipeline.training.run import training_images
from pointrend.weights import read_state_dict, save_weights

SETTING = "sweep"  # the name of a trial's one evaluation
CHECKPOINTS = "checkpoints"  # a trial's folder of them
UPDATE = "update"  # the key of their number in a report
POINT_HEADS = ("mask_head.point_head.", "pointrend.point_head.")


@dataclass(frozen=True)
class Trials:
    """What all trials of a sweep have in common; every worker can reach all of it.

    Attributes:
        task: the sweep.
        prepared: the prepared dataset.
        judged: the one whose val split trials are judged by.
        images: what the file names of both are relative to.
        weights: to start from, if any.
        records: where the trials are recorded.
        cluster: what a trial gets of it.
        tracking: MLflow's address and experiment.
        parent: the sweep's MLflow run.
        key: of the sweep.
        tags: of every trial's run.
    """

    task: TrainingTask
    prepared: Path
    val_prepared: Path
    images: Storage
    weights: Path | None
    records: TrialRecords
    cluster: ClusterConfig
    tracking: tuple[str, str]
    parent: str
    key: str
    tags: dict[str, str]


Report = Callable[[dict[str, float]], None]


def run_trial(trials: Trials, point: Point, report: Report) -> None:
    """Trains a point from where its record and checkpoint say, and reports every rung, those that are behind us too.

    A trial that is done already reports and does nothing else.

    Args:
        trials: the sweep.
        point: the trial.
        report: takes the metrics of a rung and the updates behind it; may end the trial by raising.

    Raises:
        SweepError: if its evaluation does not have the sweep's metric.
    """
    record = trials.records.read(point) or _begin(trials, point)
    for rung in record.rungs:
        report({**rung.metrics, UPDATE: rung.update})
    if record.status != "running":
        return
    # As many threads however many trials share a machine: sums of floats depend on how they are split.
    if trials.cluster.gpus_per_worker == 0:
        torch.set_num_threads(trials.cluster.cpus_per_worker)
    try:
        _Training(trials, record, report).run()
    except DivergedTrainingError as error:
        print(f"{record.name}: {error}", flush=True)
        record = trials.records.read(point) or record
        # The lowest score there is: neither search nor early stopping is to come back here.
        rung = Rung(trials.task.base.schedule.updates, {trials.task.metric: 0.0})
        trials.records.write(record.with_rung(rung, status="diverged"))
        report({**rung.metrics, UPDATE: rung.update})


def _begin(trials: Trials, point: Point) -> TrialRecord:
    config = trials.task.trial(point)
    tracker = Tracker(*trials.tracking)
    name = f"{trials.task.name} {' '.join(f'{k}={v:g}' for k, v in point.items())}"
    tags = {"kind": "trial", "sweep": trials.task.name, **trials.tags}
    key = f"{trials.key}-{point_name(point)}"
    run_id = log_run(tracker, RunRecord(key, name, run_parameters(config), tags, started=now(), parent=trials.parent))
    classes = read_prepared(trials.prepared).num_classes
    record = TrialRecord(point, run_id, multiply_adds=multiply_adds(config, classes, trials.task.setting))
    trials.records.write(record)
    return record


class _Training:
    """A trial under way."""

    def __init__(self, trials: Trials, record: TrialRecord, report: Report) -> None:
        self.trials, self.record, self.report = trials, record, report
        self.config: RunConfig = trials.task.trial(record.point)
        self.folder = trials.records.trial_folder(record.point)
        self.device = own_device(trials.cluster.gpus_per_worker > 0)
        self.tracker = Tracker(*trials.tracking)

        config, schedule = self.config, self.config.schedule
        torch.manual_seed(draw_seed(config.seed))
        classes = read_prepared(trials.prepared).num_classes
        self.model: nn.Module = build_run_model(config, classes, pretrained=trials.weights is None).to(self.device)
        if trials.weights is not None:
            _load_all_but_point_head(self.model, trials.weights)
        apply_layout(self.model, schedule)
        self.optimizer = build_optimizer(self.model, schedule)
        self.store = CheckpointStore(self.folder / CHECKPOINTS)
        self.start = self.store.load_latest(self.model, self.optimizer, self.device)
        self._window: list[Update] = []
        self._seconds: list[float] = []

    def run(self) -> None:
        config, schedule, trials = self.config, self.config.schedule, self.trials
        # Interrupted between a rung's checkpoint and its score.
        if self.start in trials.task.rungs and self.record.at(self.start) is None:
            self._score_rung(self.start)
        dataset = training_images(config, read_prepared(trials.prepared), trials.images)
        share = Share.of_batch(schedule.batch_size, trials.cluster.images_per_worker)
        batches = TrainingBatches(
            dataset.groups,
            batch_size=schedule.batch_size,
            seed=config.seed,
            start=self.start,
            stop=schedule.updates,
            share=share,
        )
        train(
            self.model,
            self.optimizer,
            load_batches(dataset, batches, trials.cluster.loader_processes, self.device),
            schedule,
            start=self.start,
            seed=config.seed,
            share=share,
            device=self.device,
            on_update=self._on_update,
        )

    def _on_update(self, update: Update) -> None:
        self._window.append(update)
        self._seconds.append(update.seconds)
        at_rung = update.number in self.trials.task.rungs
        if at_rung or update.number % self.config.schedule.checkpoint_every == 0:
            update.check()
            self.store.save(update.number, self.model, self.optimizer)
        if at_rung and self.record.at(update.number) is None:
            self._score_rung(update.number)

    def _score_rung(self, update: int) -> None:
        """Evaluates, records, logs and reports a rung, in this order: what is recorded is not done again."""
        metrics = self._evaluate()
        wanted = self.trials.task.metric
        if wanted not in metrics:
            raise SweepError(f"metric: {wanted!r} is none of this dataset's, which are {', '.join(sorted(metrics))}")
        done = update == self.config.schedule.updates
        # The first update also starts things up.
        seconds = statistics.median(self._seconds[1:] or self._seconds) if self._seconds else self.record.seconds
        changes: dict[str, Any] = {"seconds": seconds, "status": "finished" if done else "running"}
        self._log(update, metrics)
        self.record = self.record.with_rung(Rung(update, metrics), **changes)
        self.trials.records.write(self.record)
        self.report({**metrics, UPDATE: update})

    def _evaluate(self) -> dict[str, float]:
        settings = EvaluationConfig({SETTING: self.trials.task.setting})
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.folder, prefix=".evaluation-") as name:
            folder = Path(name)
            weights = folder / "model.safetensors"
            save_weights(self.model, weights, {"model": self.config.model.name})
            # Named for its progress messages.
            named = self.config.model_copy(update={"run": f"{self.config.run} {self.record.name}"})
            run = TrainedRun(named, self.trials.val_prepared, self.trials.images, weights)
            predict(run, settings, self.device, folder / "chunks", folder)
            return score(run.dataset(), folder, SETTING, self.trials.task.setting)[0]

    def _log(self, update: int, metrics: dict[str, float]) -> None:
        run_id = self.record.mlflow_run_id
        if any(step >= update for step, _ in self.tracker.history(run_id, self.trials.task.metric)):
            return  # logged, then interrupted
        window, self._window = self._window, []
        values = dict(metrics)
        if window:
            losses = {name: statistics.fmean(u.losses[name] for u in window) for name in window[0].losses}
            values |= {**losses, "loss": sum(losses.values())}
        time = now()
        self.tracker.send_metrics(run_id, [MetricEntry(name, value, time, update) for name, value in values.items()])


def _load_all_but_point_head(model: nn.Module, weights: Path) -> None:
    """Loads a run's weights, in place; the point head, which may be of another size, stays as it was drawn.

    Raises:
        SweepError: if the weights are another model's.
    """
    state = {k: v for k, v in read_state_dict(weights).items() if not k.startswith(POINT_HEADS)}
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise SweepError(f"{weights}: not this model's weights; train the run again ({error})") from error
    if others := unexpected + [name for name in missing if not name.startswith(POINT_HEADS)]:
        raise SweepError(f"{weights}: not this model's weights; train the run again ({', '.join(others[:5])})")
