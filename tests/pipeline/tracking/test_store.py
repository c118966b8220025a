"""A glance into MLflow's own database, against what MLflow itself writes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipeline.tracking.store import (
    MODEL_WEIGHTS,
    RELOGGED_TAG,
    certainly_has,
    original_project,
    share_weights,
    tracking_uri,
)
from pointrend.pyfunc import WEIGHTS


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


def test_models_and_registered_ones_are_asked_for_by_run(uri: str) -> None:
    client = MlflowClient(uri)
    experiment = client.create_experiment("experiment")
    first, second, unfinished = (client.create_run(experiment).info.run_id for _ in range(3))
    client.set_tag(second, RELOGGED_TAG, "before")
    for run_id in (first, second):
        model = client.create_logged_model(experiment, "weights", run_id)
        client.finalize_logged_model(model.model_id, "READY")
    client.create_logged_model(experiment, "weights", unfinished)
    assert certainly_has(uri, [first], models=[first, "before"])
    assert not certainly_has(uri, [first], models=[unfinished]), "its weights are missing"
    assert not certainly_has(uri, [first], registered=[first])
    client.create_registered_model("pointrend")
    client.create_model_version("pointrend", model.artifact_location, first)
    assert certainly_has(uri, [first, "before"], models=[first], registered=[first])


def test_the_weights_of_models_share_the_disk_with_those_of_trainings(uri: str, tmp_path: Path) -> None:
    client = MlflowClient(uri)
    experiment = client.create_experiment("experiment", artifact_location=(tmp_path / "arti facts").as_uri())
    weights, stored = {}, {}
    for name, content in (("same", "weights"), ("other", "changed")):
        run_id = client.create_run(experiment).info.run_id
        model = client.create_logged_model(experiment, "weights", run_id)
        client.finalize_logged_model(model.model_id, "READY")
        stored[name] = tmp_path / "arti facts/models" / model.model_id / "artifacts" / MODEL_WEIGHTS
        stored[name].parent.mkdir(parents=True)
        stored[name].write_text("weights")
        weights[run_id] = tmp_path / name
        weights[run_id].write_text(content)
    for _ in range(2):
        share_weights(uri, weights)
        assert stored["same"].samefile(tmp_path / "same")
        assert stored["other"].read_text() == "weights", "it has the weights that were logged"
    assert [path.name for path in stored["same"].parent.iterdir()] == [stored["same"].name]
    share_weights("http://127.0.0.1:5000", weights)
    share_weights(f"sqlite:///{tmp_path / 'none.db'}", weights)
    assert MODEL_WEIGHTS == WEIGHTS


def test_where_runs_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri(tmp_path) == f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    assert tracking_uri(tmp_path) == f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example.org")
    assert tracking_uri(tmp_path) == "http://mlflow.example.org"


def test_folders_that_only_look_like_dvc_s_workspaces_are_projects(tmp_path: Path) -> None:
    for name in (".dvc/tmp/other", "dvc/tmp/exps", ".dvc/exps", ".dvc/tmp/exps"):
        assert original_project(tmp_path / name) == tmp_path / name
    assert original_project(tmp_path / ".dvc/tmp/exps/tmp1/sub") == tmp_path


PIPELINE = """
stages:
  where:
    cmd: {python} -c "from pathlib import Path; from pipeline.tracking.store import tracking_uri;
      print('uri', tracking_uri(Path.cwd()), Path.cwd())"
    params: [a]
"""


def test_a_temporary_workspace_of_dvc_has_the_database_of_its_project(
    tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "t")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "t@example.org")
    monkeypatch.setenv("PYTHONPATH", str(repository))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    project = tmp_path / "my project"
    project.mkdir()
    (project / "dvc.yaml").write_text(PIPELINE.format(python=sys.executable))
    (project / "params.yaml").write_text("a: 1")

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("git", "init", "--quiet")
    run("dvc", "init", "--quiet")
    run("git", "add", ".")
    run("git", "commit", "--quiet", "-m", "first")
    said = run("dvc", "exp", "run", "--temp", "-S", "a=2")
    assert f"uri sqlite:///{project}/mlflow.db {project}/.dvc/tmp/exps/" in said
