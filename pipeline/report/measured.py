"""The numbers that runs measured, and how far their differences move over other images and seeds."""

import math
import statistics
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
        experiment: whose runs they are.
        numbers: by the name of their run, which are runs of different seeds.
        by_seed: the same numbers by seed.
        resamples: the metric on each resample of the val images, by seed; only for seeds with resamples.
        missing: why there are no numbers.
    """

    experiment: str
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
        return Measured(cell.experiment, missing=reasons[0] if reasons else f"no run of {cell.experiment} was selected")
    evaluated = [run for run in runs if cell.evaluation in run.evaluations]
    if not evaluated:
        return Measured(cell.experiment, missing=f"{cell.experiment} was not evaluated at {cell.evaluation}")
    found = [run for run in evaluated if cell.metric in run.evaluations[cell.evaluation].metrics]
    numbers = {run.run: run.evaluations[cell.evaluation].metrics[cell.metric] for run in found}
    defined = [run for run in found if not math.isnan(numbers[run.run])]
    if found and not defined:
        return Measured(
            cell.experiment, missing=f"{cell.metric} is not defined: there is no ground truth to average over"
        )
    if not defined:
        return Measured(cell.experiment, missing=f"{cell.metric} was not measured")
    return Measured(
        cell.experiment,
        {run.run: numbers[run.run] for run in defined},
        {run.seed: numbers[run.run] for run in defined},
        {
            run.seed: drawn
            for run in defined
            if (drawn := run.evaluations[cell.evaluation].resamples.get(cell.metric)) is not None
        },
    )


def changes(experiment: str, results: Sequence[RunResult]) -> str:
    """The settings that were overridden for the runs of an experiment, as text."""
    found = (result.changes for result in results if result.experiment == experiment)
    return "; ".join(dict.fromkeys(text for text in found if text))


def difference(plus: Sequence[Measured], minus: Sequence[Measured]) -> float | None:
    """A sum of numbers minus another sum: of each experiment, the median over its seeds.

    Returns:
        The difference; None if an experiment has no seed with all of its numbers.
    """
    medians = []
    for terms in _by_experiment(plus, minus):
        if not (seeds := _seeds(terms)):
            return None
        medians.append(statistics.median(sum(sign * cell.by_seed[seed] for sign, cell in terms) for seed in seeds))
    return sum(medians)


def difference_interval(plus: Sequence[Measured], minus: Sequence[Measured]) -> tuple[float, float] | None:
    """The 95% interval of a sum of numbers minus another sum, by a bootstrap over images and seeds.

    Runs of one dataset are scored on the same resamples of its images, so what makes an image hard for all of them
    drops out of their difference. Each resample of the images is combined with a resample of each experiment's seeds,
    over which its numbers are averaged. The numbers of one seed of an experiment are of the same network and stay
    together; the seeds of different experiments have nothing in common, and may be more of one than of another. An
    experiment with one seed adds nothing to the interval but its images.

    Returns:
        Lower and upper end; None if an experiment has no seed with all of its numbers, or for one of its seeds a cell
        has no resamples, or as many as no other.
    """
    groups = [(terms, _seeds(terms)) for terms in _by_experiment(plus, minus)]
    counts = {len(cell.resamples.get(seed, ())) for terms, seeds in groups for _, cell in terms for seed in seeds}
    if len(counts) != 1 or not all(seeds for _, seeds in groups) or not (resamples := counts.pop()):
        return None
    random = np.random.default_rng(SEED)
    total = np.zeros(resamples)
    for terms, seeds in groups:
        values = sum(sign * np.array([cell.resamples[seed] for seed in seeds]) for sign, cell in terms)
        drawn = random.integers(len(seeds), size=(resamples, len(seeds)))
        total += np.asarray(values)[drawn, np.arange(resamples)[:, None]].mean(axis=1)  # (resamples,)
    low, high = interval(total)
    return None if math.isnan(low) else (low, high)


def _by_experiment(plus: Sequence[Measured], minus: Sequence[Measured]) -> list[list[tuple[int, Measured]]]:
    """The cells of each experiment, with their signs."""
    groups: dict[str, list[tuple[int, Measured]]] = {}
    for sign, cells in ((1, plus), (-1, minus)):
        for cell in cells:
            groups.setdefault(cell.experiment, []).append((sign, cell))
    return list(groups.values())


def _seeds(terms: Sequence[tuple[int, Measured]]) -> list[int]:
    """The seeds for which every cell has a number."""
    return sorted(set.intersection(*(set(cell.by_seed) for _, cell in terms)))
