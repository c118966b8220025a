"""Sweeps in a miniature project, run for real as jobs of its own Ray."""

import json
import os
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import typer
import yaml
from mini_project import MiniProject, job_drivers, wait_for
from mlflow.entities import Run
from typer.testing import CliRunner

from pipeline.cli import sweep
from pipeline.config.project import Project

RUN = "coco_pointrend_r50-0"
TRAINED = f"outputs/demo/train/{RUN}/model.safetensors"
TRAINING = """\
kind: training
title: "k and β"
experiment: coco_pointrend_r50
starts_from: coco_pointrend_r50-0
schedule: demo_sweep
space:
  oversample_ratio: [1.0, 8.0]
  importance_sample_ratio: [0.0, 0.75]
search: {method: grid}
early_stopping: {grace: 2, reduction: 2}
evaluation: 28x28
val_images: 2
heat_map: [oversample_ratio, importance_sample_ratio]
"""
SUBDIVISION = """\
kind: subdivision
title: "steps and N"
run: coco_pointrend_r50-0
steps: [2, 5]
num_points: [196, 784]
timed_images: 2
cost: multiply_adds
heat_map: [num_points, steps]
"""


STORAGE = ".pointrend/sweeps"


def with_sweeps(mini: MiniProject) -> MiniProject:
    """Leaves a project one run, which is trained, and gives it two sweeps, which have not run."""
    selection = yaml.safe_load((mini.root / "selection.yaml").read_text())
    selection["runs"] = {RUN: selection["runs"][RUN]}
    selection["sweeps"] = {
        name: {"task": "instance", "dataset": "shapes", "starts_from": f"train/{RUN}"}
        for name in ("k_beta", "subdivision")
    }
    (mini.root / "selection.yaml").write_text(yaml.safe_dump(selection))
    (mini.root / "configs/sweeps/demo").mkdir()
    (mini.root / "configs/sweeps/demo/k_beta.yaml").write_text(TRAINING)
    (mini.root / "configs/sweeps/demo/subdivision.yaml").write_text(SUBDIVISION)
    (mini.root / "configs/schedules/demo_sweep.yaml").write_text(
        "batch_size: 2\nwarmup: {updates: 1, learning_rate: 0.001}\nphases:\n"
        "  - {updates: 8, learning_rate: 0.01}\ncheckpoint_every: 1\n"
    )
    # After a few updates every AP is zero. Trials with a large k shall look worse, for early stopping to see it.
    mini.edit(
        "pipeline/sweep/trial.py",
        "return score(run.dataset(), folder, SETTING, self.trials.task.setting).metrics",
        "found = score(run.dataset(), folder, SETTING, self.trials.task.setting).metrics\n"
        '            return found | {"AP": 10.0 - self.record.point["oversample_ratio"]}',
    )
    return mini


@dataclass(frozen=True)
class SweptProject:
    """A project whose sweeps have run, one of them in two attempts.

    Attributes:
        project: after its sweeps, before its report.
        stages: those that DVC ran for the sweeps.
        ended_before: the records of the trials that had ended when the sweep was killed, by the trials' names.
        left: what the sweep has left of its records.
    """

    project: MiniProject
    stages: list[str]
    ended_before: dict[str, dict[str, Any]]
    left: list[Path]


@pytest.fixture(scope="module")
def swept(base_project: MiniProject, ray_address: str, tmp_path_factory: pytest.TempPathFactory) -> SweptProject:
    """After both sweeps; the job of the one that trains was killed in the middle, and the stage that waited for it."""
    copy = base_project.copy(tmp_path_factory.mktemp("sweeps") / "project")
    project = with_sweeps(copy.on_ray(ray_address))
    stop_after_a_trial(project, signal.SIGKILL)
    (driver,) = job_drivers(project, "run_sweep")
    driver.kill()
    driver.wait(60)
    ended = {name: json.loads(text) for name, text in ended_trials(project).items()}
    assert 0 < len(ended) < 4
    stages = project.repro("sweep@k_beta", "sweep@subdivision")
    return SweptProject(project, stages, ended, list((project.root / STORAGE).glob("k_beta-*")))


@pytest.fixture(scope="module")
def reported(swept: SweptProject) -> MiniProject:
    """The project with its sweeps and its report; tests that change it take a copy."""
    assert swept.project.repro()[-1] == "report"
    return swept.project


@pytest.fixture
def reported_copy(reported: MiniProject, tmp_path: Path) -> MiniProject:
    return reported.copy(tmp_path / "project")


def rows(project: MiniProject, name: str) -> list[dict[str, Any]]:
    return pq.read_table(project.root / f"outputs/demo/sweeps/{name}/results.parquet").to_pylist()


def mlflow_runs(project: MiniProject, name: str, kind: str) -> list[Run]:
    client = project.mlflow()
    experiment = client.get_experiment_by_name("pointrend-demo")
    return client.search_runs([experiment.experiment_id], f"tags.kind = '{kind}' AND tags.sweep = '{name}'")


def ended_trials(project: MiniProject) -> dict[str, str]:
    """The records of the trials of k_beta that have ended, while the sweep is under way."""
    texts = {path.parent.name: path.read_text() for path in (project.root / STORAGE).glob("k_beta-*/*/trial.json")}
    return {name: text for name, text in texts.items() if json.loads(text)["status"] != "running"}


def stop_after_a_trial(project: MiniProject, number: signal.Signals) -> str:
    """Has the sweep run, sends a signal to what waits for it once a trial has ended, and returns what that has said."""
    process = project.start("dvc", "repro", "sweep@k_beta")
    wait_for(lambda: process.poll() is not None or ended_trials(project), "a trial's end", seconds=300)
    assert process.poll() is None, process.communicate()[0]
    os.killpg(process.pid, number)
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0, output
    return output


def test_a_subdivision_sweep_trains_nothing_and_agrees_with_the_evaluation(
    swept: SweptProject, base_project: MiniProject
) -> None:
    project = swept.project
    assert swept.stages == ["sweep@k_beta", "sweep@subdivision"]
    before, after = ((each.root / TRAINED).stat() for each in (base_project, project))
    assert (after.st_mtime_ns, after.st_size) == (before.st_mtime_ns, before.st_size)
    assert len(mlflow_runs(project, "subdivision", "trial")) == 4

    evaluated = json.loads((project.root / f"outputs/demo/evaluations/{RUN}.json").read_text())["evaluations"]
    found = {(row["steps"], row["num_points"]): row for row in rows(project, "subdivision")}
    assert len(found) == 4
    for setting, point in (("28x28", (2, 784)), ("224x224", (5, 784))):
        # A sweep times its points itself, over other images.
        metrics = {k: v for k, v in evaluated[setting].items() if isinstance(v, float) and k != "images_per_second"}
        assert metrics
        assert {name: found[point][name] for name in metrics} == pytest.approx(metrics)
    assert all(row["seconds"] > 0 for row in found.values())
    assert found[2, 196]["multiply_adds"] < found[5, 196]["multiply_adds"] < found[5, 784]["multiply_adds"]


@pytest.mark.faults
def test_ctrl_c_ends_the_waiting_and_jobs_stop_the_sweep(base_project: MiniProject, tmp_path: Path) -> None:
    project = with_sweeps(base_project.copy(tmp_path / "project"))
    # Trials that take some seconds each, so that the sweep is under way for as long as it is looked at.
    project.edit("configs/sweeps/demo/k_beta.yaml", "early_stopping: {grace: 2, reduction: 2}\n", "")
    project.edit("configs/schedules/demo_sweep.yaml", "updates: 8", "updates: 100")
    output = stop_after_a_trial(project, signal.SIGINT)
    assert "The jobs go on" in output
    assert "Traceback" not in output
    assert "RUNNING" in project.run("pointrend", "jobs", "list").stdout
    assert project.run("pointrend", "jobs", "stop", "k_beta").returncode == 0
    followed = project.run("pointrend", "jobs", "follow", "k_beta")
    assert followed.returncode == 1
    assert "what is done is safe" in followed.stdout
    assert {run.info.status for run in mlflow_runs(project, "k_beta", "sweep")} == {"KILLED"}
    assert 0 < len(ended_trials(project)) < 4


def test_a_sweep_that_was_killed_goes_on_and_repeats_no_trial(swept: SweptProject) -> None:
    project = swept.project
    assert swept.left == []
    found = {row["trial"]: row for row in rows(project, "k_beta")}
    assert len(found) == 4
    (parent,) = mlflow_runs(project, "k_beta", "sweep")
    trials = {run.info.run_id: run for run in mlflow_runs(project, "k_beta", "trial")}
    assert parent.info.status == "FINISHED"
    assert {row["mlflow_run_id"] for row in found.values()} == trials.keys(), "each trial has one run"
    assert len(trials) == 4
    client = project.mlflow()
    for row in found.values():
        run = trials[row["mlflow_run_id"]]
        assert run.info.status == "FINISHED"
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert (float(run.data.params["oversample_ratio"]), float(run.data.params["importance_sample_ratio"])) == (
            row["oversample_ratio"],
            row["importance_sample_ratio"],
        )
        # One entry for each rung: nothing was done twice.
        steps = [entry.step for entry in client.get_metric_history(run.info.run_id, "AP")]
        assert steps == [rung["update"] for rung in row["rungs"]]
    for name, record in swept.ended_before.items():
        assert found[name]["status"] == record["status"]
        assert found[name]["seconds"] == record["seconds"], "measured once"

    assert {row["status"] for row in found.values()} == {"finished", "stopped"}
    for row in found.values():
        assert row["updates"] == row["rungs"][-1]["update"]
        assert (row["updates"] == 8) == (row["status"] == "finished")
    assert all(row["oversample_ratio"] > 1 for row in found.values() if row["status"] == "stopped")


def test_the_best_setting_is_an_experiment_of_the_scale(swept: SweptProject, tmp_path: Path) -> None:
    root = swept.project.root
    shutil.copytree(root / "configs", tmp_path / "configs")
    shutil.copy(root / "outputs/demo/sweeps/k_beta/best.yaml", tmp_path / "configs/experiments/demo")
    experiment = Project(tmp_path).experiment("demo", "best")
    assert experiment.sampling is not None
    assert experiment.sampling.oversample_ratio == 1.0


def test_the_report_shows_the_sweeps(reported: MiniProject) -> None:
    report = reported.root / "reports/demo"
    pictures = {path.name for path in report.glob("sweep_*.png")}
    assert pictures == {
        f"sweep_{name}_{kind}.png" for name in ("k_beta", "subdivision") for kind in ("heat_map", "pareto")
    }
    page = (report / "index.html").read_text()
    assert 'id="sweep-k_beta"' in page
    assert 'id="sweep-subdivision"' in page


def test_a_new_title_draws_the_report_again_and_runs_nothing(reported_copy: MiniProject) -> None:
    assert reported_copy.repro() == []
    reported_copy.edit("configs/sweeps/demo/k_beta.yaml", "k and β", "k by β")
    assert reported_copy.repro() == ["report"]


def test_a_lost_database_gets_the_sweeps_again_once(reported_copy: MiniProject) -> None:
    project = reported_copy

    def logged() -> list[tuple[Any, ...]]:
        client = project.mlflow()
        found = []
        for name in ("k_beta", "subdivision"):
            (sweep_run,) = mlflow_runs(project, name, "sweep")
            for run in (sweep_run, *mlflow_runs(project, name, "trial")):
                parent = run.data.tags.get("mlflow.parentRunId")
                assert parent == (None if run is sweep_run else sweep_run.info.run_id)
                configs = [artifact.path for artifact in client.list_artifacts(run.info.run_id)]
                assert configs == (["config.json"] if run is sweep_run else [])
                entries = [client.get_metric_history(run.info.run_id, metric) for metric in run.data.metrics]
                history = sorted((e.key, e.step, e.value, e.timestamp) for of_metric in entries for e in of_metric)
                tags = {key: run.data.tags.get(key) for key in ("kind", "sweep", "best", "trial_status", "hardware")}
                times = run.info.start_time, run.info.end_time if run is not sweep_run else None
                found.append((run.info.run_name, run.info.status, times, run.data.params, tags, history))
        return sorted(found, key=lambda run: run[0])

    before = logged()
    assert len(before) == 2 + 4 + 4
    (project.root / "mlflow.db").unlink()
    for _ in range(2):
        assert project.repro() == []
        assert logged() == before


def test_the_command_does_not_train_what_is_missing(
    project_copy: MiniProject, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(project_copy.root)
    app = typer.Typer()
    app.command()(sweep)
    (project_copy.root / TRAINED).unlink()
    file = tmp_path / "subdivision.yaml"
    file.write_text(SUBDIVISION)
    result = CliRunner().invoke(app, [str(file)])
    assert result.exit_code == 1
    assert f"`dvc repro train@{RUN}`" in result.output + result.stderr


def test_a_sweep_of_the_scale_is_known_by_its_name(project_copy: MiniProject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project_copy.root)
    app = typer.Typer()
    app.command()(sweep)
    (project_copy.root / TRAINED).unlink()
    file = project_copy.root / "configs/sweeps/demo/coarse.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(SUBDIVISION)
    result = CliRunner().invoke(app, ["coarse"])
    assert result.exit_code == 1
    assert f"`dvc repro train@{RUN}`" in result.output + result.stderr


def test_the_command_runs_a_sweep(
    project_copy_on_ray: MiniProject, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    project = project_copy_on_ray
    monkeypatch.chdir(project.root)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name, value in project.variables.items():
        monkeypatch.setenv(name, value)
    app = typer.Typer()
    app.command()(sweep)
    file = tmp_path / "coarse.yaml"
    file.write_text(SUBDIVISION.replace("[2, 5]", "[1]").replace("[196, 784]", "[49]"))
    result = CliRunner().invoke(app, [str(file)])
    assert result.exit_code == 0, result.output + result.stderr
    assert "best is num_points=49,steps=1" in result.output
    assert len(rows(project, "coarse")) == 1
