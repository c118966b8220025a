"""The record of a run's evaluations."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.evaluations import EvaluationConfig, RenderingConfig, SemanticRenderingConfig
from pipeline.config.project import Project
from pipeline.evaluation.evaluation import write_empty_evaluation
from pipeline.evaluation.record import EvaluationRecord, rounded, summary
from pipeline.training.record import TrainingRecord


def test_a_run_without_settings_has_no_predictions_and_no_metrics(repository: Path, tmp_path: Path) -> None:
    project = Project(repository)
    name = "shapes_detector-0"
    config, _ = project.run("pretraining", name, project.select("pretraining", "data").runs[name])
    training = TrainingRecord(
        run=name, key="a key", mlflow_run_id="an id", config=config, data="data", code="code", parameters={}, tags={},
        started=1, ended=2, seconds=3.0, hardware="4 CPU threads",
    )  # fmt: skip
    write_empty_evaluation(training, tmp_path / "predictions", tmp_path / "record.json", tmp_path / "metrics.json")
    assert list((tmp_path / "predictions").iterdir()) == []
    assert json.loads((tmp_path / "metrics.json").read_text()) == {}
    record = EvaluationRecord.read(tmp_path / "record.json")
    assert (record.run, record.training, record.mlflow_run_id) == (name, "a key", "an id")
    assert record.settings == EvaluationConfig({})
    assert record.evaluations == {}


def record_of(settings: EvaluationConfig, evaluations: dict[str, dict[str, Any]]) -> EvaluationRecord:
    return EvaluationRecord(
        run="a-0", mlflow_run_id="an id", training="a key", settings=settings, evaluations=evaluations,
        started=1, ended=2,
    )  # fmt: skip


def test_the_summary_is_of_the_last_setting_and_of_named_metrics(tmp_path: Path) -> None:
    instance = EvaluationConfig({"28x28": RenderingConfig(resolution=28), "224x224": RenderingConfig(resolution=224)})
    found = {"mlflow_run_id": "x", "AP": 36.123456, "AP50": 50.0, "AP_star": 39.567, "boundary_AP": 20.0, "APs": 1.0}
    record = record_of(instance, {"28x28": {"mlflow_run_id": "y", "AP": 1.0}, "224x224": found})
    record.write(tmp_path / "record.json")  # with sorted keys: 28x28 is last
    assert summary(EvaluationRecord.read(tmp_path / "record.json"), instance) == {
        "AP": 36.12,
        "AP_star": 39.57,
        "boundary_AP": 20.0,
    }

    semantic = EvaluationConfig({"os8": SemanticRenderingConfig(output_stride=8)})
    values = {"mIoU": 70.126, "trimap8_mIoU": 50.0, "trimap20_mIoU": 60.0, "IoU": {"road": 90.0}}
    assert summary(record_of(semantic, {"os8": {"mlflow_run_id": "x", **values}}), semantic) == {
        "mIoU": 70.13,
        "trimap8_mIoU": 50.0,
        "trimap20_mIoU": 60.0,
    }
    assert summary(record_of(EvaluationConfig({}), {}), EvaluationConfig({})) == {}


def test_resamples_are_read_as_they_were_written(tmp_path: Path) -> None:
    settings = EvaluationConfig({"os8": SemanticRenderingConfig(output_stride=8)})
    record = record_of(settings, {"os8": {"mlflow_run_id": "x", "mIoU": 70.0}})
    assert record.resampled("os8") == {}
    drawn = {"os8": rounded({"mIoU": [70.123456, math.nan]})}
    record.model_copy(update={"resamples": drawn}).write(tmp_path / "record.json")
    read = EvaluationRecord.read(tmp_path / "record.json")
    assert read.resampled("os8")["mIoU"] == [70.1235, pytest.approx(math.nan, nan_ok=True)]
    assert read.metrics("os8") == {"mIoU": 70.0}
    assert "resamples" not in summary(read, settings)


def test_resamples_of_a_setting_that_was_not_evaluated(tmp_path: Path) -> None:
    record = record_of(EvaluationConfig({}), {}).model_dump() | {"resamples": {"os8": {"mIoU": [1.0]}}}
    with pytest.raises(ValueError, match="resamples are of unknown settings: os8"):
        EvaluationRecord.model_validate(record)
