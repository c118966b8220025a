"""One trial of a training sweep: trained as a run is, and scored at the rungs of the sweep."""

import statistics
import tempfile
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from pipeline.cluster.needs import workers_for_batch
from pipeline.cluster.sweep_place import SweepError
from pipeline.config.clusters import ClusterConfig
from pipeline.config.evaluations import EvaluationConfig
from pipeline.config.experiments import RunConfig
from pipeline.config.parameters import run_parameters
from pipeline.config.sweep_tasks import SubdivisionTask, TrainingTask
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
from pipeline.training.model import build_run_model, class_infos, freeze
from pipeline.training.run import training_images
from pipeline.training.starting_weights import restore_strides
from pointrend.weights import read_state_dict, save_weights

SETTING = "sweep"  # the name of a trial's only evaluation setting
CHECKPOINTS = "checkpoints"  # the folder of checkpoints inside a trial's folder
UPDATE = "update"  # the key of the number of updates in a report to Ray Tune
POINT_HEADS = ("mask_head.point_head.", "pointrend.point_head.")


@dataclass(frozen=True)
class Trials:
    """A sweep whose trials are trained; every worker can reach all of the folders.

    Attributes:
        task: the sweep.
        prepared: the prepared dataset that trials train on.
        val_prepared: the prepared dataset whose val split trials are scored on.
        images: the storage that the file names of both datasets are relative to.
        weights: the file of weights that trials start from, if any.
        records: the trials' records.
        cluster: the cluster configuration; a trial has the resources of one worker.
        tracking: MLflow's address and the experiment's name.
        parent: the sweep's MLflow run.
        key: the sweep's key.
        tags: tags of every trial's MLflow run.
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


def check_metric(task: TrainingTask | SubdivisionTask, measured: Collection[str]) -> None:
    """Raises SweepError if the metric of a sweep is not among those that were measured."""
    if task.metric not in measured:
        known = ", ".join(sorted(measured))
        raise SweepError(f"sweep {task.name}: {task.metric!r} is not a metric of this dataset; choose from {known}")


def run_trial(trials: Trials, point: Point, report: Report) -> None:
    """Trains a trial, or continues from its record and checkpoint, and reports every rung, also the earlier ones.

    A trial that is done only reports.

    Args:
        trials: the sweep.
        point: the trial's parameters.
        report: called with the metrics and the number of updates of each rung; may end the trial by raising.

    Raises:
        SweepError: if the dataset does not have the sweep's metric.
    """
    record = trials.records.read(point) or _begin(trials, point)
    for rung in record.rungs:
        report({**rung.metrics, UPDATE: rung.update})
    if record.status != "running":
        return
    # The number of threads must not depend on how many trials share a machine: it changes the order of float sums.
    if trials.cluster.gpus_per_worker == 0:
        torch.set_num_threads(trials.cluster.cpus_per_worker)
    try:
        _Training(trials, record, report).run()
    except DivergedTrainingError as error:
        print(f"{record.name}: {error}", flush=True)
        record = trials.records.read(point) or record
        # The lowest possible score, so that search and early stopping avoid such points.
        rung = Rung(trials.task.base.schedule.updates, {trials.task.metric: 0.0})
        trials.records.write(replace(record, rungs=[*record.rungs, rung], status="diverged"))
        report({**rung.metrics, UPDATE: rung.update})


def _begin(trials: Trials, point: Point) -> TrialRecord:
    config = trials.task.trial(point)
    tracker = Tracker(*trials.tracking)
    name = f"{trials.task.name} {' '.join(f'{k}={v:g}' for k, v in point.items())}"
    key = f"{trials.key}-{point_name(point)}"
    run = RunRecord(key, name, run_parameters(config), trials.tags, started=now(), parent=trials.parent)
    run_id = log_run(tracker, run)
    classes = read_prepared(trials.prepared).num_classes
    record = TrialRecord(point, run_id, multiply_adds=multiply_adds(config, classes, trials.task.setting))
    trials.records.write(record)
    return record


class _Training:
    """The training of one trial: model, optimizer and checkpoints."""

    def __init__(self, trials: Trials, record: TrialRecord, report: Report) -> None:
        self.trials, self.record, self.report = trials, record, report
        self.config: RunConfig = trials.task.trial(record.point)
        self.folder = trials.records.trial_folder(record.point)
        self.device = own_device(trials.cluster.gpus_per_worker > 0)
        self.tracker = Tracker(*trials.tracking)

        config, schedule = self.config, self.config.schedule
        torch.manual_seed(draw_seed(config.seed))
        classes = read_prepared(trials.prepared).num_classes
        network = build_run_model(config, classes, pretrained=trials.weights is None)
        if trials.weights is not None:
            _load_all_but_point_head(network, trials.weights)
        freeze(network, config)
        self.model: nn.Module = network.to(self.device)
        apply_layout(self.model, schedule)
        self.optimizer = build_optimizer(self.model, schedule)
        self.store = CheckpointStore(self.folder / CHECKPOINTS)
        self.start = self.store.load_latest(self.model, self.optimizer, self.device)
        self._window: list[Update] = []
        self._seconds: list[float] = []

    def run(self) -> None:
        config, schedule, trials = self.config, self.config.schedule, self.trials
        # The trial was interrupted between writing a rung's checkpoint and scoring it.
        if self.start in trials.task.rungs and self.record.at(self.start) is None:
            self._score_rung(self.start)
        dataset = training_images(config, read_prepared(trials.prepared), trials.images)
        share = _trial_share(config, trials.cluster)
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
        """Evaluates, logs, records and reports a rung, in this order: a rung that is recorded is not done again."""
        metrics = self._evaluate()
        check_metric(self.trials.task, metrics)
        # The first update is left out, because it also initialises kernels and memory pools.
        seconds = statistics.median(self._seconds[1:] or self._seconds) if self._seconds else self.record.seconds
        self._log(update, metrics)
        self.record = replace(
            self.record,
            rungs=[*self.record.rungs, Rung(update, metrics)],
            seconds=seconds,
            status="finished" if update == self.config.schedule.updates else "running",
        )
        self.trials.records.write(self.record)
        self.report({**metrics, UPDATE: update})

    def _evaluate(self) -> dict[str, float]:
        settings = EvaluationConfig({SETTING: self.trials.task.setting})
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.folder, prefix=".evaluation-") as name:
            folder = Path(name)
            weights = folder / "model.safetensors"
            # The name appears in progress messages.
            named = self.config.model_copy(update={"run": f"{self.config.run} {self.record.name}"})
            origin = {"dataset": named.dataset, "run": named.run}
            save_weights(self.model, weights, classes=class_infos(read_prepared(self.trials.prepared)), origin=origin)
            run = TrainedRun(named, self.trials.val_prepared, self.trials.images, weights)
            predict(run, settings, self.device, folder / "chunks", folder)
            return score(run.dataset(), folder, SETTING, self.trials.task.setting).metrics

    def _log(self, update: int, metrics: dict[str, float]) -> None:
        run_id = self.record.mlflow_run_id
        if any(step >= update for step, _ in self.tracker.history(run_id, self.trials.task.metric)):
            return  # logged before an interruption
        window, self._window = self._window, []
        values = dict(metrics)
        if window:
            losses = {name: statistics.fmean(u.losses[name] for u in window) for name in window[0].losses}
            values |= {**losses, "loss": sum(losses.values())}
        time = now()
        self.tracker.send_metrics(run_id, [MetricEntry(name, value, time, update) for name, value in values.items()])


def _trial_share(config: RunConfig, cluster: ClusterConfig) -> Share:
    """The micro-batches of a run on all workers of the cluster, one after the other on the only worker of a trial.

    A trial then computes what a run with its settings does, in the memory that a worker of such a run needs.

    Raises:
        SweepError: if the model has batch norm that is trained, and a batch has several micro-batches.
        BatchShareError: if the batch does not divide.
    """
    batch = config.schedule.batch_size
    workers = max(workers_for_batch(cluster, batch), 1)
    micro_batches = Share.of_batch(batch, cluster.images_per_worker, world_size=workers).micro_batches
    if config.model.norm == "batch" and micro_batches > 1:
        raise SweepError(
            f"run {config.run}: norm 'batch' needs statistics of the whole batch in one pass, which a trial has on one "
            f"worker; take a cluster configuration with at most one worker, and with images_per_worker {batch} or none"
        )
    return Share(micro_batches=micro_batches)


def _load_all_but_point_head(model: nn.Module, weights: Path) -> None:
    """Loads a run's weights, in place, with their strides. The point head, whose size may differ, stays random.

    Raises:
        SweepError: if the weights are those of another model.
    """
    state = {k: v for k, v in read_state_dict(weights).items() if not k.startswith(POINT_HEADS)}
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise SweepError(f"{weights}: not this model's weights; train the run again ({error})") from error
    if others := unexpected + [name for name in missing if not name.startswith(POINT_HEADS)]:
        raise SweepError(f"{weights}: not this model's weights; train the run again ({', '.join(others[:5])})")
    restore_strides(model, weights)
