"""Writes the losses, learning rate and speed of a training to its metrics file."""

import statistics
from collections.abc import Callable, Mapping

from pipeline.training.loop import Update
from pipeline.training.metrics_file import VALIDATION, MetricsFile

UPDATES_PER_LOG = 10


class RunLog:
    """Logs means over :data:`UPDATES_PER_LOG` updates. Steps that are in the file already are not logged again.

    Args:
        file: the run's metrics file.
        notify: called after each log entry.
    """

    def __init__(self, file: MetricsFile, notify: Callable[[], None]) -> None:
        self._file, self._notify = file, notify
        # A training that resumes from a checkpoint repeats updates that were logged before the interruption.
        self._logged, self._validated = file.last_step("loss"), file.last_step(VALIDATION)
        self._window: list[Update] = []
        self.last_losses: dict[str, float] = {}

    def started(self, update: int, workers: int, passes: int) -> None:
        """Logs the number of workers and of passes of each worker, from ``update`` on; a restart may change them."""
        self._file.append(update, {"workers": workers, "passes": passes})

    @property
    def note(self) -> str:
        """The last logged loss, for a progress bar. Reading the current one would wait for the device."""
        return f"loss {sum(self.last_losses.values()):.3f}" if self.last_losses else ""

    def add(self, update: Update) -> None:
        self._window.append(update)
        if update.number % UPDATES_PER_LOG == 0:
            self.flush()

    def flush(self) -> None:
        """Logs the updates since the last entry."""
        if not self._window:
            return
        window, self._window = self._window, []
        step = window[-1].number
        mean = {name: statistics.fmean(u.losses[name] for u in window) for name in window[0].losses}
        self.last_losses = mean
        if step > self._logged:
            values = {
                **mean,
                "loss": sum(mean.values()),
                "learning_rate": window[-1].learning_rate,
                "gradient_norm": statistics.fmean(u.gradient_norm for u in window),
                "updates_per_second": len(window) / sum(u.seconds for u in window),
            }
            self._file.append(step, values)
        self._notify()

    def validated(self, update: int, scores: Mapping[str, float]) -> None:
        """Logs the scores of the val images after ``update`` updates."""
        if scores and update > self._validated:
            self._file.append(update, {f"{VALIDATION}{name}": value for name, value in scores.items()})
            self._notify()
