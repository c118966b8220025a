"""Training curves: losses, and scores on the val images."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from pipeline.report.figures import COLORS
from pipeline.report.figures.figure import save_chart
from pipeline.report.results import RunResult

STYLES = ("-", "--", ":", "-.")  # of as many experiments as there are colours, one after the other
WINDOWS = 20  # the window of the running mean is the length of a line divided by this


def training_curves(results: Sequence[RunResult], path: Path) -> int:
    """Draws the running mean of the total loss over updates: a panel for each dataset, a colour for each experiment.

    The seeds of an experiment are lines of the same colour. Runs without a loss are left out. Returns the picture's
    width on the page.
    """
    drawn = [result for result in results if result.losses]
    datasets = list(dict.fromkeys(result.dataset for result in drawn))
    rows = max(1, len(datasets))
    figure, axes = plt.subplots(rows, figsize=(9, 2.7 * rows), layout="constrained", squeeze=False)
    for panel, dataset in zip(axes[:, 0], datasets, strict=False):
        _draw_dataset(panel, dataset, [result for result in drawn if result.dataset == dataset])
    if not datasets:
        axes[0, 0].text(0.5, 0.5, "no run has logged a loss", ha="center", va="center")
        axes[0, 0].set_axis_off()
    width = save_chart(figure, path)
    plt.close(figure)
    return width


def _draw_dataset(panel: Axes, dataset: str, results: Sequence[RunResult]) -> None:
    experiments = list(dict.fromkeys(result.label for result in results))
    for number, experiment in enumerate(experiments):
        runs = [result for result in results if result.label == experiment]
        label = experiment if len(runs) == 1 else f"{experiment} ({len(runs)} seeds)"
        for run in runs:
            updates, losses = zip(*run.losses, strict=True)
            panel.plot(
                updates,
                running_mean(losses),
                color=COLORS[number % len(COLORS)],
                linestyle=STYLES[number // len(COLORS) % len(STYLES)],
                linewidth=1.3,
                alpha=0.85,
                label=label,
            )
            label = "_"  # the legend has each experiment once
    panel.set_ylim(bottom=0)
    _label(panel, dataset, "total loss")


def _label(panel: Axes, dataset: str, values: str) -> None:
    panel.set_title(dataset, loc="left", fontsize=10)
    panel.set_xlabel("update", fontsize=9)
    panel.set_ylabel(values, fontsize=9)
    panel.tick_params(labelsize=8)
    panel.grid(alpha=0.3)
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))


def validation_curves(results: Sequence[RunResult], path: Path) -> int:
    """Draws the scores of validated runs over updates, a panel for each dataset, with the best weights marked.

    Args:
        results: runs, at least one of them with validations; the others are left out.
        path: the PNG file to write.

    Returns:
        the picture's width on the page.
    """
    drawn = [result for result in results if result.validations]
    datasets = list(dict.fromkeys(result.dataset for result in drawn))
    figure, axes = plt.subplots(len(datasets), figsize=(9, 2.7 * len(datasets)), layout="constrained", squeeze=False)
    for panel, dataset in zip(axes[:, 0], datasets, strict=True):
        runs = [result for result in drawn if result.dataset == dataset]
        for number, run in enumerate(runs):
            color = COLORS[number % len(COLORS)]
            panel.plot(*zip(*run.validations, strict=True), ".-", color=color, linewidth=1.3, label=run.run)
            if run.best is not None and run.best.score is not None:
                panel.plot(run.best.update, run.best.score, "o", markersize=10, fillstyle="none", color=color)
        panel.set_xlim(left=0)
        assert runs[0].config.validation is not None  # it has validations
        _label(panel, dataset, f"{runs[0].config.validation.label}, percent")
    width = save_chart(figure, path)
    plt.close(figure)
    return width


def running_mean(values: Sequence[float]) -> list[float]:
    """The mean of each value and the values before it, in a window of a twentieth of all values but at least 5."""
    window = max(5, len(values) // WINDOWS)
    return [sum(values[max(0, end - window) : end]) / min(end, window) for end in range(1, len(values) + 1)]
