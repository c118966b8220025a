"""A glance into MLflow's own database, against what MLflow itself writes."""

from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipeline.tracking.store import RELOGGED_TAG, certainly_has, tracking_uri


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


def test_runs_that_are_there_were_logged_again_or_were_deleted(uri: str) -> None:
    client = MlflowClient(uri)
    experiment = client.create_experiment("experiment")
    first, second, deleted = (client.create_run(experiment).info.run_id for _ in range(3))
    client.set_tag(second, RELOGGED_TAG, "before")
    client.set_tag(deleted, RELOGGED_TAG, "long before")
    client.delete_run(deleted)
    assert certainly_has(uri, [])
    assert certainly_has(uri, [first, second])
    assert certainly_has(uri, {first, "before"})
    assert not certainly_has(uri, [first, "nobody's"])
    assert not certainly_has(uri, [deleted])
    assert not certainly_has(uri, ["long before"])


def test_nothing_is_certain_of_a_server_or_of_what_is_no_database(uri: str, tmp_path: Path) -> None:
    assert not certainly_has("http://127.0.0.1:5000", [])
    assert not certainly_has(uri, [])
    assert not (tmp_path / "mlflow.db").exists(), "looking makes nothing"
    (tmp_path / "mlflow.db").write_text("no database")
    assert not certainly_has(uri, [])
    (tmp_path / "mlflow.db").write_bytes(b"")
    assert not certainly_has(uri, [])


def test_where_runs_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri(tmp_path) == f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example.org")
    assert tracking_uri(tmp_path) == "http://mlflow.example.org"
