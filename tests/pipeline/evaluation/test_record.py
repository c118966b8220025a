"""The metrics file of a run that is there for others alone."""

from pathlib import Path

from pipeline.config.evaluations import EvaluationConfig
from pipeline.config.project import Project
from pipeline.evaluation.record import EvaluationRecord, leave_unevaluated
from pipeline.training.record import TrainingRecord


def test_a_run_without_settings_has_no_predictions_and_no_metrics(repository: Path, tmp_path: Path) -> None:
    project = Project(repository)
    name = "shapes_detector-0"
    config, settings = project.run("demo", name, project.select("demo", "data").runs[name])
    assert settings == EvaluationConfig({})
    training = TrainingRecord(
        run=name, key="a key", mlflow_run_id="an id", config=config, data="data", code="code", parameters={}, tags={},
        started=1, ended=2, seconds=3.0, hardware="4 CPU threads",
    )  # fmt: skip
    leave_unevaluated(training, tmp_path / "predictions", tmp_path / "metrics.json")
    assert list((tmp_path / "predictions").iterdir()) == []
    record = EvaluationRecord.read(tmp_path / "metrics.json")
    assert (record.run, record.training, record.mlflow_run_id) == (name, "a key", "an id")
    assert record.settings == settings
    assert record.evaluations == {}
