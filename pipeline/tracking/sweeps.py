"""A sweep's MLflow runs as a file beside its results, from which a database that is new or was lost gets them again."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow.entities import Metric
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from pipeline.files import write_json
from pipeline.tracking.client import KEY_TAG, Tracker
from pipeline.tracking.store import RELOGGED_TAG

RUNS = "mlflow.json"


def keep_runs(folder: Path, sweep: str, trials: Sequence[str], ended: int, config: Any, tracker: Tracker) -> None:
    """Writes all that MLflow has of a sweep into an existing folder.

    Args:
        folder: where.
        sweep: the sweep's run.
        trials: their runs, which have ended.
        ended: when the sweep did, in milliseconds since 1970.
        config: the sweep's configuration.
        tracker: where the runs are.

    Raises:
        TrackingError: if MLflow does not answer.
    """
    own = {**_as_logged(sweep, tracker), "ended": ended, "config": config}
    write_json(folder / RUNS, {"sweep": own, "trials": [_as_logged(trial, tracker) for trial in trials]})


def _as_logged(run_id: str, tracker: Tracker) -> dict[str, Any]:
    run = tracker.get(run_id)
    return {
        "id": run_id,
        "name": run.info.run_name,
        "started": run.info.start_time,
        "ended": run.info.end_time,
        "parameters": dict(run.data.params),
        "tags": {key: value for key, value in run.data.tags.items() if not key.startswith("mlflow.")},
        "metrics": [[entry.key, entry.value, entry.timestamp, entry.step] for entry in tracker.entries(run_id)],
    }


def log_again(folder: Path, tracker: Tracker) -> None:
    """Logs a sweep and its trials again where MLflow does not have them; however often it is called, once.

    Args:
        folder: a sweep's output.
        tracker: where they are looked for and logged.

    Raises:
        TrackingError: if MLflow does not answer.
    """
    kept = json.loads((folder / RUNS).read_text())
    sweep = _find_or_log(kept["sweep"], {}, tracker)
    for trial in kept["trials"]:
        _find_or_log(trial, {MLFLOW_PARENT_RUN_ID: sweep}, tracker)


def _find_or_log(run: Mapping[str, Any], tags: Mapping[str, str], tracker: Tracker) -> str:
    if tracker.find(run["id"]) is not None:
        return run["id"]
    return tracker.record(
        {KEY_TAG: run["tags"][KEY_TAG], RELOGGED_TAG: run["id"]},
        run["name"],
        run["parameters"],
        {**run["tags"], **tags},
        [Metric(*entry) for entry in run["metrics"]],
        (run["started"], run["ended"]),
        config=run.get("config"),
    )
