"""The commands that need the pipeline; they join ``pointrend`` through entry points."""

from pathlib import Path
from typing import Annotated

import typer
import yaml

from pipeline.config import ConfigError, Project
from pipeline.files import atomic_file
from pipeline.stage import Stage, fail, run_stage
from pipeline.sweep.config import resolve_sweep, select_sweeps


def select(
    scale: Annotated[str, typer.Argument(help="a folder of configs/experiments: demo, nuclei, paper, ...")],
    data_root: Annotated[str, typer.Option(help="the folder that the datasets lie in")] = "data",
    cluster: Annotated[str, typer.Option(help="a file of configs/clusters")] = "laptop",
) -> None:
    """Choose what `dvc repro` runs: writes params.yaml for all experiments of a scale."""
    project = Project(Path.cwd())
    try:
        params = project.select(scale, data_root, cluster)
        params = params.model_copy(update={"sweeps": select_sweeps(project, scale, params.runs)})
    except ConfigError as error:
        fail(error)
    else:
        with atomic_file(project.root / "params.yaml") as stream:
            stream.write(f"# Written by `pointrend select {scale}`. Delete runs and sweeps to run less.\n")
            yaml.safe_dump(params.model_dump(), stream, sort_keys=False)
        typer.echo(f"params.yaml: scale {scale}, {len(params.runs)} runs: {', '.join(params.runs)}")
        if params.sweeps:
            typer.echo(f"and {len(params.sweeps)} sweeps: {', '.join(params.sweeps)}")


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
