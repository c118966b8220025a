"""Evaluating a run that is there for others alone."""

import json
from pathlib import Path

from pipeline.config import ClusterConfig, EvaluationConfig, Project, RunParams
from pipeline.data.coco import Category, ImageRecord
from pipeline.data.manifest import SplitManifest, write_prepared
from pipeline.evaluation.run import evaluate_run
from pipeline.storage import Storage
from pipeline.tracking import Tracker


def test_a_run_without_settings_has_no_predictions_and_no_metrics(repository: Path, tmp_path: Path) -> None:
    """Nothing is predicted: there are no weights, and the images are not there. Nothing is logged."""
    parameters = RunParams(dataset="shapes", experiment="shapes_detector", seed=0, starts_from="data/shapes")
    config, settings = Project(repository).run("demo", "shapes_detector-0", parameters)
    assert settings == EvaluationConfig({})
    prepared, trained = tmp_path / "prepared", tmp_path / "trained"
    for folder in (prepared, trained):
        folder.mkdir()
    split = SplitManifest([ImageRecord(1, "nowhere.png", 32, 32, [])])
    write_prepared(prepared, [Category(1, "nut")], {"train": split, "val": split})
    (trained / "train.json").write_text(json.dumps({"mlflow_run_id": "0123456789abcdef"}))

    class SilentTracker(Tracker):
        def __init__(self) -> None:
            """Connects to nothing; whatever is called fails."""

    evaluate_run(
        config,
        settings,
        ClusterConfig(workers=0),
        prepared=prepared,
        images=Storage(str(tmp_path / "images")),
        trained=trained,
        output=tmp_path / "predictions",
        metrics=tmp_path / "metrics.json",
        tracker=SilentTracker(),
    )
    assert list((tmp_path / "predictions").iterdir()) == []
    assert json.loads((tmp_path / "metrics.json").read_text()) == {
        "run": "shapes_detector-0",
        "mlflow_run_id": "0123456789abcdef",
        "evaluations": {},
    }
