"""Shows the progress of long work: as a bar on a terminal, as a line at its start and every 15 seconds in a log."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

SECONDS_BETWEEN_LINES = 15.0


class Progress(Protocol):
    def advance(self, steps: int = 1, note: str = "") -> None:
        """Counts steps done; ``note`` is shown beside the bar."""


class _Bar:
    def __init__(self, progress: RichProgress, task: int) -> None:
        self._progress, self._task = progress, task

    def advance(self, steps: int = 1, note: str = "") -> None:
        self._progress.update(self._task, advance=steps, note=note)  # type: ignore[arg-type]


class _Lines:
    def __init__(self, label: str, total: int | None, done: int) -> None:
        self._label, self._total, self._done = label, total, done
        self._first, self._start = done, time.monotonic()
        self._next = self._start + SECONDS_BETWEEN_LINES
        if total:
            self._print("")

    def advance(self, steps: int = 1, note: str = "") -> None:
        self._done += steps
        now = time.monotonic()
        if now >= self._next or self._done == self._total:
            self._next = now + SECONDS_BETWEEN_LINES
            rate = (self._done - self._first) / max(now - self._start, 1e-3)
            self._print(f"{f'{rate:,.1f}' if rate >= 1 else f'{rate:.2g}'} per second  {note}")

    def _print(self, note: str) -> None:
        of = f"/{self._total}" if self._total else ""
        print(f"{self._label}: {self._done}{of}  {note}".rstrip(), flush=True)


@contextmanager
def progress(label: str, total: int | None, done: int = 0) -> Iterator[Progress]:
    """Shows the progress of ``total`` steps, ``done`` of which are already done."""
    if not sys.stderr.isatty():
        yield _Lines(label, total, done)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with RichProgress(*columns, console=Console(stderr=True)) as bar:
        yield _Bar(bar, bar.add_task(label, total=total, completed=done, note=""))
