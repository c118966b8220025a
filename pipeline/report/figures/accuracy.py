"""Accuracy over the two settings of inference: output resolution and points per subdivision step (Table 3)."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from pipeline.report.figures.figure import Figure, save_chart

Series = Mapping[str, Sequence[tuple[int, float]]]  # (setting, metric) pairs by label

LEAST_SPAN = 1.0  # least range of the metric's axis, in percent, so that differences below 0.1 do not look like gains


def draw_accuracy_figure(
    dataset: str, metric: str, by_resolution: Series, by_points: Series, folder: Path
) -> list[Figure]:
    """Draws a metric over output resolution and over N into a folder, a panel for each.

    Args:
        dataset: the dataset that it was measured on.
        metric: the label of the axis.
        by_resolution: (M, metric) pairs by label, M the side of the masks; a single pair gets a horizontal line.
        by_points: (N, metric) pairs by label, N the most points of a subdivision step.
        folder: the folder of the PNG file.

    Returns:
        The figure; an empty list if there is no pair.
    """
    shown = [
        (label, named, series)
        for label, named, series in (
            ("output resolution M×M", lambda side: f"{side}×{side}", by_resolution),
            ("points per subdivision step N", _points_label, by_points),
        )
        if any(series.values())
    ]
    if not shown:
        return []
    figure, axes = plt.subplots(
        1, len(shown), figsize=(4.6 * len(shown), 3.4), layout="constrained", sharey=True, squeeze=False
    )
    labels = dict.fromkeys(label for _, _, series in shown for label, pairs in series.items() if pairs)
    colors = {label: f"C{number}" for number, label in enumerate(labels)}
    for panel, (label, named, series) in zip(axes[0], shown, strict=True):
        _draw_series(panel, {name: sorted(pairs) for name, pairs in series.items() if pairs}, colors)
        ticks = sorted({setting for pairs in series.values() for setting, _ in pairs})
        panel.set_xscale("log", base=2)
        panel.set_xticks(ticks, [named(tick) for tick in ticks])
        panel.minorticks_off()
        panel.set_xlabel(label)
        panel.margins(0.14, 0.12)
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    low, high = axes[0, 0].get_ylim()
    missing = max(LEAST_SPAN - (high - low), 0.0) / 2
    axes[0, 0].set_ylim(low - missing, high + missing)
    axes[0, 0].set_ylabel(metric)
    # Below the panels the legend covers no number.
    handles = {line.get_label(): line for panel in axes[0] for line in panel.get_lines()}
    figure.legend(
        [handles[label] for label in labels], labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9
    )
    file = f"accuracy_{dataset}.png"
    width = save_chart(figure, folder / file)
    plt.close(figure)
    caption = "Along a line, weights and boxes are the same and only the rendering of the masks differs."
    return [Figure(f"Accuracy over resolution and points: {dataset}", caption, file, width)]


def _draw_series(panel: Axes, series: Series, colors: Mapping[str, str]) -> None:
    for label, pairs in series.items():
        settings, values = zip(*pairs, strict=True)
        panel.plot(settings, values, marker="o", color=colors[label], label=label)
        if len(pairs) == 1:
            panel.axhline(values[0], color=colors[label], linestyle=":", linewidth=1)
        for setting, value in pairs:
            panel.annotate(
                f"{value:.1f}", (setting, value), xytext=(-3, 5), textcoords="offset points", ha="right", fontsize=8
            )


def _points_label(points: int) -> str:
    """784 as "28²"; a number that is not a square unchanged."""
    side = math.isqrt(points)
    return f"{side}²" if side**2 == points else str(points)
