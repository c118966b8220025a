"""Plain CSV files of training curves and of accuracy over output resolution, which `dvc plots` draws and compares."""

import csv
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

from pipeline.config.evaluations import RenderingConfig
from pipeline.report.results import RunResult

LOSS = "training_loss.csv"
RESOLUTION = "accuracy_over_resolution.csv"
METRICS = ("AP", "AP_star", "boundary_AP")  # drawn over the resolution


def write_plots(results: Sequence[RunResult], folder: Path) -> None:
    """Writes the plots' data into a new folder. An experiment is named with its overridden settings.

    ``training_loss.csv`` has the columns dataset, experiment, run, step and loss, the total loss after so many updates.
    ``accuracy_over_resolution.csv`` has dataset, experiment, resolution (the side of the masks), AP, AP_star and
    boundary_AP in percent: the median over seeds, empty where it was not measured.

    Args:
        results: the results of the runs.
        folder: the folder to make.
    """
    folder.mkdir()
    _write(
        folder / LOSS,
        ("dataset", "experiment", "run", "step", "loss"),
        ((result.dataset, result.label, result.run, step, loss) for result in results for step, loss in result.losses),
    )
    _write(folder / RESOLUTION, ("dataset", "experiment", "resolution", *METRICS), _over_resolution(results))


def _over_resolution(results: Sequence[RunResult]) -> Iterable[tuple[str | int | float, ...]]:
    """A row for each experiment and resolution, at the number of points that most of its settings have."""
    for label in dict.fromkeys(result.label for result in results):
        runs = [result for result in results if result.label == label]
        settings = {
            name: setting for name, setting in runs[0].settings.root.items() if isinstance(setting, RenderingConfig)
        }
        usual = statistics.mode(setting.num_points for setting in settings.values()) if settings else None
        for name, setting in sorted(settings.items(), key=lambda item: item[1].resolution):
            found = [run.evaluations[name].metrics for run in runs if name in run.evaluations]
            if setting.num_points == usual and found:
                values = ([metrics[key] for metrics in found if key in metrics] for key in METRICS)
                medians = (statistics.median(each) if each else "" for each in values)
                yield runs[0].dataset, label, setting.resolution, *medians


def _write(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str | int | float]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
