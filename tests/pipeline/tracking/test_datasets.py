"""The dataset of a run, as MLflow's page shows it."""

import json
from pathlib import Path

from mlflow import MlflowClient

from pipeline.config.labels import LabelTable
from pipeline.data.manifest import PreparedDataset
from pipeline.tracking.client import Tracker
from pipeline.tracking.datasets import log_dataset
from pipeline.tracking.runs import RunRecord, log_run


def test_a_dataset_is_an_input_once(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    tracker = Tracker(uri, "experiment", tmp_path / "artifacts")
    run_id = log_run(tracker, RunRecord("key", "my run", {}, {}, 1_700_000_000_000))
    splits = {"train": {"images": 8, "objects": 10, "classes": {}}, "val": {"images": 3}}
    (tmp_path / "dataset.json").write_text(json.dumps({"splits": splits}))
    prepared = PreparedDataset(tmp_path, LabelTable(("road", "sky"), (0, 1), (255,)))
    for _ in range(2):
        log_dataset(tracker, run_id, "streets", "0123456789abcdef", prepared, "s3://bucket/streets")
    (found,) = MlflowClient(uri).get_run(run_id).inputs.dataset_inputs
    dataset = found.dataset
    assert (dataset.name, dataset.digest, dataset.source_type) == ("streets", "0123456789abcdef", "s3")
    assert json.loads(dataset.source) == {"uri": "s3://bucket/streets"}
    assert json.loads(dataset.profile) == {
        "task": "semantic",
        "classes": 2,
        "train_images": 8,
        "train_objects": 10,
        "val_images": 3,
    }
    assert [(tag.key, tag.value) for tag in found.tags] == [("mlflow.data.context", "training")]
