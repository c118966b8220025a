"""What MLflow shows of a run beside parameters and metrics: what it is, who made it, how, and from which code."""

import getpass
import os
import re
from collections.abc import Mapping

from mlflow.entities import SourceType
from mlflow.utils import mlflow_tags

from pipeline.config.project import Project

#: The tags of MLflow's own that a run keeps when it is logged again.
ORIGIN_TAGS = (
    mlflow_tags.MLFLOW_GIT_COMMIT,
    mlflow_tags.MLFLOW_GIT_DIRTY,
    mlflow_tags.MLFLOW_RUN_NOTE,
    mlflow_tags.MLFLOW_SOURCE_NAME,
    mlflow_tags.MLFLOW_SOURCE_TYPE,
    mlflow_tags.MLFLOW_USER,
)
DIRTY = "-dirty"
COMMIT = re.compile(rf"[0-9a-f]+({DIRTY})?")
UNKNOWN = "unknown"
SEEDS = "seeds"  # the tag with the seeds of an experiment that has several


def origin_tags(command: str, version: str) -> dict[str, str]:
    """MLflow's tags for who made a run, how and from which commit.

    Args:
        command: the command or file that makes the run, such as ``dvc repro train@NAME``.
        version: the version of the code, see :func:`pipeline.stage.code_version`.
    """
    tags = {
        mlflow_tags.MLFLOW_USER: _user(),
        mlflow_tags.MLFLOW_SOURCE_NAME: command,
        mlflow_tags.MLFLOW_SOURCE_TYPE: SourceType.to_string(SourceType.LOCAL),
    }
    if COMMIT.fullmatch(version):
        tags[mlflow_tags.MLFLOW_GIT_COMMIT] = version.removesuffix(DIRTY)
        tags[mlflow_tags.MLFLOW_GIT_DIRTY] = str(version.endswith(DIRTY)).lower()
    return tags


def _user() -> str:
    """The user of the MLflow server or, without one, of this machine; "unknown" where neither has a name."""
    try:
        return os.environ.get("MLFLOW_TRACKING_USERNAME") or getpass.getuser()
    except (KeyError, OSError):  # a container may run as a number without a name
        return UNKNOWN


def run_tags(project: Project, scale: str, experiment: str, seed: int) -> dict[str, str]:
    """The tags of a training that say what it is: a note, and the experiment's seeds where there are several."""
    seeds = project.experiment(scale, experiment).seeds
    tags = {mlflow_tags.MLFLOW_RUN_NOTE: _note(project, scale, experiment, seed)}
    return tags | ({SEEDS: ", ".join(map(str, seeds))} if len(seeds) > 1 else {})


def _note(project: Project, scale: str, experiment: str, seed: int) -> str:
    """One sentence about a training, and the tables that show it."""
    tables = {name: project.table(name) for name in project.table_names()}
    shown = [table.heading_of(name) for name, table in tables.items() if experiment in table.experiments]
    about = f"{project.experiment(scale, experiment).description.rstrip('.')}, seed {seed}."
    return f"{about} Shown in {_listed(shown)}." if shown else about


def evaluation_origin(training: Mapping[str, str], run: str, setting: str) -> dict[str, str]:
    """The tags of an evaluation's MLflow run, from those of its training's."""
    tags = {key: training[key] for key in ORIGIN_TAGS if key in training}
    note = f"Evaluation of {run} under its setting {setting}."
    tags[mlflow_tags.MLFLOW_RUN_NOTE] = " ".join(filter(None, (note, training.get(mlflow_tags.MLFLOW_RUN_NOTE))))
    if mlflow_tags.MLFLOW_SOURCE_NAME in tags:
        tags[mlflow_tags.MLFLOW_SOURCE_NAME] = f"dvc repro evaluate@{run}"
    return tags


def _listed(names: list[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
