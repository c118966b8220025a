"""A plan of what `dvc repro` would run at a scale, and its totals. Nothing is run or written.

Hours are those that `pointrend check` has measured on the cluster, or else estimated from ``configs/throughput.yaml``.
They are of trainings and the validations inside them: without preparation, evaluation and report.
"""

import heapq
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

from pipeline.training.checkpoint import KEPT_CHECKPOINTS


@dataclass(frozen=True)
class PlannedRun:
    """One run: a training, and then its evaluations.

    Attributes:
        cached: whether DVC has the result of the training, so that nothing is trained; None if that is not known.
        gpu_hours: hours of training on one GPU: of the cluster where they were measured, or else of
            ``configs/throughput.yaml``; None if a figure is missing there.
        hours: hours of training on the cluster; None if they were not measured, and gpu_hours is None or the cluster
            has no GPUs.
        measured: where and when they were measured; None if they are estimated.
        evaluations: the number of evaluation settings.
        validations: the number of validations while it trains; they are in the hours.
        weights: bytes of the weights.
        checkpoint: bytes of one checkpoint.
        predictions: bytes over all evaluations; None if the number of val images is not known.
        artifacts: bytes of its artifacts in MLflow, without the weights.
    """

    run: str
    experiment: str
    dataset: str
    seed: int
    updates: int
    batch_size: int
    cached: bool | None
    gpu_hours: float | None
    hours: float | None
    measured: str | None
    evaluations: int
    validations: int
    weights: int
    checkpoint: int
    predictions: int | None
    artifacts: int


@dataclass(frozen=True)
class PlannedSweep:
    """One sweep. A subdivision sweep trains nothing: its trials are rendering settings.

    Attributes:
        trials: the number of trials; for a search, the largest.
        updates: updates of a trial that is not stopped early.
        cached: as for a run.
        gpu_hours: an upper limit, as if no trial were stopped early and each had the experiment's own point head; None
            if a figure is missing.
        hours: the same on the cluster; None if gpu_hours is None, or if the cluster has no GPUs.
    """

    sweep: str
    kind: Literal["training", "subdivision"]
    dataset: str
    trials: int
    updates: int
    batch_size: int
    cached: bool | None
    gpu_hours: float | None
    hours: float | None


class Total(NamedTuple):
    """The sum over some of the runs.

    Attributes:
        runs: the number of runs.
        gpu_hours: the GPU-hours of those whose hours are known.
        remaining: the same, without the runs that are known to be cached.
        runs_without_hours: the number of runs whose hours are not known.
        remaining_without_hours: the same, without the runs that are known to be cached.
    """

    runs: int
    gpu_hours: float
    remaining: float
    runs_without_hours: int
    remaining_without_hours: int


@dataclass(frozen=True)
class Plan:
    """What a scale would run on a cluster.

    Attributes:
        gpu: the name of the GPU that GPU-hours refer to.
        gpu_key: its key in ``configs/throughput.yaml``.
        has_gpus: whether the cluster has GPUs.
        runs_at_a_time: the number of runs that the cluster has room for.
        tables: the experiments of each of the paper's tables that has any at this scale.
        unknown: why it is not known whether some runs and sweeps are cached; None if it is known for all.
        missing_figures: what ``configs/throughput.yaml`` lacks for the runs and sweeps whose hours are not known.
        unused_measurements: why measured figures of these runs are not used.
        logs_models: whether the weights are logged in MLflow as well.
    """

    scale: str
    cluster: str
    nodes: int
    gpu: str
    gpu_key: str
    has_gpus: bool
    runs_at_a_time: int
    runs: list[PlannedRun]
    sweeps: list[PlannedSweep]
    tables: dict[str, set[str]]
    unknown: str | None
    missing_figures: list[str]
    unused_measurements: list[str]
    logs_models: bool

    @property
    def evaluations(self) -> int:
        return sum(run.evaluations for run in self.runs)

    @property
    def validations(self) -> int:
        """The validations of trainings that are not known to be cached."""
        return sum(run.validations for run in self.runs if not run.cached)

    @property
    def training_hours(self) -> float | None:
        """Hours from the start of the first training to the end of the last; None if the cluster has no GPUs and
        nothing was measured on it.

        Trainings whose hours are not known are left out.
        """
        hours = [run.hours for run in self.runs if not run.cached and run.hours is not None]
        return makespan(hours, self.runs_at_a_time) if self.has_gpus or self.measured else None

    @property
    def measured(self) -> dict[str, int]:
        """How many runs have measured hours, by where and when they were measured."""
        return dict(Counter(run.measured for run in self.runs if run.measured is not None))

    @property
    def sweep_hours(self) -> float | None:
        """The sum of the sweeps' hours, which are upper limits; None if the cluster has no GPUs.

        Sweeps whose hours are not known are left out.
        """
        hours = [sweep.hours for sweep in self.sweeps if not sweep.cached and sweep.hours is not None]
        return sum(hours) if self.has_gpus else None

    @property
    def weights(self) -> int:
        """Bytes of all weights."""
        return sum(run.weights for run in self.runs)

    @property
    def predictions(self) -> int | None:
        """Bytes of all predictions; None if they are not known for every run."""
        known = [run.predictions for run in self.runs if run.predictions is not None]
        return sum(known) if len(known) == len(self.runs) else None

    @property
    def artifacts(self) -> int:
        """Bytes of all artifacts in MLflow, without the weights."""
        return sum(run.artifacts for run in self.runs)

    @property
    def checkpoints(self) -> int:
        """The most bytes that checkpoints take at a time: each training keeps some while it writes another."""
        largest = heapq.nlargest(self.runs_at_a_time, (run.checkpoint for run in self.runs if not run.cached))
        return (KEPT_CHECKPOINTS + 1) * sum(largest)

    def total(self, runs: Iterable[PlannedRun]) -> Total:
        """The sum over some runs."""
        chosen = list(runs)
        known, remaining = _known(chosen), _known(run for run in chosen if not run.cached)
        return Total(
            len(chosen),
            sum(known),
            sum(remaining),
            len(chosen) - len(known),
            sum(not run.cached for run in chosen) - len(remaining),
        )

    @property
    def by_dataset(self) -> dict[str, Total]:
        names = sorted({run.dataset for run in self.runs})
        return {name: self.total(run for run in self.runs if run.dataset == name) for name in names}

    @property
    def by_table(self) -> dict[str, Total]:
        """The totals of the tables. A run counts in every table that shows it."""
        return {
            name: self.total(run for run in self.runs if run.experiment in experiments)
            for name, experiments in self.tables.items()
        }

    def as_json(self) -> dict[str, Any]:
        """The plan in plain values."""
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
                "validations": self.validations,
                "sweep_gpu_hours": sum(_known(self.sweeps)),
                "sweep_hours": self.sweep_hours,
                "weights": self.weights,
                "predictions": self.predictions,
                "checkpoints": self.checkpoints,
                "artifacts": self.artifacts,
                "artifacts_weights": self.weights if self.logs_models else 0,
            },
            "unknown": self.unknown,
            "missing_figures": self.missing_figures,
            "measured": self.measured,
            "unused_measurements": self.unused_measurements,
        }


def _known(planned: Iterable[PlannedRun | PlannedSweep]) -> list[float]:
    """The GPU-hours of those runs or sweeps whose hours are known."""
    return [each.gpu_hours for each in planned if each.gpu_hours is not None]


def makespan(hours: Iterable[float], slots: int) -> float:
    """The hours until all jobs have ended, if they start longest first, each as soon as a slot is free.

    Args:
        hours: the hours of each job.
        slots: the number of jobs that run at a time.

    Raises:
        ValueError: if there are no slots.
    """
    if slots < 1:
        raise ValueError(f"slots is {slots}, expected at least 1")
    free = [0.0] * slots
    for length in sorted(hours, reverse=True):
        heapq.heapreplace(free, free[0] + length)
    return max(free)
