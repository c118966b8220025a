"""Renders a plan as console tables."""

from collections.abc import Iterator
from itertools import groupby

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from pipeline.config.labels import ranges_text
from pipeline.plan.plan import Plan, PlannedRun, Total
from pointrend.wording import counted

STATES = {True: "cached", False: "to run", None: "not known"}
UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def show(plan: Plan, console: Console) -> None:
    """Prints a plan: its runs, their totals by dataset and table, its sweeps, then time and disk space."""
    console.print(
        f"{plan.scale} on {plan.nodes} × {plan.cluster}: {plan.runs_at_a_time} "
        f"run{'s' if plan.runs_at_a_time > 1 else ''} at a time.\n"
        f"{_source(plan)}\n",
        markup=False,
        soft_wrap=True,
    )
    console.print(_runs(plan))
    console.print()
    console.print(_totals(plan))
    console.print()
    if plan.sweeps:
        console.print(_sweeps(plan))
        console.print()
    for line in _summary(plan):
        console.print(escape(line), soft_wrap=True)


def _source(plan: Plan) -> str:
    """Where the hours are from."""
    estimated = f"estimates for one {plan.gpu} by configs/throughput.yaml."
    if not plan.has_gpus:
        estimated = estimated.removesuffix(".") + f", not hours on {plan.cluster}, which has no GPUs."
    if not plan.measured:
        return f"{_unit(plan)}ours are {estimated}"
    lines = [f"Hours of {counted(number, 'run')}: measured on {where}." for where, number in plan.measured.items()]
    lines.append(f"{'All other hours' if plan.has_gpus else f'{_unit(plan)}ours'} are {estimated}")
    return "\n".join(lines)


def _unit(plan: Plan) -> str:
    """The unit of hours on one GPU: where the cluster has none, they can only be those of the figures' own."""
    return "GPU-h" if plan.has_gpus else f"{plan.gpu_key}-h"


def _runs(plan: Plan) -> Table:
    """A line for all runs that differ only in their seeds, with the GPU-hours of one of them.

    Where the cluster has no GPUs, and hours were measured on it, these are shown as well.
    """
    on_cluster = bool(plan.measured) and not plan.has_gpus
    names = ["experiment", "seeds", "updates\n× batch", f"{_unit(plan)}\neach"]
    names += ["measured\nhours each", "in DVC"] if on_cluster else ["in DVC"]
    table = _table(*names, text=("experiment", "in DVC"))

    def key(run: PlannedRun) -> tuple[str, str, str]:
        return run.dataset, run.experiment, STATES[run.cached]

    for (_, experiment, state), group in groupby(sorted(plan.runs, key=key), key):
        same = list(group)
        run = same[0]
        table.add_row(
            experiment,
            ranges_text(each.seed for each in same),
            f"{run.updates:,} × {run.batch_size}",
            hours_text(run.gpu_hours),
            *([hours_text(run.hours) if run.measured else "-"] if on_cluster else []),
            state,
        )
    return table


def _totals(plan: Plan) -> Table:
    table = _table("", "runs", _unit(plan), "of these\nto run", text=("",))

    def add(name: str, total: Total) -> None:
        table.add_row(
            name,
            str(total.runs),
            at_least(total.gpu_hours, total.runs_without_hours),
            at_least(total.remaining, total.remaining_without_hours),
        )

    for name, total in plan.by_dataset.items():
        add(name, total)
    table.add_section()
    for name, total in plan.by_table.items():
        add(name, total)
    table.add_section()
    add("all", plan.total(plan.runs))
    return table


def _sweeps(plan: Plan) -> Table:
    table = _table("sweep", "trials", "updates\n× batch", f"{_unit(plan)}\nat most", "in DVC", text=("sweep", "in DVC"))
    for sweep in plan.sweeps:
        trains = sweep.kind == "training"
        table.add_row(
            sweep.sweep,
            str(sweep.trials),
            f"{sweep.updates:,} × {sweep.batch_size}" if trains else "none",
            hours_text(sweep.gpu_hours) if trains else "",
            STATES[sweep.cached],
        )
    hours = [sweep.gpu_hours for sweep in plan.sweeps if sweep.kind == "training"]
    if len(hours) > 1:
        known = [each for each in hours if each is not None]
        table.add_section()
        table.add_row("all, besides the runs", "", "", at_least(sum(known), len(hours) - len(known)), "")
    return table


def _table(*names: str, text: tuple[str, ...]) -> Table:
    columns = (Column(name, justify="left" if name in text else "right", no_wrap=True) for name in names)
    return Table(*columns, box=None, pad_edge=False, padding=(0, 1, 0, 0))


def _summary(plan: Plan) -> Iterator[str]:
    if plan.training_hours is None:
        yield f"time: not known: cluster {plan.cluster} has no GPUs"
    else:
        unknown = sum(run.hours is None and not run.cached for run in plan.runs)
        yield f"time: trainings {at_least(plan.training_hours, unknown)} h, longest first"
        without = [sweep.sweep for sweep in plan.sweeps if sweep.gpu_hours is None and not sweep.cached]
        if plan.sweeps and plan.sweep_hours is not None:
            known = f", without {', '.join(without)}" if without else ""
            yield f"      sweeps {hours_text(plan.sweep_hours)} h at most{known}: a job each, a GPU for each trial"
    yield from plan.unused_measurements
    for reason in plan.missing_figures:
        yield f"hours not known: {reason}"
    if plan.validations:
        yield f"validations: {plan.validations} while trainings run, in the hours"
    yield f"evaluations: {plan.evaluations}, inside the runs' jobs, not in the hours"
    predictions = "predictions not known" if plan.predictions is None else f"predictions {bytes_text(plan.predictions)}"
    yield f"disk: weights {bytes_text(plan.weights)}, {predictions}; as much again in DVC's cache"
    yield f"      MLflow's artifacts {bytes_text(plan.artifacts)}{_models(plan)}"
    yield f"      checkpoints {bytes_text(plan.checkpoints)} while trainings run"
    if plan.unknown is not None:
        yield f"not known whether cached: {plan.unknown}"


def _models(plan: Plan) -> str:
    """Where the weights lie that MLflow has."""
    if not plan.logs_models:
        return ""
    again = bytes_text(plan.weights)
    return f", and models: links to the weights where they are on the same disk, or else another {again}"


def at_least(hours: float, unknown: int) -> str:
    """A sum of hours, as "at least" if the hours of some of its runs are not known."""
    return f"at least {hours_text(hours)}" if unknown else hours_text(hours)


def hours_text(hours: float | None) -> str:
    """Hours with two significant digits below 10, whole from 10 on; "not known" for None."""
    if hours is None:
        return "not known"
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.1f}" if hours >= 1 else f"{hours:.2g}"


def bytes_text(size: int) -> str:
    """A size in the largest decimal unit that is not larger than it."""
    for unit, name in UNITS:
        if size >= unit:
            return f"{size / unit:.3g} {name}"
    return f"{size} B"
