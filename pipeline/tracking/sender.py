"""Sends the metrics of a training to MLflow while it trains."""

import threading
from typing import Self

from pipeline.tracking.client import Tracker
from pipeline.tracking.runs import send_missing
from pipeline.training.metrics_file import MetricsFile

PATIENCE_SECONDS = 5.0  # shorter outages are not reported
LONGEST_PAUSE_SECONDS = 10.0
CLOSE_SECONDS = 5.0


class MetricSender:
    """A thread that sends new entries of a metrics file to an MLflow run. It never delays or fails the training.

    Entries that it could not send stay in the file and are sent at the end of the training. The thread starts at the
    first :meth:`notify`, when the image loaders have been forked: a fork while another thread holds a lock can hang.
    """

    def __init__(self, file: MetricsFile, uri: str, experiment: str, run_id: str) -> None:
        self._file, self._uri, self._experiment, self._run_id = file, uri, experiment, run_id
        self._tracker: Tracker | None = None
        self._sent = 0  # bytes of the file
        self._news, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="metrics to MLflow", daemon=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Sends the remaining entries, for at most :data:`CLOSE_SECONDS`."""
        self._closing.set()
        self._news.set()
        if self._thread.ident is not None:
            self._thread.join(CLOSE_SECONDS)

    def notify(self) -> None:
        """Tells the thread that the file has new entries."""
        self._news.set()
        if self._thread.ident is None:
            self._thread.start()

    def _send(self) -> None:
        # Connected here and not in __init__, because the server may not answer at the start.
        tracker = self._tracker = self._tracker or Tracker(self._uri, self._experiment, patience=PATIENCE_SECONDS)
        entries, end = self._file.read(self._sent)
        if self._sent == 0:  # an earlier process may have sent some of the entries
            send_missing(tracker, self._run_id, entries)
        else:
            tracker.send_metrics(self._run_id, entries)
        self._sent = end

    def _work(self) -> None:
        pause, failing, last = 1.0, False, False
        while not last:
            self._news.wait()
            self._news.clear()
            last = self._closing.is_set()
            try:
                self._send()
            except Exception as error:  # if the problem lasts, it is raised at the end of the training
                if not failing:
                    print(
                        f"MLflow at {self._uri} does not take metrics; they are kept in {self._file.path} until "
                        f"it answers ({error})",
                        flush=True,
                    )
                failing = True
                self._closing.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
                self._news.set()
            else:
                if failing:
                    print(f"MLflow at {self._uri} takes metrics again and has all of them so far", flush=True)
                pause, failing = 1.0, False
