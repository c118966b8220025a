"""The commands that need the pipeline; they join ``pointrend`` through entry points."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import yaml
from rich.console import Console
from rich.table import Table

from pipeline.config.project import Project
from pipeline.config.reader import ConfigError
from pipeline.config.sweep_tasks import resolve_sweep
from pipeline.errors import UserError
from pipeline.files import atomic_file
from pipeline.stage import Stage, fail, run_stage

if TYPE_CHECKING:
    from pipeline.cluster.jobs import Jobs

jobs = typer.Typer(help="The trainings on the Ray cluster.", no_args_is_help=True)


def select(
    scale: Annotated[str, typer.Argument(help="a folder of configs/experiments: demo, nuclei, paper, ...")],
    data_root: Annotated[str, typer.Option(help="the folder that the datasets lie in")] = "data",
    cluster: Annotated[str, typer.Option(help="a file of configs/clusters")] = "laptop",
) -> None:
    """Choose what `dvc repro` runs: writes params.yaml for all experiments of a scale."""
    project = Project(Path.cwd())
    try:
        params = project.select(scale, data_root, cluster)
    except ConfigError as error:
        fail(error)
    else:
        with atomic_file(project.root / "params.yaml") as stream:
            stream.write(f"# Written by `pointrend select {scale}`. Delete runs and sweeps to run less.\n")
            yaml.safe_dump(params.model_dump(), stream, sort_keys=False)
        typer.echo(f"params.yaml: scale {scale}, {len(params.runs)} runs: {', '.join(params.runs)}")
        if params.sweeps:
            typer.echo(f"and {len(params.sweeps)} sweeps: {', '.join(params.sweeps)}")


def plan(
    scale: Annotated[
        str | None, typer.Argument(help="a folder of configs/experiments; what params.yaml has by default")
    ] = None,
    cluster: Annotated[str | None, typer.Option(help="a file of configs/clusters; the selected one by default")] = None,
    nodes: Annotated[int, typer.Option(min=1, help="how many nodes, of as many GPUs as one training asks for")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Show what `dvc repro` would run, and estimate GPU-hours, time and disk. Nothing is run or written."""
    # Imported here: the other commands answer without loading torch.
    from pipeline.plan.make import make_plan
    from pipeline.plan.text import show

    def run() -> None:
        found = make_plan(Project(Path.cwd()), scale, cluster, nodes)
        if as_json:
            typer.echo(json.dumps(found.as_json()))
        else:
            show(found, Console())

    run_stage(run)


def sweep(file: Annotated[Path, typer.Argument(help="a file of configs/sweeps")]) -> None:
    """Run a sweep of the selected scale on its prepared data, as `dvc repro` does. Interrupted, it goes on."""
    # Imported here: the other commands answer without loading torch and Ray.
    from pipeline.sweep.stage import run_in

    def run() -> None:
        stage = Stage()
        task, _ = resolve_sweep(stage.project, stage.params.scale, file, stage.params.runs)
        best = run_in(stage, task)
        value = best.metrics[task.metric]
        typer.echo(f"{stage.outputs.sweep(task.name)}: best is {best.name}, {task.metric} {value:.2f}; see best.yaml")

    run_stage(run)


def _jobs() -> "Jobs":
    """Those of the cluster of ``RAY_ADDRESS``, or of this project's Ray on this machine."""
    from pipeline.cluster.submission import running_jobs  # Ray takes seconds to import

    try:
        return running_jobs(Path.cwd())
    except UserError as error:
        fail(error)


def _job_id(jobs: "Jobs", name: str) -> str:
    """The id of the newest job of a run, which is the run's name and a hash; or an id as it is."""
    from pipeline.cluster.jobs import job_name

    ids = [job_name(job) for job in jobs.list()]
    found = [each for each in ids if name in (each, each.rpartition("-")[0])]
    if not found:
        fail(UserError(f"{jobs.address}: no job {name}; `pointrend jobs list` shows all"))
    return found[-1]


@jobs.command("list")
def list_jobs() -> None:
    """Show all jobs that Ray remembers, and the minutes since they were submitted or until they ended."""
    table = Table("job", "status", "submitted", "minutes", box=None, pad_edge=False)
    for job in _jobs().list():
        begun, end = (job.start_time or 0) / 1000, (job.end_time or time.time() * 1000) / 1000
        submitted = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(begun))
        table.add_row(job.submission_id, str(job.status), submitted, f"{(end - begun) / 60:.1f}")
    Console().print(table)


@jobs.command()
def follow(name: Annotated[str, typer.Argument(help="a run, or a job's id")]) -> None:
    """Show a job's output until it ends. Ctrl-C ends the showing, not the job."""
    jobs = _jobs()
    job = jobs.follow(_job_id(jobs, name), lambda text: typer.echo(text, nl=False))
    raise typer.Exit(0 if job is not None and job.status == "SUCCEEDED" else 1)


@jobs.command()
def stop(names: Annotated[list[str], typer.Argument(help="runs, or job ids")]) -> None:
    """Stop jobs, each after a checkpoint: `dvc repro` goes on from there."""
    jobs = _jobs()
    for name in names:
        job_id = _job_id(jobs, name)
        typer.echo(f"{job_id}: {'is being stopped' if jobs.stop(job_id) else 'has ended already'}")
