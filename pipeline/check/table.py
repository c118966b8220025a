"""Prints what a check found."""

from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from pipeline.check.scale import Outcome, Report
from pipeline.check.task import Found
from pipeline.config.experiments import RunConfig
from pipeline.config.labels import ranges_text
from pipeline.plan.measured import devices_text
from pipeline.plan.plan import makespan
from pipeline.plan.text import bytes_text, hours_text

SECONDS_PER_HOUR = 3600.0


def show(report: Report, console: Console) -> None:
    """Prints the table of a check, then its totals and failures."""
    shrunk = report.cluster is None
    names = ["seeds", "seconds\nan update", "peak\nmemory", "loss", "resume", "evaluated"]
    names += [] if shrunk else ["hours\na run"]
    columns = [Column("experiment", overflow="fold"), *(Column(name, justify="right", no_wrap=True) for name in names)]
    table = Table(*columns, box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for outcome in report.outcomes:
        for number, (experiment, configs) in enumerate(outcome.kind.experiments.items()):
            seeds = ranges_text(config.seed for config in configs)
            cells = _cells(outcome) if number == 0 else ["as above", "", "", "", ""]
            found = outcome.found
            if not shrunk:
                cells.append("" if found is None else hours_text(_hours(found, configs[0])))
            table.add_row(experiment, seeds, *cells)
    console.print(table)
    console.print()
    for line in _summary(report):
        console.print(escape(line), soft_wrap=True)
    for outcome in report.outcomes:
        if outcome.failure is not None:
            runs = ", ".join(outcome.kind.experiments)
            console.print(f"[bold red]failed:[/] {escape(f'{runs}: {outcome.failure}')}", soft_wrap=True)


def _hours(found: Found, config: RunConfig) -> float:
    return found.seconds_per_update * config.schedule.updates / SECONDS_PER_HOUR


def _cells(outcome: Outcome) -> list[str]:
    found = outcome.found
    if found is None:
        return ["failed", "", "", "", ""]
    memory = bytes_text(found.memory)
    if found.device_memory is not None:
        memory += f" of {bytes_text(found.device_memory)}"
    return [
        f"{found.seconds_per_update:.3g}",
        memory,
        f"{found.losses[-1]:.3g}",
        found.resume,
        f"{found.masks} {'masks' if outcome.kind.first.model.task == 'instance' else 'label maps'}",
    ]


def _summary(report: Report) -> Iterator[str]:
    passed = sum(outcome.failure is None for outcome in report.outcomes)
    runs = sum(len(outcome.kind.configs) for outcome in report.outcomes)
    yield f"{report.scale}: {passed} of {len(report.outcomes)} distinct trainings passed, which stand for {runs} runs"
    yield from report.notes
    known = [(outcome.kind, outcome.found) for outcome in report.outcomes if outcome.found is not None]
    if report.runs_at_a_time is None or not known:
        return
    hours = [_hours(found, config) for kind, found in known for config in kind.configs]
    devices = sorted({devices_text(found.workers, found.device) for _, found in known})
    at_least = "" if report.passed else "at least "
    yield (
        f"time on {report.cluster} ({'; '.join(devices)}): trainings {at_least}{hours_text(sum(hours))} h one after "
        f"the other, {at_least}{hours_text(makespan(hours, report.runs_at_a_time))} h with {report.runs_at_a_time} at "
        "a time, longest first; without evaluations and sweeps"
    )
    yield "`pointrend plan` uses these figures from now on"
