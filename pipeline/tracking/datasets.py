"""Logs the dataset of a run as an MLflow dataset: its name, digest, counts and source."""

import json
from urllib.parse import urlsplit

from mlflow.entities import Dataset, DatasetInput, InputTag
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

from pipeline.data.manifest import PreparedDataset
from pipeline.tracking.client import Tracker

COUNTS = ("images", "objects")


def log_dataset(tracker: Tracker, run_id: str, name: str, digest: str, prepared: PreparedDataset, source: str) -> None:
    """Logs a prepared dataset as an input of a training. MLflow stores one that the run has already only once.

    Args:
        tracker: the MLflow experiment.
        run_id: the run.
        name: the dataset's.
        digest: a hash of what a run reads of it, at most 36 characters.
        prepared: the prepared dataset.
        source: the folder or URI of its raw files, without credentials.

    Raises:
        TrackingError: if MLflow does not answer.
    """
    splits = prepared.summary["splits"]
    counts = {f"{split}_{key}": of[key] for split, of in splits.items() for key in COUNTS if key in of}
    dataset = Dataset(
        name=name,
        digest=digest,
        source_type=urlsplit(source).scheme or "local",
        source=json.dumps({"uri": source}),
        profile=json.dumps({"task": prepared.task, "classes": prepared.num_classes, **counts}),
    )
    inputs = [DatasetInput(dataset, [InputTag(MLFLOW_DATASET_CONTEXT, "training")])]
    tracker.call(f"run {run_id}", lambda: tracker.client.log_inputs(run_id, inputs))
