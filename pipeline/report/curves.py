"""Training curves."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from pipeline.report.results import RunResult


def training_curves(results: Sequence[RunResult], path: Path) -> None:
    """Total loss over updates, a line per run; thin for the values, thick for their running mean."""
    figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
    for index, result in enumerate(results):
        if not result.losses:
            continue
        updates, losses = zip(*result.losses, strict=True)
        smooth = [sum(losses[max(0, i - 4) : i + 1]) / len(losses[max(0, i - 4) : i + 1]) for i in range(len(losses))]
        axes.plot(updates, losses, color=f"C{index}", alpha=0.25, linewidth=0.8)
        axes.plot(
            updates, smooth, color=f"C{index}", linewidth=1.8, label=f"{result.run} ({result.parameters['head']})"
        )
    axes.set_xlabel("update")
    axes.set_ylabel("total loss")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)
