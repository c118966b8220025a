"""Metrics on their way to MLflow: first into a file beside the checkpoints, then, from there, to the server.

A training waits for the file only. Whatever happens to the server or to the training, each entry reaches MLflow once:
entries keep the time they were made at, so that MLflow recognises one that is sent again, and what is left in the file
is sent by whoever comes next.
"""

import json
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from mlflow.entities import Metric

from pipeline.errors import UserError
from pipeline.files import atomic_file, write_json
from pipeline.tracking.client import METRICS_PER_BATCH, Tracker, now

SENDER_PATIENCE_SECONDS = 5.0  # a hiccup shorter than this goes unmentioned
LONGEST_PAUSE_SECONDS = 10.0
CLOSE_SECONDS = 5.0


class MetricSpoolError(UserError, RuntimeError):
    """A spool that cannot be written or read."""


@dataclass(frozen=True)
class MetricSpool:
    """The metrics of one run in an append-only file of JSON lines, one for each step; only one process appends.

    How much of it an MLflow run has is in a second file. Another MLflow run, say on another server, has none of it.
    """

    file: Path

    def append(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds the metrics of a step, as of now. They are on disk when this returns, as a later checkpoint will be.

        Raises:
            MetricSpoolError: if the file cannot be written.
        """
        line = _line(step, now(), metrics)
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("ab+") as stream:
                _drop_torn_line(stream)
                stream.write(line)
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise MetricSpoolError(
                f"{self.file}: metrics could not be written; free some space and run `dvc repro` again ({error})"
            ) from error

    def entries(self) -> list[Metric]:
        """All that there is.

        Raises:
            MetricSpoolError: if the file is missing or damaged.
        """
        if not self.file.is_file():
            raise MetricSpoolError(f"{self.file}: missing; `dvc repro` makes it anew")
        return [entry for entries, _ in self._lines(0) for entry in entries]

    def restore(self, run_id: str, entries: Iterable[Metric]) -> None:
        """Begins the spool with what an MLflow run has already, for it is to hold all that a run ever logged."""
        steps: dict[tuple[int, int], dict[str, float]] = {}
        for entry in entries:
            steps.setdefault((entry.timestamp, entry.step), {})[entry.key] = entry.value
        with atomic_file(self.file, "wb") as stream:
            for (time_, step), metrics in sorted(steps.items()):
                stream.write(_line(step, time_, metrics))
        self.mark_sent(run_id, self.file.stat().st_size)

    def last_step(self) -> int:
        """The highest step there is; 0 in an empty spool."""
        return max((entry.step for entries, _ in self._lines(0) for entry in entries), default=0)

    def batches(self, run_id: str) -> Iterator[tuple[list[Metric], int]]:
        """What an MLflow run does not have yet, in requests' worths, each with its end for :meth:`mark_sent`."""
        batch: list[Metric] = []
        end = 0
        for entries, line_end in self._lines(self._sent(run_id)):
            if batch and len(batch) + len(entries) > METRICS_PER_BATCH:
                yield batch, end
                batch = []
            batch, end = batch + entries, line_end
        if batch:
            yield batch, end

    def mark_sent(self, run_id: str, end: int) -> None:
        """Remembers that an MLflow run has the file up to ``end``."""
        if self.file.exists():  # or else the run ended while a slow server still answered
            write_json(self._sent_file, {"run_id": run_id, "bytes": end})

    @property
    def _sent_file(self) -> Path:
        return self.file.with_suffix(".sent.json")

    def _sent(self, run_id: str) -> int:
        # Where it cannot be told, all is sent again.
        with suppress(FileNotFoundError, ValueError, KeyError, TypeError):
            sent = json.loads(self._sent_file.read_text())
            if sent["run_id"] == run_id and sent["bytes"] <= self.file.stat().st_size:
                return sent["bytes"]
        return 0

    def _lines(self, start: int) -> Iterator[tuple[list[Metric], int]]:
        """The entries of every whole line from a byte on, and where it ends."""
        if not self.file.exists():
            return
        with self.file.open("rb") as stream:
            stream.seek(start)
            end = start
            for line in stream:
                if not line.endswith(b"\n"):  # being written, or torn
                    return
                try:
                    entry = json.loads(line)
                    time_, step = entry["time"], entry["step"]
                    metrics = [Metric(name, value, time_, step) for name, value in entry["metrics"].items()]
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    raise MetricSpoolError(
                        f"{self.file}: the line at byte {end} is damaged; delete it and run `dvc repro` again ({error})"
                    ) from error
                end += len(line)
                yield metrics, end


def _line(step: int, time_: int, metrics: Mapping[str, float]) -> bytes:
    return json.dumps({"step": step, "time": time_, "metrics": dict(metrics)}).encode() + b"\n"


def _drop_torn_line(stream: BinaryIO) -> None:
    """Removes the line that a killed process, or a full disk, left unfinished at the end."""
    size = stream.seek(0, os.SEEK_END)
    if size == 0:
        return
    stream.seek(size - 1)
    if stream.read(1) != b"\n":
        stream.seek(0)
        stream.truncate(stream.read().rfind(b"\n") + 1)
    stream.seek(0, os.SEEK_END)


def send(spool: MetricSpool, tracker: Tracker, run_id: str) -> None:
    """Sends all that an MLflow run does not have yet, in order.

    Raises:
        TrackingError: if MLflow does not take it for as long as the tracker is patient.
        MetricSpoolError: if the spool is damaged.
    """
    for entries, end in spool.batches(run_id):
        tracker.send_metrics(run_id, entries)
        spool.mark_sent(run_id, end)


class MetricSender:
    """Sends a spool to MLflow from a thread, for as long as the training runs; it never holds the training up.

    The thread starts with the first :meth:`notify`, when image loaders have been forked: they must not be forked in
    the middle of what it does.
    """

    def __init__(self, spool: MetricSpool, uri: str, experiment: str, run_id: str) -> None:
        self._spool, self._uri, self._experiment, self._run_id = spool, uri, experiment, run_id
        self._news, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="metrics to MLflow", daemon=True)

    def notify(self) -> None:
        """Says that there is something to send."""
        self._news.set()
        if self._thread.ident is None:
            self._thread.start()

    def close(self) -> None:
        """Sends what is left, if that takes moments. What cannot be sent stays in the spool."""
        self._closing.set()
        self._news.set()
        if self._thread.ident is not None:
            self._thread.join(CLOSE_SECONDS)

    def _work(self) -> None:
        tracker: Tracker | None = None
        pause, failing = 1.0, False
        while True:
            self._news.wait()
            self._news.clear()
            last = self._closing.is_set()
            try:
                # The server may be away from the start: a worker starts long after the run did.
                tracker = tracker or Tracker(self._uri, self._experiment, patience=SENDER_PATIENCE_SECONDS)
                send(self._spool, tracker, self._run_id)
            except Exception as error:
                # Whatever it is, the training goes on; at its end, the same error will be raised where it is seen.
                if not failing:
                    print(
                        f"MLflow at {self._uri} does not take metrics; they are kept in {self._spool.file} and will be "
                        f"sent when it does ({error})",
                        flush=True,
                    )
                failing = True
                self._closing.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
                self._news.set()
            else:
                if failing:
                    print(f"MLflow at {self._uri} takes metrics again; it has all of them so far", flush=True)
                pause, failing = 1.0, False
            if last:
                return
