"""The commands of ``pointrend`` that need the pipeline. They are registered as entry points."""

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from pipeline.config.batch_norm import check_batch_norm
from pipeline.config.exclusions import exclude, select_command
from pipeline.config.locations import is_remote
from pipeline.config.params import DATA_ROOT
from pipeline.config.project import Project
from pipeline.config.raw_data import missing_raw_data
from pipeline.config.reader import ConfigError
from pipeline.config.selection import Selection
from pipeline.config.selection_files import params_text, selection_text
from pipeline.config.sweep_tasks import resolve_sweep, sweep_file
from pipeline.errors import UserError
from pipeline.files import atomic_file
from pipeline.graph import match_git, refuse_while_running
from pipeline.stage import Stage, enter_project, errors_as_messages, seen_from

if TYPE_CHECKING:
    from pipeline.cluster.jobs import Jobs

Without = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME|PATTERN",
        help="leave out this experiment or sweep, or those that a shell pattern matches; can be repeated",
    ),
]
jobs = typer.Typer(help="List, follow or stop the jobs on the Ray cluster.", no_args_is_help=True)


@errors_as_messages()
def select(
    scale: Annotated[str, typer.Argument(help="a folder of configs/experiments: demo, nuclei, paper, ...")],
    data_root: Annotated[
        str | None, typer.Option(help="folder or URI that contains the datasets; by default data in the project")
    ] = None,
    cluster: Annotated[
        str | None, typer.Option(help="a file of configs/clusters; by default the scale's own, or laptop")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="runs of each experiment, with seeds 0 and up; by default its own seeds")
    ] = None,
    without: Without = None,
) -> None:
    """Choose what `dvc repro` runs: write a scale's runs and sweeps to selection.yaml, its settings to params.yaml."""
    here, project = Path.cwd(), enter_project()
    root = DATA_ROOT if data_root is None else seen_from(project.root, here, data_root)
    write_selection(project, scale, root, cluster, seeds, without or ())


def write_selection(
    project: Project,
    scale: str,
    data_root: str,
    cluster: str | None,
    seeds: int | None = None,
    without: Sequence[str] = (),
) -> None:
    """Writes ``selection.yaml`` and ``params.yaml`` for a scale, and says what they select.

    Args:
        project: the project.
        scale: a folder of ``configs/experiments``.
        data_root: the folder or URI that contains the datasets.
        cluster: a file of ``configs/clusters``; None for that of the scale's name, or else for ``laptop``.
        seeds: how many seeds each experiment has; None for its own.
        without: experiments and sweeps to leave out, see :func:`pipeline.config.exclusions.exclude`.

    Raises:
        GraphError: while DVC runs stages of the project.
        ExclusionError: if what ``without`` names cannot be left out.
        ConfigError: if a configuration is wrong, or the cluster cannot train a selected network.
    """
    refuse_while_running(project.root)
    if cluster is None:
        cluster = project.default_cluster(scale)
    selection = exclude(project, project.select(scale, data_root, seeds), without)
    params = project.initial_params(scale, data_root, cluster)
    check_batch_norm(project, scale, selection, cluster, command=select_command(params, without=without, seeds=seeds))
    reset = _reset(project, scale, selection)
    with atomic_file(project.selection_file) as stream:
        stream.write(selection_text(scale, selection))
    with atomic_file(project.params_file) as stream:
        stream.write(params_text(params))
    table = Table("dataset", "experiments", "runs", box=None, pad_edge=False)
    for name in selection.datasets:
        runs = [run for run in selection.runs.values() if run.dataset == name]
        table.add_row(name, str(len({run.experiment for run in runs})), str(len(runs)))
    typer.echo(f"Selected scale {scale} on cluster {cluster}; wrote selection.yaml and params.yaml.")
    Console().print(table)
    if selection.sweeps:
        typer.echo(f"sweeps: {', '.join(selection.sweeps)}")
    if selection.excluded:
        typer.echo(f"left out: {', '.join(selection.excluded)}")
    elsewhere = select_command(params.model_copy(update={"data_root": "FOLDER"}), without=without, seeds=seeds)
    for line in (*reset, *missing_raw_data(project, selection, data_root, elsewhere).values()):
        typer.echo(line)
    if is_remote(data_root) and not all(project.dataset(name).synthetic for name in selection.datasets):
        typer.echo(f"{data_root} was not looked at; `dvc repro prepare` reads it first")
    if note := match_git(project.root):
        typer.echo(note)


@errors_as_messages()
def report(
    beside: Annotated[
        str | None,
        typer.Option(
            "--with",
            metavar="COMMIT",
            help="show the runs of this commit, from DVC's cache, beside today's, in a page of its own",
        ),
    ] = None,
) -> None:
    """Write the page of the selected scale again, reports/SCALE/index.html: nothing is trained or evaluated.

    `pointrend select` chooses another scale.
    """
    from pipeline.report.build import report_of, report_with

    enter_project()
    stage = Stage()
    page = report_of(stage) if beside is None else report_with(stage, beside)
    typer.echo(page.relative_to(stage.root))


SHOWN = 4  # names in a message


def _reset(project: Project, scale: str, selection: Selection) -> list[str]:
    """How the files of this selection differ from those of an earlier one of the same scale that was edited by hand."""
    try:
        params, earlier = project.params(), project.selection()
    except ConfigError:
        return []
    if params.scale != scale:
        return []
    changes = {"": params.of_all.given, **{f"experiments.{name}.": of.given for name, of in params.experiments.items()}}
    given = [f"{prefix}{key}={value}" for prefix, of in changes.items() for key, value in of.items()]
    more = [name for name in (*selection.runs, *selection.sweeps) if name not in {*earlier.runs, *earlier.sweeps}]
    lines = [f"params.yaml no longer has: {', '.join(given)}"] if given else []
    shown = ", ".join(more[:SHOWN]) + (f" and {len(more) - SHOWN} more" if len(more) > SHOWN else "")
    return lines + ([f"selection.yaml also has now: {shown}"] if more else [])


@errors_as_messages()
def plan(
    scale: Annotated[
        str | None, typer.Argument(help="a folder of configs/experiments; by default the current selection")
    ] = None,
    cluster: Annotated[str | None, typer.Option(help="a file of configs/clusters; by default the selected one")] = None,
    nodes: Annotated[int, typer.Option(min=1, help="number of nodes, each with the GPUs of one training")] = 1,
    gpu: Annotated[
        str | None,
        typer.Option(
            help="a GPU of configs/throughput.yaml to estimate hours for, such as H100; nothing measured is used"
        ),
    ] = None,
    without: Without = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Show what `dvc repro` would run, and estimate GPU-hours, time and disk. Nothing is run or written."""
    # Imported here: the other commands answer without loading torch.
    from pipeline.plan.make import make_plan
    from pipeline.plan.text import show

    with Console(stderr=True).status("Counting the operations of the networks"):
        found = make_plan(enter_project(), scale, cluster, nodes, without or (), gpu)
    if as_json:
        typer.echo(json.dumps(found.as_json()))
    else:
        show(found, Console())


@errors_as_messages()
def check(
    scale: Annotated[
        str | None, typer.Argument(help="a folder of configs/experiments; by default the current selection")
    ] = None,
    cluster: Annotated[str | None, typer.Option(help="a file of configs/clusters; by default the selected one")] = None,
    run: Annotated[list[str] | None, typer.Option(help="check this run or experiment alone; can be repeated")] = None,
    without: Without = None,
    shrink: Annotated[
        bool, typer.Option("--shrink", help="small images, drawn data and two processes on this machine's CPU")
    ] = False,
) -> None:
    """Take three updates of every distinct training, resume and evaluate: does it run, how fast, in how much memory?

    The exit status is 1 if one fails. Nothing that is written is taken for a result.
    """
    from pipeline.check.scale import CheckedScale, Outcome
    from pipeline.check.table import show

    enter_project()
    checked = CheckedScale(Stage(), scale, cluster, run or (), without or ())
    done = 0

    def on_end(outcome: Outcome) -> None:
        nonlocal done
        done += 1
        state = "failed" if outcome.failure is not None else "passed"
        typer.echo(f"{done}/{len(checked.kinds)} {', '.join(outcome.kind.experiments)}: {state}")

    if shrink:
        from pipeline.check.shrink import check_shrunk

        try:
            report = check_shrunk(checked, on_end)
        except KeyboardInterrupt:
            typer.echo("interrupted; nothing is kept, and the next check begins anew", err=True)
            raise
    else:
        from pipeline.check.submit import check_on_cluster  # Ray takes seconds to import

        report = check_on_cluster(checked, on_end)
    show(report, Console(width=None if sys.stdout.isatty() else 120))
    if not report.passed:
        raise typer.Exit(1)


@errors_as_messages()
def sweep(
    name: Annotated[str, typer.Argument(help="a sweep of the selected scale, or a file like those of configs/sweeps")],
) -> None:
    """Run a sweep on the prepared data of the selected scale, as `dvc repro` does. Run it again to continue it."""
    # Imported here: the other commands start faster without it.
    from pipeline.cluster.sweeps import collect_sweep

    here, project = Path.cwd(), enter_project()
    file, stage = Path(seen_from(project.root, here, name)), Stage()
    if not file.suffix:
        file = sweep_file(project, stage.params.scale, name)
    task, _ = resolve_sweep(stage.project, stage.params.scale, file, stage.selection.runs, stage.params)
    collect_sweep(stage, task)
    output = stage.outputs.sweep(task.name)
    about = json.loads((output / "sweep.json").read_text(encoding="utf-8"))
    typer.echo(f"{output}: best is {about['best']} ({about['metric']}); see best.yaml")


NO_JOBS = "No job waits or runs on this machine, and RAY_ADDRESS names no cluster."


def _find_jobs() -> "Jobs | None":
    # A cluster's jobs are there for whoever has its address, also outside a project.
    root = Path.cwd() if os.environ.get("RAY_ADDRESS") else enter_project().root
    from pipeline.cluster.submission import find_jobs  # Ray takes seconds to import

    return find_jobs(root)


def _jobs() -> "Jobs":
    if (found := _find_jobs()) is None:
        raise UserError(NO_JOBS)
    return found


def _job_id(jobs: "Jobs", name: str) -> str:
    """The id of the newest job of a run or sweep, or ``name`` itself if it is an id. An id is a name and a hash."""
    from pipeline.cluster.jobs import job_name

    ids = [job_name(job) for job in jobs.list()]
    found = [each for each in ids if name in (each, each.rpartition("-")[0])]
    if not found:
        raise UserError(f"{jobs.address}: no job {name}; `pointrend jobs list` shows all")
    return found[-1]


@jobs.command("list")
@errors_as_messages()
def list_jobs() -> None:
    """Show all jobs that Ray remembers, with the minutes from the submission of each to its end, or until now."""
    if (found := _find_jobs()) is None:
        typer.echo(NO_JOBS)
        return
    table = Table("job", "status", "submitted", "minutes", box=None, pad_edge=False)
    for job in found.list():
        begun, end = (job.start_time or 0) / 1000, (job.end_time or time.time() * 1000) / 1000
        submitted = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(begun))
        table.add_row(job.submission_id, str(job.status), submitted, f"{(end - begun) / 60:.1f}")
    Console().print(table)


@jobs.command()
@errors_as_messages()
def follow(name: Annotated[str, typer.Argument(help="a run, or a job's id")]) -> None:
    """Show a job's output until it ends. Ctrl-C stops the output, not the job."""
    jobs = _jobs()
    job = jobs.follow(_job_id(jobs, name), lambda text: typer.echo(text, nl=False))
    raise typer.Exit(0 if job is not None and job.status == "SUCCEEDED" else 1)


@jobs.command()
@errors_as_messages()
def stop(
    names: Annotated[list[str] | None, typer.Argument(help="runs, or job ids")] = None,
    stop_all: Annotated[bool, typer.Option("--all", help="stop all pending and running jobs")] = False,
) -> None:
    """Stop jobs. A running job writes a checkpoint first, and the next `dvc repro` continues from it."""
    from pipeline.cluster.jobs import job_name

    if stop_all == bool(names):
        raise UserError("name the runs or jobs to stop, or give --all, but not both")
    jobs = _jobs()
    ids = [job_name(job) for job in jobs.live()] if stop_all else [_job_id(jobs, name) for name in names or ()]
    for job_id in ids:
        typer.echo(f"{job_id}: {'is being stopped' if jobs.stop(job_id) else 'has ended already'}")
    if not ids:
        typer.echo("no job is waiting or running")
