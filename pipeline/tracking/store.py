"""Where MLflow keeps the runs, without MLflow, which takes seconds to import."""

import os
import sqlite3
from collections.abc import Collection
from contextlib import closing
from pathlib import Path

RELOGGED_TAG = "pointrend.relogged_from"  # the id that a run had before it was logged again


def tracking_uri(root: Path) -> str:
    """The tracking server of ``MLFLOW_TRACKING_URI``; by default an SQLite file in the project."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root.resolve() / 'mlflow.db'}"


def certainly_has(uri: str, run_ids: Collection[str]) -> bool:
    """Whether MLflow has all of some runs, themselves or as they were logged again, as far as a glance can tell.

    Only an SQLite file can be looked into: of a server, or of another file, nothing is certain.

    Args:
        uri: of the tracking server or database.
        run_ids: the runs.
    """
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
