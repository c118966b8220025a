"""What `dvc repro` would run at a scale, and what that takes. Nothing is run or written.

Hours are estimates by ``configs/throughput.yaml``: of trainings alone, without preparation, evaluation and report.
"""

import heapq
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel

from pipeline.config.clusters import ClusterConfig
from pipeline.config.experiments import RunConfig
from pipeline.config.params import Params
from pipeline.config.project import Project
from pipeline.config.reader import load
from pipeline.config.selection import Selection
from pipeline.config.sweep_tasks import SubdivisionTask, TrainingTask, resolve_selected
from pipeline.config.sweeps import GridSearch
from pipeline.config.synthetic import ShapesConfig
from pipeline.data.cpus import usable_cpus
from pipeline.data.samplers import Share
from pipeline.graph import GraphError, stages_to_run, unchanged_stages
from pipeline.plan.throughput import Cost, Counter, Throughput, training_size
from pipeline.stage import Outputs
from pipeline.training.checkpoint import CheckpointStore
from pointrend.points import Size
from pointrend.specs import MODELS

SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True)
class PlannedRun:
    """One training, and the evaluations of what it learns.

    Attributes:
        cached: whether DVC has its result, so that nothing is trained; None where that is not known.
        gpu_hours: of the GPU of ``configs/throughput.yaml``.
        hours: on the cluster; None if that has no GPUs.
        evaluations: how many settings it is evaluated in.
        weights: bytes.
        checkpoint: bytes of each.
        predictions: bytes over all evaluations; None where it is not known how many val images there are.
    """

    run: str
    experiment: str
    dataset: str
    seed: int
    updates: int
    batch_size: int
    cached: bool | None
    gpu_hours: float
    hours: float | None
    evaluations: int
    weights: int
    checkpoint: int
    predictions: int | None


@dataclass(frozen=True)
class PlannedSweep:
    """One sweep. One of subdivision trains nothing: its trials are settings of rendering.

    Attributes:
        trials: how many; of a search, at most.
        updates: of each trial that is not stopped early.
        cached: as of a run.
        gpu_hours: at most: as if no trial were stopped early, each with the experiment's own point head.
        hours: on the cluster, at most; None if that has no GPUs.
    """

    sweep: str
    kind: Literal["training", "subdivision"]
    dataset: str
    trials: int
    updates: int
    batch_size: int
    cached: bool | None
    gpu_hours: float
    hours: float | None


class Total(NamedTuple):
    """Some of the runs together.

    Attributes:
        runs: how many.
        gpu_hours: of all of them.
        remaining: GPU-hours of those that are not known to be cached.
    """

    runs: int
    gpu_hours: float
    remaining: float


@dataclass(frozen=True)
class Plan:
    """What a scale would run on a cluster.

    Attributes:
        gpu: that GPU-hours are of.
        runs_at_a_time: how many trainings the cluster has room for.
        tables: the experiments of each table of the paper that has any at this scale.
        unknown: why some are not known to be cached or not; None if all are.
    """

    scale: str
    cluster: str
    nodes: int
    gpu: str
    runs_at_a_time: int
    runs: list[PlannedRun]
    sweeps: list[PlannedSweep]
    tables: dict[str, set[str]]
    unknown: str | None

    @property
    def evaluations(self) -> int:
        return sum(run.evaluations for run in self.runs)

    @property
    def training_hours(self) -> float | None:
        """From the start of the first training to the end of the last; None if the cluster has no GPUs."""
        hours = [run.hours for run in self.runs if not run.cached]
        known = [value for value in hours if value is not None]
        return makespan(known, self.runs_at_a_time) if len(known) == len(hours) else None

    @property
    def sweep_hours(self) -> float | None:
        """Of the sweeps, one after the other, at most; None if the cluster has no GPUs."""
        hours = [sweep.hours for sweep in self.sweeps if not sweep.cached]
        known = [value for value in hours if value is not None]
        return sum(known) if len(known) == len(hours) else None

    @property
    def weights(self) -> int:
        """Bytes of all weights."""
        return sum(run.weights for run in self.runs)

    @property
    def predictions(self) -> int | None:
        """Bytes of all predictions; None if those of a run are not known."""
        known = [run.predictions for run in self.runs if run.predictions is not None]
        return sum(known) if len(known) == len(self.runs) else None

    @property
    def checkpoints(self) -> int:
        """Bytes of checkpoints while as many trainings run as have room: of each those kept, and one being written."""
        largest = heapq.nlargest(self.runs_at_a_time, (run.checkpoint for run in self.runs if not run.cached))
        return (CheckpointStore.keep + 1) * sum(largest)

    def total(self, runs: Iterable[PlannedRun]) -> Total:
        chosen = list(runs)
        return Total(
            len(chosen),
            sum(run.gpu_hours for run in chosen),
            sum(run.gpu_hours for run in chosen if not run.cached),
        )

    @property
    def by_dataset(self) -> dict[str, Total]:
        names = sorted({run.dataset for run in self.runs})
        return {name: self.total(run for run in self.runs if run.dataset == name) for name in names}

    @property
    def by_table(self) -> dict[str, Total]:
        """A run counts in every table that it has numbers in."""
        return {
            name: self.total(run for run in self.runs if run.experiment in experiments)
            for name, experiments in self.tables.items()
        }

    def as_json(self) -> dict[str, Any]:
        """All of it in plain values."""
        return {
            "scale": self.scale,
            "cluster": self.cluster,
            "nodes": self.nodes,
            "gpu": self.gpu,
            "runs_at_a_time": self.runs_at_a_time,
            "runs": [asdict(run) for run in self.runs],
            "sweeps": [asdict(sweep) for sweep in self.sweeps],
            "datasets": {name: total._asdict() for name, total in self.by_dataset.items()},
            "tables": {name: total._asdict() for name, total in self.by_table.items()},
            "total": self.total(self.runs)._asdict()
            | {
                "hours": self.training_hours,
                "evaluations": self.evaluations,
                "sweep_gpu_hours": sum(sweep.gpu_hours for sweep in self.sweeps),
                "sweep_hours": self.sweep_hours,
                "weights": self.weights,
                "predictions": self.predictions,
                "checkpoints": self.checkpoints,
            },
            "unknown": self.unknown,
        }


def makespan(hours: Iterable[float], slots: int) -> float:
    """When the last of some jobs ends, if the longest start first and each of the others as soon as a slot is free.

    Args:
        hours: of each job.
        slots: how many jobs run at a time.

    Raises:
        ValueError: for no slots.
    """
    if slots < 1:
        raise ValueError(f"slots is {slots}, expected at least 1")
    free = [0.0] * slots
    for length in sorted(hours, reverse=True):
        heapq.heapreplace(free, free[0] + length)
    return max(free)


def runs_at_a_time(cluster: ClusterConfig, nodes: int, cores: int) -> int:
    """How many trainings a cluster has room for.

    Args:
        cluster: what each of them asks for.
        nodes: how many; a node has as many whole GPUs as one training asks for.
        cores: of a node without GPUs.
    """
    workers = max(cluster.workers, 1)
    gpus = workers * cluster.gpus_per_worker
    on_a_node = math.floor(math.ceil(gpus) / gpus) if gpus else cores // (workers * cluster.cpus_per_worker)
    return nodes * max(on_a_node, 1)


def workers_of(cluster: ClusterConfig, batch_size: int) -> int:
    """How many workers a training has at most: as ``pipeline.cluster.ray_train.for_batch``, without loading Ray.

    Raises:
        BatchShareError: if they cannot share the batch.
    """
    if cluster.min_workers is None:
        return Share.of_batch(batch_size, cluster.images_per_worker, world_size=max(cluster.workers, 1)).world_size
    parts = Share.of_batch(batch_size, cluster.images_per_worker, world_size=cluster.min_workers).parts
    return min(cluster.workers, parts)


def plan(project: Project, scale: str | None, cluster: str | None, nodes: int) -> Plan:
    """What `dvc repro` would run.

    Args:
        project: the project. If DVC is to be asked, its folder must be the working directory.
        scale: all of a scale, as `pointrend select` would choose; what is selected if None.
        cluster: a file of ``configs/clusters``; the selected one if None.
        nodes: how many nodes, of as many GPUs as one training asks for.

    Raises:
        UserError: if a configuration is wrong or missing, or ``configs/throughput.yaml`` lacks a figure.
    """
    params = project.params() if project.params_file.is_file() else None
    name = cluster or (params or project.params()).cluster
    if scale is None:
        params = params or project.params()
        scale, selection = params.scale, project.selection()
    else:
        # Only what DVC watches depends on the data root.
        selection = project.select(scale, params.data_root if params else "")
    if params is not None and params.scale != scale:
        params = None
    if params is not None and project.selection_file.is_file():
        cached, unknown = _cached(project, params, selection)
    else:
        cached, unknown = {}, f"scale {scale} is not the selected one, and DVC knows of no other"
    throughput = load(Throughput, project.configs / "throughput.yaml")
    estimates = _Estimates(project, scale, selection, params, throughput, project.cluster(name), nodes)
    runs = [estimates.run(run, cached.get(f"train@{run}")) for run in selection.runs]
    sweeps = [estimates.sweep(sweep, cached.get(f"sweep@{sweep}")) for sweep in selection.sweeps]
    experiments = {run.experiment for run in runs}
    tables = {table: project.table(table).experiments & experiments for table in project.table_names()}
    return Plan(
        scale=scale,
        cluster=name,
        nodes=nodes,
        gpu=throughput.gpu,
        runs_at_a_time=estimates.runs_at_a_time,
        runs=runs,
        sweeps=sweeps,
        tables={table: found for table, found in tables.items() if found},
        unknown=unknown if None in {run.cached for run in runs} | {sweep.cached for sweep in sweeps} else None,
    )


class _Estimates:
    """What selected runs and sweeps take on a cluster, with the changed settings of ``params.yaml`` if given."""

    def __init__(
        self,
        project: Project,
        scale: str,
        selection: Selection,
        params: Params | None,
        throughput: Throughput,
        cluster: ClusterConfig,
        nodes: int,
    ) -> None:
        self._project, self._scale, self._selection, self._params = project, scale, selection, params
        self._throughput, self._cluster = throughput, cluster
        self._counter, self._costs = Counter(), dict[str, Cost]()
        self.runs_at_a_time = runs_at_a_time(cluster, nodes, usable_cpus())

    def run(self, name: str, cached: bool | None) -> PlannedRun:
        config, evaluation = self._project.run(self._scale, name, self._selection.runs[name], self._params)
        schedule = config.schedule
        workers = workers_of(self._cluster, schedule.batch_size)
        cost = self._cost(config)
        gpu_hours = self._gpu_hours(config, cost)
        evaluations = len(evaluation.root)
        images = self._val_images(config.dataset)
        bytes_of_one = self._throughput.prediction_bytes[config.model.task]
        return PlannedRun(
            run=name,
            experiment=config.experiment,
            dataset=config.dataset,
            seed=config.seed,
            updates=schedule.updates,
            batch_size=schedule.batch_size,
            cached=cached,
            gpu_hours=gpu_hours,
            hours=self._hours(gpu_hours, workers),
            evaluations=evaluations,
            weights=cost.weights,
            checkpoint=cost.checkpoint,
            predictions=None if images is None else images * evaluations * bytes_of_one,
        )

    def sweep(self, name: str, cached: bool | None) -> PlannedSweep:
        task = resolve_selected(self._project, self._scale, name, self._selection, self._params)
        if isinstance(task, SubdivisionTask):
            trials, updates, batch_size, gpu_hours, hours = len(task.points), 0, 0, 0.0, self._hours(0.0, 1)
        else:
            trials, schedule = _trials(task), task.base.schedule
            updates, batch_size = schedule.updates, schedule.batch_size
            each = self._gpu_hours(task.base, self._cost(task.base))
            gpu_hours, of_one = trials * each, self._hours(each, 1)
            # Each trial has one worker.
            hours = (
                None if of_one is None else makespan([of_one] * trials, self._cluster.workers or self.runs_at_a_time)
            )
        return PlannedSweep(
            sweep=name,
            kind=task.kind,
            dataset=task.dataset,
            trials=trials,
            updates=updates,
            batch_size=batch_size,
            cached=cached,
            gpu_hours=gpu_hours,
            hours=hours,
        )

    def _cost(self, config: RunConfig) -> Cost:
        # Seeds cost the same.
        key = config.model_copy(update={"run": "", "seed": 0}).model_dump_json()
        if key not in self._costs:
            size = training_size(config, self._image_size)
            self._costs[key] = self._counter.cost(config, size, self._throughput.foreground)
        return self._costs[key]

    def _gpu_hours(self, config: RunConfig, cost: Cost) -> float:
        schedule = config.schedule
        backbone = MODELS[config.model.name].backbone
        rate = self._throughput.images_per_second(cost.flops, backbone, schedule.precision)
        return schedule.updates * schedule.batch_size / rate / SECONDS_PER_HOUR

    def _hours(self, gpu_hours: float, workers: int) -> float | None:
        gpus = workers * self._cluster.gpus_per_worker
        return gpu_hours / gpus if gpus else None

    def _image_size(self, name: str) -> Size:
        """(H, W) of a dataset's typical training image."""
        dataset = self._project.dataset(name)
        if not dataset.synthetic:
            return self._throughput.image_size(name)
        drawn = self._project.synthetic(dataset.root)
        if isinstance(drawn, ShapesConfig):
            return drawn.image_size, drawn.image_size
        return drawn.height, drawn.width

    def _val_images(self, name: str) -> int | None:
        dataset = self._project.dataset(name)
        return self._project.synthetic(dataset.root).val_images if dataset.synthetic else dataset.val.num_images


def _trials(task: TrainingTask) -> int:
    """How many trials a sweep has; of a search, at most."""
    if isinstance(task.search, GridSearch):
        return math.prod(len(values) for values in task.space.given.values() if isinstance(values, list))
    return task.search.trials


def _cached(project: Project, params: Params, planned: Selection) -> tuple[dict[str, bool], str]:
    """For stages of trainings and sweeps whether `dvc repro` would leave them or take their results from its cache.

    DVC compares a stage with the files that are there. So only those are in the answer whose inputs are what the stages
    before them would make again: their resolved configuration, their prepared dataset, the weights they start from.

    Args:
        project: the project.
        params: ``params.yaml``.
        planned: what is asked for.

    Returns:
        the answer by stage, and why others are not in it.
    """
    outputs, selected = Outputs(project.root, params.scale), project.selection()

    def is_current(kind: str, name: str, resolved: BaseModel) -> bool:
        file = outputs.config(kind, name)
        return file.is_file() and file.read_text(encoding="utf-8") == resolved.model_dump_json(indent=1)

    makers: dict[str, set[str]] = {}  # of the datasets whose configuration is current
    for name in selected.datasets:
        dataset = project.dataset(name)
        if not is_current("datasets", name, dataset):
            continue
        if not dataset.synthetic:
            makers[name] = {f"prepare@{name}"}
        elif is_current("synthetic", dataset.root, project.synthetic(dataset.root)):
            makers[name] = {f"prepare@{name}", f"generate@{dataset.root}"}
    runs = {
        f"train@{name}": run
        for name, run in selected.runs.items()
        if planned.runs.get(name) == run and is_current("train", name, project.run(params.scale, name, run, params)[0])
    }
    sweeps = {
        f"sweep@{name}": sweep
        for name, sweep in selected.sweeps.items()
        if planned.sweeps.get(name) == sweep
        and is_current("sweep", name, resolve_selected(project, params.scale, name, selected, params))
    }
    try:
        made = set(unchanged_stages(project.root, sorted({stage for stages in makers.values() for stage in stages})))
        ready = {name for name, stages in makers.items() if stages <= made}
        starts = {f"data/{name}" for name in ready}
        prepared = {stage: run for stage, run in runs.items() if run.dataset in ready}
        first = [stage for stage, run in prepared.items() if run.starts_from in starts]
        starts |= {stage.replace("@", "/") for stage in unchanged_stages(project.root, first)}
        trainings = [stage for stage, run in prepared.items() if run.starts_from in starts]
        starts |= {stage.replace("@", "/") for stage in unchanged_stages(project.root, trainings)}
        asked = [
            *trainings,
            *(s for s, sweep in sweeps.items() if sweep.dataset in ready and sweep.starts_from in starts),
        ]
        to_run = stages_to_run(project.root, asked)
    except GraphError as error:
        return {}, str(error)
    return {stage: stage not in to_run for stage in asked}, "what makes their inputs is to run first"
