"""Which experiment is best on a dataset, by how much, and whether so few images can tell."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.report.measured import Measured, difference_interval, measured, paired_seeds
from pipeline.report.results import RunResult
from pointrend.wording import counted

#: The metrics of the table, in order, with their heads; the first one that is measured decides which model is best.
METRICS = {
    "AP": "AP", "AP50": "AP50", "AP75": "AP75", "boundary_AP": "boundary AP", "AP_star": "AP*", "F1": "F1",
    "mIoU": "mIoU",
}  # fmt: skip
DECISIVE = ("AP", "mIoU")
#: With fewer val images a bootstrap's interval is too narrow to tell anything by.
FEW_IMAGES = 10


@dataclass(frozen=True)
class Cell:
    """A metric of an experiment: the median over seeds, in percent, and its 95% interval over images and seeds."""

    value: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Row:
    """An experiment under one evaluation setting.

    Attributes:
        experiment: its name, with the settings that were changed for it.
        setting: the name of the evaluation setting.
        finest: whether it is the finest of the experiment, which is compared with the others.
        seeds: how many runs it has.
        run: the first of them.
        cells: by metric, without those that were not measured.
    """

    experiment: str
    setting: str
    finest: bool
    seeds: int
    run: RunResult
    cells: dict[str, Cell]


@dataclass(frozen=True)
class Comparison:
    """The best experiment and another one.

    Attributes:
        best, other: their rows.
        metric: the head of the metric.
        difference: the best one's minus the other's, in points, the median over seeds that both have.
        interval: its 95% interval, paired over images; None where there is none.
        images: how many val images there are.
    """

    best: Row
    other: Row
    metric: str
    difference: float
    interval: tuple[float, float] | None
    images: int

    @property
    def is_told(self) -> bool:
        """Whether the best one is better than chance among the val images explains."""
        return self.interval is not None and self.images >= FEW_IMAGES and self.interval[0] > 0

    def in_words(self) -> str:
        better, other = self.best.experiment, self.other.experiment
        gain = f"{self.difference:.1f} {self.metric}" if self.difference >= 0.05 else f"less than 0.1 {self.metric}"
        if self.interval is not None:
            ends = f"the 95% interval of the difference is {self.interval[0]:+.1f} to {self.interval[1]:+.1f}"
        if self.is_told:
            return f"{better} is better than {other}, by {gain}: {ends} on {counted(self.images, 'val image')}."
        if self.interval is None:
            why = "their runs have no common resamples of the val images"
        elif self.images < FEW_IMAGES:
            why = f"{counted(self.images, 'val image')} are too few; take {FEW_IMAGES} or more"
        else:
            why = f"{ends}, which contains 0, on {counted(self.images, 'val image')}"
        return f"Whether {better} is better than {other} cannot be told. It is {gain} above, but {why}."


def rows_of(results: Sequence[RunResult]) -> list[Row]:
    """A row for every experiment and evaluation setting of one dataset, the experiments in their own order."""
    rows = []
    for experiment in dict.fromkeys(result.label for result in results if result.evaluations):
        runs = [result for result in results if result.label == experiment and result.evaluations]
        for setting in runs[0].evaluations:
            cells = {}
            for metric in shown_metrics(runs):
                found = measured(runs, setting, metric)
                if found.numbers:
                    value = statistics.median(found.numbers.values())
                    cells[metric] = Cell(value, difference_interval([found], []))
            rows.append(Row(experiment, setting, setting == runs[0].finest, len(runs), runs[0], cells))
    return rows


def shown_metrics(results: Sequence[RunResult]) -> list[str]:
    """The metrics of the table that some run has, in order; trimap mIoU after mIoU."""
    found = {name: None for run in results for evaluation in run.evaluations.values() for name in evaluation.metrics}
    trimaps = sorted((name for name in found if name.startswith("trimap")), key=lambda name: (len(name), name))
    return [name for name in [*METRICS, *trimaps] if name in found]


def head(metric: str) -> str:
    """A metric's name for people: "boundary AP", "mIoU within 8 px of boundaries"."""
    if metric.startswith("trimap"):
        return f"mIoU within {metric.removeprefix('trimap').removesuffix('_mIoU')} px of boundaries"
    return METRICS[metric]


def decisive_metric(rows: Sequence[Row]) -> str | None:
    """The metric that decides which experiment is best; None if none of them was measured."""
    return next((metric for metric in DECISIVE if any(metric in row.cells for row in rows)), None)


def ranked(rows: Sequence[Row]) -> list[Row]:
    """The finest row of every experiment that has the decisive metric, the best one first."""
    metric = decisive_metric(rows)
    if metric is None:
        return []
    finest = [row for row in rows if row.finest and metric in row.cells]
    return sorted(finest, key=lambda row: -row.cells[metric].value)


def compare(rows: Sequence[Row], results: Sequence[RunResult], images: int) -> list[Comparison]:
    """The best experiment with each of the others, from the nearest one on.

    Args:
        rows: of :func:`rows_of`.
        results: the runs that they are of.
        images: how many val images there are.
    """
    order, metric = ranked(rows), decisive_metric(rows)
    if metric is None:
        return []

    def of(row: Row) -> Measured:
        return measured([result for result in results if result.label == row.experiment], row.setting, metric)

    compared = []
    for other in order[1:]:
        plus, minus = of(order[0]), of(other)
        seeds = paired_seeds([plus, minus])
        difference = (
            statistics.median(plus.by_seed[seed] - minus.by_seed[seed] for seed in seeds)
            if seeds
            else order[0].cells[metric].value - other.cells[metric].value
        )
        interval = difference_interval([plus], [minus])
        compared.append(Comparison(order[0], other, head(metric), difference, interval, images))
    return compared
