"""What a run tells MLflow while it trains."""

import statistics
from collections.abc import Callable
from pathlib import Path

from pipeline.tracking.spool import MetricSpool
from pipeline.training.loop import Update

UPDATES_PER_LOG = 10


class RunLog:
    """Losses, learning rate and speed of a run, to MLflow while it trains, by way of a spool.

    Each entry is the mean over :data:`UPDATES_PER_LOG` updates. Steps that a run logged before it was interrupted are
    not logged twice.

    Args:
        file: the run's spool.
        logged: the last step that was logged before.
        notify: called when the file has grown.
    """

    def __init__(self, file: Path, logged: int, notify: Callable[[], None]) -> None:
        self._spool = MetricSpool(file)
        self._notify = notify
        # A spool may be ahead of the server; the server has steps of a spool that was deleted.
        self._logged = max(logged, self._spool.last_step())
        self._window: list[Update] = []
        self.last_losses: dict[str, float] = {}

    def started(self, update: int, workers: int, passes: int) -> None:
        """Logs how the batch is split up from an update on: it may be another way after a restart."""
        self._spool.append(update, {"workers": workers, "passes": passes})

    @property
    def note(self) -> str:
        """The last logged loss, for a progress bar: the current one is still on the device."""
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
            self._spool.append(step, values)
        self._notify()
