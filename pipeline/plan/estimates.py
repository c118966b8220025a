"""Estimates the GPU-hours, hours and bytes of runs and sweeps on a cluster."""

import math
from typing import Any

import numpy as np

from pipeline.cluster.needs import workers_for_batch
from pipeline.config.clusters import ClusterConfig
from pipeline.config.datasets import HeldOut
from pipeline.config.experiments import RunConfig
from pipeline.config.params import Params
from pipeline.config.project import Project
from pipeline.config.selection import Selection
from pipeline.config.sweep_tasks import SubdivisionTask, TrainingTask, resolve_selected
from pipeline.config.sweeps import GridSearch
from pipeline.config.synthetic import ShapesConfig
from pipeline.data.cpus import usable_cpus
from pipeline.data.manifest import read_prepared
from pipeline.plan.artifacts import artifact_bytes
from pipeline.plan.measured import Measured
from pipeline.plan.plan import PlannedRun, PlannedSweep, makespan
from pipeline.plan.throughput import Cost, Counter, Throughput, ThroughputError, training_size, validation_area
from pipeline.stage import Outputs
from pointrend.points import Size
from pointrend.specs import MODELS

SECONDS_PER_HOUR = 3600.0


def runs_at_a_time(cluster: ClusterConfig, nodes: int, cores: int) -> int:
    """The number of runs that a cluster has room for.

    Args:
        cluster: the workers of a run and their resources.
        nodes: the number of nodes; a node has as many whole GPUs as one run asks for.
        cores: the CPU cores of a node without GPUs.
    """
    workers = max(cluster.workers, 1)
    gpus = workers * cluster.gpus_per_worker
    on_a_node = math.floor(math.ceil(gpus) / gpus) if gpus else cores // (workers * cluster.cpus_per_worker)
    return nodes * max(on_a_node, 1)


def workers_of(cluster: ClusterConfig, batch_size: int) -> int:
    """The largest number of processes that train a run: its workers, or the driver alone.

    Raises:
        BatchShareError: if the batch cannot be split equally over the workers.
    """
    return max(workers_for_batch(cluster, batch_size), 1)


class Estimates:
    """Estimates selected runs and sweeps on a cluster, with the changed settings of ``params.yaml`` if given.

    Attributes:
        runs_at_a_time: see :func:`runs_at_a_time`.
        missing_figures: what the estimates so far have lacked: throughput figures, or the number of val images.
    """

    def __init__(
        self,
        project: Project,
        scale: str,
        selection: Selection,
        params: Params | None,
        throughput: Throughput,
        cluster: ClusterConfig,
        nodes: int,
        measured: Measured | None,
    ) -> None:
        self._project, self._scale, self._selection, self._params = project, scale, selection, params
        self._throughput, self._cluster, self._measured = throughput, cluster, measured
        self._tracking = project.tracking()
        self._counter, self._costs = Counter(), dict[tuple[Any, ...], Cost]()
        self.runs_at_a_time = runs_at_a_time(cluster, nodes, usable_cpus())
        self.missing_figures: list[str] = []

    def run(self, name: str, cached: bool | None) -> PlannedRun:
        config, evaluation = self._project.run(self._scale, name, self._selection.runs[name], self._params)
        schedule, cost = config.schedule, self._cost(config)
        measurement = self._measured.find(config, config.model.task) if self._measured else None
        trained = self._trained_images(config, cost)
        if measurement is None:
            gpu_hours = self._gpu_hours(config, cost, trained)
            hours = self._hours(gpu_hours, workers_of(self._cluster, schedule.batch_size))
        else:
            seconds = measurement.seconds_per_update / schedule.batch_size  # an image
            hours = None if trained is None else trained * seconds / SECONDS_PER_HOUR
            gpus = measurement.workers * self._cluster.gpus_per_worker
            gpu_hours = hours * gpus if gpus and hours is not None else self._gpu_hours(config, cost, trained)
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
            hours=hours,
            measured=measurement.where if measurement else None,
            evaluations=evaluations,
            validations=schedule.validations,
            weights=cost.weights,
            checkpoint=cost.checkpoint,
            predictions=None if images is None else images * evaluations * bytes_of_one,
            artifacts=artifact_bytes(self._tracking, evaluations > 0),
        )

    def sweep(self, name: str, cached: bool | None) -> PlannedSweep:
        task = resolve_selected(self._project, self._scale, name, self._selection, self._params)
        if isinstance(task, SubdivisionTask):
            trials, updates, batch_size = len(task.points), 0, 0
            gpu_hours: float | None = 0.0
            hours = self._hours(gpu_hours, 1)
        else:
            trials, schedule = _trials(task), task.base.schedule
            updates, batch_size = schedule.updates, schedule.batch_size
            # Its trials are scored at their rungs, which is not in the hours, as evaluations are not.
            each = self._gpu_hours(task.base, self._cost(task.base), updates * batch_size)
            gpu_hours = None if each is None else trials * each
            hours = self._hours(each, 1)  # each trial has one worker
            if hours is not None:
                hours = makespan([hours] * trials, self._cluster.workers or self.runs_at_a_time)
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
        size = training_size(config, self._image_size)
        # What a network costs for an image depends on nothing else: not on seed, schedule or sampling strategy.
        points = config.sampling.num_points if config.sampling else None
        key = config.model.model_dump_json(), config.point_head_size, points, size
        if key not in self._costs:
            self._costs[key] = self._counter.cost(config, size, self._throughput.foreground)
        return self._costs[key]

    def _trained_images(self, config: RunConfig, cost: Cost) -> float | None:
        """The images of a training's updates, and the training images that its validations take as long as.

        A val image takes its share of a training image's operations: those forward, on as many pixels as it has. None
        if validations are of images whose number or size is not known.
        """
        schedule = config.schedule
        images = float(schedule.updates * schedule.batch_size)
        if not schedule.validations:
            return images
        val_images = self._val_images(config.dataset)
        if val_images is None:
            self._miss(f"{config.dataset} has an unknown number of val images; run `dvc repro prepare` first")
            return None
        height, width = training_size(config, self._image_size)
        try:
            area = validation_area(config, self._image_size(config.dataset))
        except ThroughputError as error:
            self._miss(str(error))
            return None
        share = cost.forward / cost.flops * area / (height * width)
        return images + schedule.validations * val_images * share

    def _gpu_hours(self, config: RunConfig, cost: Cost, images: float | None) -> float | None:
        """Hours on one GPU for so many images; None where the throughput figures lack the backbone or precision."""
        if images is None:
            return None
        backbone = MODELS[config.model.name].backbone
        try:
            rate = self._throughput.images_per_second(cost.flops, backbone, config.schedule.precision)
        except ThroughputError as error:
            self._miss(str(error))
            return None
        return images / rate / SECONDS_PER_HOUR

    def _miss(self, reason: str) -> None:
        if reason not in self.missing_figures:
            self.missing_figures.append(reason)

    def _hours(self, gpu_hours: float | None, workers: int) -> float | None:
        gpus = workers * self._cluster.gpus_per_worker
        return gpu_hours / gpus if gpus and gpu_hours is not None else None

    def _image_size(self, name: str) -> Size:
        """(H, W) of a dataset's typical training image."""
        dataset = self._project.dataset(name)
        if not dataset.synthetic:
            prepared = Outputs(self._project.root, self._scale).prepared(name)
            if name in self._throughput.image_sizes or not prepared.is_dir():
                return self._throughput.image_size(name)
            images = read_prepared(prepared).manifest("train")
            return int(np.median(images["height"])), int(np.median(images["width"]))
        drawn = self._project.synthetic(dataset.root)
        if isinstance(drawn, ShapesConfig):
            return drawn.image_size, drawn.image_size
        return drawn.height, drawn.width

    def _val_images(self, name: str) -> int | None:
        dataset = self._project.dataset(name)
        if dataset.synthetic:
            return self._project.synthetic(dataset.root).val_images
        given = None if isinstance(dataset.val, HeldOut) else dataset.val.num_images
        prepared = Outputs(self._project.root, self._scale).prepared(name)
        return read_prepared(prepared).manifest("val").num_rows if given is None and prepared.is_dir() else given


def _trials(task: TrainingTask) -> int:
    """The number of trials of a sweep; for a search, the largest."""
    if isinstance(task.search, GridSearch):
        return math.prod(len(values) for values in task.space.given.values() if isinstance(values, list))
    return task.search.trials
