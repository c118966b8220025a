"""The commands that need the pipeline; they join ``pointrend`` through entry points."""

from pathlib import Path
from typing import Annotated

import typer
import yaml

from pipeline.config import ConfigError, Project
from pipeline.files import atomic_file
from pipeline.stage import fail


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
            stream.write(f"# Written by `pointrend select {scale}`. Delete runs to run less.\n")
            yaml.safe_dump(params.model_dump(), stream, sort_keys=False)
        typer.echo(f"params.yaml: scale {scale}, {len(params.runs)} runs: {', '.join(params.runs)}")
