"""The address of MLflow's store, and a quick check of an SQLite store. Does not import MLflow, which takes seconds."""

import os
import sqlite3
from collections.abc import Collection
from contextlib import closing
from pathlib import Path

from pipeline.stage import original_project
from pipeline.training.record import BEST, WEIGHTS

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


def share_weights(training: Path, collected: Path) -> None:
    """Makes collected weights hard links to those of the training, if MLflow's artifacts have links to these as well.

    Without it the disk would have them twice when the training's own folder is deleted.

    Args:
        training: the training's own folder.
        collected: the folder that its files were copied to.
    """
    for name in (WEIGHTS, BEST):
        own, copy = training / name, collected / name
        if not own.is_file() or not copy.is_file() or own.stat().st_nlink == 1:
            continue
        link = copy.with_name(f".{name}.link")
        link.unlink(missing_ok=True)
        try:
            os.link(own, link)
        except OSError:  # another file system, or one without links: the copy stays
            continue
        link.replace(copy)
