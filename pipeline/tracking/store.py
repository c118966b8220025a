"""The address of MLflow's store, and a quick check of an SQLite store. Does not import MLflow, which takes seconds."""

import os
import sqlite3
from collections.abc import Collection, Mapping
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pipeline.stage import original_project
from pipeline.training.record import file_digest

MODEL_WEIGHTS = "data/model.safetensors"  # as pointrend.pyfunc has it, which imports torch
READY = 2  # the status of a logged model that is complete
RELOGGED_TAG = "pointrend.relogged_from"  # the id that a run had before it was logged again


def tracking_uri(root: Path) -> str:
    """The URI in ``MLFLOW_TRACKING_URI``; by default that of an SQLite file that all workspaces of a project share."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{original_project(root) / 'mlflow.db'}"


def certainly_has(
    uri: str, run_ids: Collection[str], models: Collection[str] = (), registered: Collection[str] = ()
) -> bool:
    """Whether an SQLite store has all of the runs, under their ids or logged again. False for any other store.

    Args:
        uri: of the store.
        run_ids: of the runs.
        models: the ids of those that must have logged models.
        registered: the ids of those that must have versions of registered models.
    """
    _, scheme, file = uri.partition("sqlite:///")
    if not scheme or not Path(file).is_file():
        return False
    try:
        with closing(sqlite3.connect(f"{Path(file).absolute().as_uri()}?mode=ro", uri=True)) as database:
            again = list(database.execute("SELECT run_uuid, value FROM tags WHERE key = ?", (RELOGGED_TAG,)))

            def has(wanted: Collection[str], query: str) -> bool:
                found = {row[0] for row in database.execute(query)}
                found |= {before for run_id, before in again if run_id in found}
                return found.issuperset(wanted)

            return (
                has(run_ids, "SELECT run_uuid FROM runs WHERE lifecycle_stage = 'active'")
                and has(models, f"SELECT source_run_id FROM logged_models WHERE status = {READY}")
                and has(registered, "SELECT run_id FROM model_versions WHERE current_stage != 'Deleted_Internal'")
            )
    except sqlite3.Error:
        return False


def share_weights(uri: str, weights: Mapping[str, Path]) -> None:
    """Makes the weights in an SQLite store's models hard links to the trainings', so that the disk has them once.

    Where the artifacts are elsewhere, or the file system has no links, nothing changes. DVC puts a copy in the place of
    a file when it caches it, so this is done once all runs are collected.

    Args:
        uri: of the store.
        weights: the file of weights by the id of the training's MLflow run.
    """
    _, scheme, file = uri.partition("sqlite:///")
    if not scheme or not Path(file).is_file():
        return
    query = f"SELECT source_run_id, artifact_location FROM logged_models WHERE status = {READY}"
    try:
        with closing(sqlite3.connect(f"{Path(file).absolute().as_uri()}?mode=ro", uri=True)) as database:
            found = list(database.execute(query))
    except sqlite3.Error:
        return
    for run_id, location in found:
        stored = Path(unquote(urlsplit(location).path)) / MODEL_WEIGHTS
        own = weights.get(run_id)
        if own is None or not own.is_file() or not stored.is_file() or stored.samefile(own):
            continue
        if file_digest(stored) == file_digest(own):
            _link(own, stored)


def _link(source: Path, target: Path) -> None:
    fresh = target.with_name(f".{target.name}.link")
    fresh.unlink(missing_ok=True)
    try:
        os.link(source, fresh)
    except OSError:  # another file system, or one without links: the copy stays
        return
    fresh.replace(target)
