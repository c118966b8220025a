"""The rows of an acceptance: what each one is, and carrying them out one after another within a time budget."""

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch

OWN_PACKAGES = ("benchmarks", "pipeline", "pointrend")

Status = Literal["passed", "failed", "measured", "not run"]


class NotRunError(Exception):
    """A row that cannot or need not run here; the message says why."""


class DisagreementError(Exception):
    """A row that ran and is wrong.

    Args:
        message: what is wrong.
        figures: of the row.
    """

    def __init__(self, message: str, figures: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.figures = dict(figures)


@dataclass(frozen=True)
class Result:
    """What a row found.

    Attributes:
        figures: by name, in the order of the table's columns.
        checked: whether something was checked, so that the row has passed; otherwise it was only measured.
        note: what else is to be said.
    """

    figures: Mapping[str, Any]
    checked: bool = False
    note: str = ""


@dataclass(frozen=True)
class Row:
    """A row of a section's table.

    Attributes:
        name: what was run.
        status: "passed" or "failed" where something is checked, "measured" where nothing is.
        figures: by name.
        note: why the row failed or was not run, or a remark.
        took: seconds of the row, everything included.
    """

    name: str
    status: Status
    figures: dict[str, Any] = field(default_factory=dict)
    note: str = ""
    took: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


#: A row's name, and what runs it.
Task = tuple[str, Callable[[], Result]]


class Budget:
    """The time that an acceptance may take."""

    def __init__(self, minutes: float) -> None:
        self.minutes, self.begun = minutes, time.monotonic()

    @property
    def used(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.begun

    @property
    def left(self) -> float:
        """Seconds until no further row starts; negative after that."""
        return 60 * self.minutes - self.used

    def check(self, what: str = "") -> None:
        """Raises NotRunError if the time is over.

        Args:
            what: where the row stood.
        """
        if self.left <= 0:
            raise NotRunError(f"out of time: {self.minutes:g} minutes are over{what}; allow more with --minutes")


def carry_out(
    sections: Mapping[str, Callable[[], Iterator[Task]]], budget: Budget, say: Callable[[str], None]
) -> dict[str, list[Row]]:
    """Runs the rows of all sections in order. A row or section that fails does not keep the others from running.

    Args:
        sections: by name, what yields the rows.
        budget: rows that would start when it is used up are listed as not run.
        say: called with a line before and after each row.

    Returns:
        the rows of each section.
    """
    found: dict[str, list[Row]] = {}
    for section, tasks in sections.items():
        rows = found[section] = []
        try:
            for name, run in tasks():
                say(f"{section}: {name} ...")
                rows.append(_row(name, run, budget))
                say(f"{section}: {name}: {_outcome(rows[-1])}")
        except Exception as error:
            rows.append(Row("the section itself", "failed", note=message(error)))
            say(f"{section}: {_outcome(rows[-1])}")
    return found


def message(error: BaseException) -> str:
    """An error in one line, with its type unless it was raised to be read."""
    text = " ".join(str(error).split())
    if len(text) > 300:
        text = text[:300] + " ..."
    return text if isinstance(error, NotRunError | DisagreementError) else f"{type(error).__name__}: {text}"


def _row(name: str, run: Callable[[], Result], budget: Budget) -> Row:
    begun = time.monotonic()

    def row(status: Status, figures: Mapping[str, Any] | None = None, note: str = "") -> Row:
        return Row(name, status, dict(figures or {}), note, round(time.monotonic() - begun, 2))

    try:
        budget.check()
        result = run()
        return row("passed" if result.checked else "measured", result.figures, result.note)
    except NotRunError as error:
        return row("not run", note=message(error))
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        if package in OWN_PACKAGES:
            return row("failed", note=message(error))
        return row("not run", note=f"needs the package {package}, which is not installed")
    except DisagreementError as error:
        return row("failed", error.figures, message(error))
    except Exception as error:
        return row("failed", note=message(error))
    finally:
        # What the row has left must neither count as the next one's memory nor keep it from fitting.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _outcome(row: Row) -> str:
    figures = ", ".join(f"{name} {show(value)}" for name, value in row.figures.items())
    return f"{row.status} in {row.took:.1f} s" + "".join(f"; {text}" for text in (figures, row.note) if text)


def show(value: Any) -> str:
    """A figure as text: four significant digits, and "-" where there is none."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
