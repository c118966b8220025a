"""Charts of the page about somebody's own data: scores with their intervals, precision over recall."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt

from pipeline.metrics.average_precision import RECALLS
from pipeline.metrics.precision_recall import PrecisionRecall
from pipeline.report.charts import Axis
from pipeline.report.figures import COLORS
from pipeline.report.figures.figure import save_chart
from pipeline.report.own.comparison import Row


@dataclass(frozen=True)
class ScoreBar:
    """An experiment's score; all places in percent of the axis."""

    label: str
    value: float
    ends: tuple[float, float] | None
    place: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class ScoreChart:
    """The scores of the experiments on one axis, the best one first, with round numbers and their places."""

    bars: list[ScoreBar]
    ticks: list[tuple[float, float]]


def score_chart(rows: Sequence[Row], metric: str) -> ScoreChart:
    """Places the scores of experiments; the axis spans the scores and their intervals, in [0, 100]."""
    cells = [row.cells[metric] for row in rows]
    ends = [end for cell in cells for end in (cell.value, *(cell.interval or ()))]
    room = max(0.1 * (max(ends) - min(ends)), 1.0)
    axis = Axis(max(0.0, min(ends) - room), min(100.0, max(ends) + room))
    bars = [
        ScoreBar(
            row.experiment,
            cell.value,
            cell.interval,
            axis.percent(cell.value),
            None if cell.interval is None else (axis.percent(cell.interval[0]), axis.percent(cell.interval[1])),
        )
        for row, cell in zip(rows, cells, strict=True)
    ]
    return ScoreChart(bars, [(tick, axis.percent(tick)) for tick in axis.ticks()])


def draw_precision_recall(curves: Mapping[str, tuple[PrecisionRecall, float]], path: Path) -> int:
    """Draws precision over recall, a line for each experiment, with the point of a threshold marked on it.

    Args:
        curves: by experiment: the curve of all classes together, and the threshold.
        path: the PNG file to write.

    Returns:
        the picture's width on the page.
    """
    figure, panel = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    for number, (label, (curve, score)) in enumerate(curves.items()):
        color = COLORS[number % len(COLORS)]
        precision, recall, f1 = curve.at(score)
        panel.plot(RECALLS, curve.interpolated(), color=color, linewidth=1.4, label=f"{label}: best F1 {f1:.2f}")
        panel.plot(recall, precision, "o", color=color, markersize=8, fillstyle="none", markeredgewidth=1.8)
        panel.annotate(f"{score:.2f}", (recall, precision), (6, 6), textcoords="offset points", fontsize=8, color=color)
    panel.set(xlim=(0, 1.02), ylim=(0, 1.05))
    panel.set_xlabel("recall", fontsize=9)
    panel.set_ylabel("precision", fontsize=9)
    panel.tick_params(labelsize=8)
    panel.grid(alpha=0.3)
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False, fontsize=8, loc="best")
    width = save_chart(figure, path)
    plt.close(figure)
    return width
