"""The address of MLflow's store, and a quick check of an SQLite store. Does not import MLflow, which takes seconds."""

import os
import sqlite3
from collections.abc import Collection
from contextlib import closing
from pathlib import Path

from pipeline.stage import original_project

RELOGGED_TAG = "pointrend.relogged_from"  # the id that a run had before it was logged again


def tracking_uri(root: Path) -> str:
    """The URI in ``MLFLOW_TRACKING_URI``; by default that of an SQLite file that all workspaces of a project share."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{original_project(root) / 'mlflow.db'}"


def certainly_has(uri: str, run_ids: Collection[str]) -> bool:
    """Whether an SQLite store has all of the runs, under their ids or logged again. False for any other store."""
    _, scheme, file = uri.partition("sqlite:///")
    if not scheme or not Path(file).is_file():
        return False
    try:
        with closing(sqlite3.connect(f"{Path(file).absolute().as_uri()}?mode=ro", uri=True)) as database:
            found = {row[0] for row in database.execute("SELECT run_uuid FROM runs WHERE lifecycle_stage = 'active'")}
            again = database.execute("SELECT run_uuid, value FROM tags WHERE key = ?", (RELOGGED_TAG,))
            found |= {before for run_id, before in again if run_id in found}
    except sqlite3.Error:
        return False
    return found.issuperset(run_ids)
