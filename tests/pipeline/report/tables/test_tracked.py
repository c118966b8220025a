import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from pipeline.config.tables import TableConfig
from pipeline.report.results import EvaluationResult, RunResult
from pipeline.report.tables.tracked import log_tables, row_runs
from pipeline.tracking.client import Tracker, TrackingError


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture
def tracker(uri: str, tmp_path: Path) -> Tracker:
    """A scale's experiment of the test's own."""
    return Tracker(uri, f"pointrend-demo-{tmp_path.name}", tmp_path / "artifacts")


@pytest.fixture
def table() -> TableConfig:
    """Two rows, each of a COCO and a Cityscapes experiment, and a column of costs."""

    def cell(experiment: str) -> dict[str, str]:
        return {"experiment": experiment, "evaluation": "224x224", "metric": "AP"}

    cost = {"model": "pointrend_rcnn_r50_fpn_coco", "resolution": 224, "num_points": 784, "cost": "multiply_adds"}
    return TableConfig.model_validate(
        {
            "title": "A title",
            "row_labels": ["selection strategy", "points"],
            "columns": [
                {"key": "coco", "label": "COCO AP"},
                {"key": "cityscapes", "label": "Cityscapes AP", "unit": 100.0},
                {"key": "cost", "label": "cost"},
            ],
            "rows": [
                {"labels": ["grid", "14²"], "cells": {"coco": cell("a_grid"), "cityscapes": cell("b_grid")}},
                {"labels": ["biased", "14²"], "cells": {"coco": cell("a"), "cityscapes": cell("b"), "cost": cost}},
            ],
        }
    )


@pytest.fixture
def made(made_up: Callable[..., RunResult]) -> Callable[..., RunResult]:
    """A run with one evaluation; its MLflow ids are its name's."""

    def made(experiment: str, seed: int, ap: float, training: str = "") -> RunResult:
        parameters = {
            "dataset": "shapes" if experiment.startswith("a") else "streets",
            "head": "PointRend",
            "backbone": "tiny_fpn",
            "sampling": "grid" if "grid" in experiment else "biased",
            "seed": str(seed),
            "resolution": "224",
        }
        name = f"{experiment}-{seed}"
        evaluation = EvaluationResult(f"id of {name} 224x224", {"AP": ap, "AP50": 99.0}, parameters)
        run = made_up(experiment, seed, {}, mlflow_run_id=f"id of {name}{training}")
        return replace(run, evaluations={"224x224": evaluation})

    return made


def runs(tracker: Tracker, table: str = "table4") -> list[Run]:
    client = MlflowClient(tracker.uri)
    experiment = client.get_experiment_by_name(f"{tracker.experiment}-{table}")
    if experiment is None:
        return []
    found = client.search_runs([experiment.experiment_id])
    return sorted(found, key=lambda run: (run.info.run_name, run.data.params["seed"]))


def numbers(tracker: Tracker) -> list[tuple[str, str, dict[str, float]]]:
    return [(run.info.run_name, run.data.params["seed"], run.data.metrics) for run in runs(tracker)]


def test_a_run_for_each_row_and_seed(tracker: Tracker, table: TableConfig, made: Callable[..., RunResult]) -> None:
    results = [made("a_grid", 0, 35.7), made("b_grid", 0, 34.4), made("a", 0, 36.3), made("a", 1, 36.5)]
    log_tables({"table4": table}, results, tracker)
    assert numbers(tracker) == [
        ("biased 14²", "0", {"coco": 36.3}),
        ("biased 14²", "1", {"coco": 36.5}),
        ("grid 14²", "0", {"coco": 35.7, "cityscapes": 0.344}),
    ]
    grid = runs(tracker)[2]
    assert grid.info.status == "FINISHED"
    assert grid.data.params == {
        "dataset": "shapes, streets",
        "head": "PointRend",
        "backbone": "tiny_fpn",
        "sampling": "grid",
        "seed": "0",
        "resolution": "224",
    }
    shown = ("head", "backbone", "sampler", "table", "row", "trainings", "evaluations")
    assert [grid.data.tags[key] for key in shown] == [
        "PointRend",
        "tiny_fpn",
        "grid",
        "table4",
        "grid 14²",
        "id of a_grid-0, id of b_grid-0",
        "id of a_grid-0 224x224, id of b_grid-0 224x224",
    ]


def test_nothing_new_is_logged_once(tracker: Tracker, table: TableConfig, made: Callable[..., RunResult]) -> None:
    results = [made("a_grid", 0, 35.7), made("a", 0, 36.3)]
    log_tables({"table4": table}, results, tracker)
    before = [run.info.run_id for run in runs(tracker)]
    log_tables({"table4": table}, results, tracker)
    assert [run.info.run_id for run in runs(tracker)] == before
    assert len(before) == 2


def test_rows_that_change_get_new_runs(tracker: Tracker, table: TableConfig, made: Callable[..., RunResult]) -> None:
    log_tables({"table4": table}, [made("a_grid", 0, 35.7), made("a", 0, 36.3)], tracker)
    biased, grid = (run.info.run_id for run in runs(tracker))
    log_tables({"table4": table}, [made("a_grid", 0, 35.8), made("a", 0, 36.3)], tracker)
    assert numbers(tracker) == [("biased 14²", "0", {"coco": 36.3}), ("grid 14²", "0", {"coco": 35.8})]
    again = [run.info.run_id for run in runs(tracker)]
    assert again[0] == biased
    assert again[1] != grid
    assert MlflowClient(tracker.uri).get_run(grid).info.lifecycle_stage == "deleted"
    # The same numbers of another training are another row's, too.
    log_tables({"table4": table}, [made("a_grid", 0, 35.8), made("a", 0, 36.3, training=" again")], tracker)
    assert [run.data.tags["trainings"] for run in runs(tracker)] == ["id of a-0 again", "id of a_grid-0"]


def test_rows_that_are_gone_are_deleted(tracker: Tracker, table: TableConfig, made: Callable[..., RunResult]) -> None:
    log_tables({"table4": table}, [made("a_grid", 0, 35.7), made("a", 0, 36.3)], tracker)
    log_tables({"table4": table}, [made("a", 0, 36.3)], tracker)
    assert [name for name, _, _ in numbers(tracker)] == ["biased 14²"]
    log_tables({"table4": table}, [], tracker)
    assert numbers(tracker) == []


def test_a_table_without_numbers_has_no_experiment(tracker: Tracker, table: TableConfig) -> None:
    log_tables({"table4": table}, [], tracker)
    assert MlflowClient(tracker.uri).get_experiment_by_name(f"{tracker.experiment}-table4") is None


def test_tables_have_experiments_of_their_own(
    tracker: Tracker, table: TableConfig, made: Callable[..., RunResult]
) -> None:
    log_tables({"table4": table, "table5": table}, [made("a", 0, 36.3)], tracker)
    assert [len(runs(tracker, name)) for name in ("table4", "table5")] == [1, 1]
    assert tracker.runs({}) == [], "the trainings' experiment has none of them"


def test_the_page_offers_a_view_of_the_table(
    tracker: Tracker, table: TableConfig, made: Callable[..., RunResult]
) -> None:
    """Of the columns that have numbers, and the parameters in which rows differ, the best row first."""

    def tags() -> dict[str, str]:
        return MlflowClient(tracker.uri).get_experiment_by_name(f"{tracker.experiment}-table4").tags

    def saved() -> str:
        return tags()["mlflow.sharedViewState.table4"]

    results = [made("a_grid", 0, 35.7), made("a", 0, 36.3)]
    log_tables({"table4": table}, results, tracker)
    first = saved()
    assert tags()["mlflow.note.content"] == "Table 4: A title"
    assert json.loads(first)["name"] == "Table 4"
    assert json.loads(json.loads(first)["state"]) == {
        "selectedColumns": ["params.`sampling`", "metrics.`coco`"],
        "orderByKey": "metrics.`coco`",
        "orderByAsc": False,
    }
    log_tables({"table4": table}, results, tracker)
    assert saved() == first
    log_tables({"table4": table}, [*results, made("b", 0, 34.0)], tracker)
    assert "metrics.`cityscapes`" in saved()


def test_what_was_killed_is_completed(
    tracker: Tracker, table: TableConfig, made: Callable[..., RunResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    results = [made("a_grid", 0, 35.7), made("a", 0, 36.3)]

    def killed(*_: Any, **__: Any) -> None:
        raise MlflowException("killed", INVALID_PARAMETER_VALUE)

    with monkeypatch.context() as broken:
        broken.setattr(MlflowClient, "set_terminated", killed)
        with pytest.raises(TrackingError, match="killed"):
            log_tables({"table4": table}, results, tracker)
    assert [run.info.status for run in runs(tracker)] == ["RUNNING"]
    log_tables({"table4": table}, results, tracker)
    assert [run.info.status for run in runs(tracker)] == ["FINISHED"] * 2


def test_what_was_not_measured_is_left_out(table: TableConfig, made: Callable[..., RunResult]) -> None:
    grid, biased = table.rows
    assert row_runs("t", table, biased, [made("a", 0, math.nan)]) == []
    (found,) = row_runs("t", table, biased, [made("a", 0, math.nan), made("b", 0, 35.0), made("a_grid", 1, 1.0)])
    assert found.metrics == {"cityscapes": 0.35}
    assert found.tags["trainings"] == "id of b-0"
    assert row_runs("t", table, grid, [made("a", 0, 36.3)]) == []
