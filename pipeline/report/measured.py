"""The numbers that runs measured, and how far their differences move over other images and seeds."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.config.tables import Measurement
from pipeline.metrics.bootstrap import interval
from pipeline.report.results import RunResult

SEED = 0  # of the resampling of seeds


@dataclass(frozen=True)
class Measured:
    """The numbers of one :class:`Measurement`.

    Attributes:
        numbers: by the name of their run, which are runs of different seeds.
        by_seed: the same numbers by seed.
        resamples: the metric on each resample of the val images, by seed; only for seeds with resamples.
        missing: why there are no numbers.
    """

    numbers: Mapping[str, float] = field(default_factory=dict)
    by_seed: Mapping[int, float] = field(default_factory=dict)
    resamples: Mapping[int, Sequence[float]] = field(default_factory=dict)
    missing: str = ""


def measure(cell: Measurement, results: Sequence[RunResult], missing: Mapping[str, str]) -> Measured:
    """Our numbers for a cell, one per seed; or none, and why.

    Args:
        cell: the cell.
        results: the results of the runs.
        missing: why other selected runs have no results, by the run's name.
    """
    runs = [result for result in results if result.experiment == cell.experiment]
    if not runs:
        reasons = [reason for run, reason in missing.items() if run.rpartition("-")[0] == cell.experiment]
        return Measured(missing=reasons[0] if reasons else f"no run of {cell.experiment} was selected")
    if not any(cell.evaluation in run.evaluations for run in runs):
        return Measured(missing=f"{cell.experiment} was not evaluated at {cell.evaluation}")
    return measured(runs, cell.evaluation, cell.metric)


def measured(runs: Sequence[RunResult], setting: str, metric: str) -> Measured:
    """The numbers of the runs of an experiment under an evaluation setting; or none, and why.

    Args:
        runs: runs of different seeds; those without the setting are left out.
        setting: its name.
        metric: the name of the metric.
    """
    found = [run for run in runs if setting in run.evaluations and metric in run.evaluations[setting].metrics]
    numbers = {run.run: run.evaluations[setting].metrics[metric] for run in found}
    defined = [run for run in found if not math.isnan(numbers[run.run])]
    if found and not defined:
        return Measured(missing=f"{metric} is not defined: there is no ground truth to average over")
    if not defined:
        return Measured(missing=f"{metric} was not measured")
    return Measured(
        {run.run: numbers[run.run] for run in defined},
        {run.seed: numbers[run.run] for run in defined},
        {run.seed: drawn for run in defined if (drawn := run.evaluations[setting].resamples.get(metric)) is not None},
    )


def changes(experiment: str, results: Sequence[RunResult]) -> str:
    """The settings that were overridden for the runs of an experiment, as text."""
    found = (result.changes for result in results if result.experiment == experiment)
    return "; ".join(dict.fromkeys(text for text in found if text))


def paired_seeds(cells: Sequence[Measured]) -> list[int]:
    """The seeds for which every cell has a number."""
    return sorted(set.intersection(*(set(cell.by_seed) for cell in cells)))


def difference_interval(plus: Sequence[Measured], minus: Sequence[Measured]) -> tuple[float, float] | None:
    """The 95% interval of a sum of numbers minus another sum, by a bootstrap over images and seeds.

    Runs of one dataset are scored on the same resamples of its images, so what makes an image hard for all of them
    drops out of their difference. Each resample of the images is combined with a resample of the seeds, over which the
    difference is averaged. With one seed the interval is over images alone.

    Returns:
        Lower and upper end; None if the cells have no seed in common, or for one of these seeds a cell has no
        resamples, or as many as no other.
    """
    cells = [*plus, *minus]
    seeds = paired_seeds(cells)
    if not seeds or any(seed not in cell.resamples for cell in cells for seed in seeds):
        return None
    if len({len(cell.resamples[seed]) for cell in cells for seed in seeds}) != 1:
        return None

    def total(terms: Sequence[Measured]) -> np.ndarray:
        return np.sum([[cell.resamples[seed] for seed in seeds] for cell in terms], axis=0)

    differences = total(plus) - (total(minus) if minus else 0)  # (seeds, resamples)
    resamples = differences.shape[1]
    drawn = np.random.default_rng(SEED).integers(len(seeds), size=(resamples, len(seeds)))
    low, high = interval(differences[drawn, np.arange(resamples)[:, None]].mean(axis=1))
    return None if math.isnan(low) else (low, high)
