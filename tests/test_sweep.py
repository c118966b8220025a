"""Sweeps in a miniature project, run for real. The tests of this file build on each other, in order."""

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import typer
import yaml
from mini_project import MiniProject, make_project
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
  oversample_ratio: [1.0, 3.0, 8.0]
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


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> MiniProject:
    """The miniature project with one run and two sweeps."""
    mini = make_project(tmp_path_factory.mktemp("sweeps"))
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
        "return score(run.dataset(), folder, SETTING, self.trials.task.setting)[0]",
        "found = score(run.dataset(), folder, SETTING, self.trials.task.setting)[0]\n"
        '            return found | {"AP": 10.0 - self.record.point["oversample_ratio"]}',
    )
    return mini


def rows(project: MiniProject, name: str) -> list[dict[str, Any]]:
    return pq.read_table(project.root / f"outputs/demo/sweeps/{name}/results.parquet").to_pylist()


def mlflow_runs(project: MiniProject, name: str, kind: str) -> list[Run]:
    client = project.mlflow()
    experiment = client.get_experiment_by_name("pointrend-demo")
    return client.search_runs([experiment.experiment_id], f"tags.kind = '{kind}' AND tags.sweep = '{name}'")


def wait_for(condition, seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.05)


def test_a_subdivision_sweep_trains_nothing_and_agrees_with_the_evaluation(project: MiniProject) -> None:
    result = project.run("dvc", "repro", f"evaluate@{RUN}")
    assert result.returncode == 0, result.stdout
    weights = project.root / TRAINED
    before = weights.stat().st_mtime_ns, weights.read_bytes()

    result = project.run("dvc", "repro", "sweep@subdivision")
    assert result.returncode == 0, result.stdout
    assert [line for line in result.stdout.splitlines() if line.startswith("Running stage")] == [
        "Running stage 'sweep@subdivision':"
    ]
    assert (weights.stat().st_mtime_ns, weights.read_bytes()) == before
    assert len(mlflow_runs(project, "subdivision", "trial")) == 4

    evaluated = json.loads((project.root / f"outputs/demo/metrics/{RUN}.json").read_text())["evaluations"]
    found = {(row["steps"], row["num_points"]): row for row in rows(project, "subdivision")}
    assert len(found) == 4
    for setting, point in (("28x28", (2, 784)), ("224x224", (5, 784))):
        metrics = {k: v for k, v in evaluated[setting].items() if isinstance(v, float)}
        assert metrics
        assert {name: found[point][name] for name in metrics} == pytest.approx(metrics)
    assert all(row["seconds"] > 0 for row in found.values())
    assert found[2, 196]["multiply_adds"] < found[5, 196]["multiply_adds"] < found[5, 784]["multiply_adds"]


STORAGE = ".pointrend/sweeps"
SWEEP = ("dvc", "repro", "sweep@k_beta")


def done(project: MiniProject) -> dict[str, str]:
    """The records of the trials of k_beta that have ended."""
    texts = {path.parent.name: path.read_text() for path in (project.root / STORAGE).glob("k_beta-*/*/trial.json")}
    return {name: text for name, text in texts.items() if json.loads(text)["status"] != "running"}


def stop_after_a_trial(project: MiniProject, number: signal.Signals) -> str:
    """Starts the sweep, stops it once a trial more has ended, and returns what it said."""
    before = done(project).keys()
    process = project.start(*SWEEP)
    wait_for(lambda: done(project).keys() > before)
    os.killpg(process.pid, number)
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0, output
    assert 0 < len(done(project)) < 6
    return output


@pytest.mark.faults
def test_ctrl_c_ends_a_sweep_and_says_what_is_safe(project: MiniProject) -> None:
    output = stop_after_a_trial(project, signal.SIGINT)
    assert "what is done is safe" in output
    assert "Traceback" not in output
    assert {run.info.status for run in mlflow_runs(project, "k_beta", "sweep")} == {"KILLED"}


def test_a_sweep_that_was_killed_goes_on_and_repeats_no_trial(project: MiniProject) -> None:
    storage = project.root / STORAGE
    stop_after_a_trial(project, signal.SIGKILL)
    finished = done(project)

    result = project.run(*SWEEP)
    assert result.returncode == 0, result.stdout
    assert not list(storage.glob("k_beta-*")), "nothing is left behind"

    found = {row["trial"]: row for row in rows(project, "k_beta")}
    assert len(found) == 6
    (parent,) = mlflow_runs(project, "k_beta", "sweep")
    trials = {run.info.run_id: run for run in mlflow_runs(project, "k_beta", "trial")}
    assert parent.info.status == "FINISHED"
    assert {row["mlflow_run_id"] for row in found.values()} == trials.keys(), "each trial has one run"
    assert len(trials) == 6
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
    for name, text in finished.items():
        record = json.loads(text)
        assert found[name]["status"] == record["status"]
        assert found[name]["seconds"] == record["seconds"], "measured once"

    assert {row["status"] for row in found.values()} == {"finished", "stopped"}
    for row in found.values():
        assert row["updates"] == row["rungs"][-1]["update"]
        assert (row["updates"] == 8) == (row["status"] == "finished")
    assert all(row["oversample_ratio"] > 1 for row in found.values() if row["status"] == "stopped")


def test_the_best_setting_is_an_experiment_of_the_scale(project: MiniProject) -> None:
    shutil.copy(
        project.root / "outputs/demo/sweeps/k_beta/best.yaml", project.root / "configs/experiments/demo/best.yaml"
    )
    experiment = Project(project.root).experiment("demo", "best")
    (project.root / "configs/experiments/demo/best.yaml").unlink()
    assert experiment.sampling is not None
    assert experiment.sampling.oversample_ratio == 1.0


def test_the_report_shows_the_sweeps(project: MiniProject) -> None:
    assert project.repro()[-1] == "report"
    report = project.root / "reports/demo"
    pictures = {path.name for path in report.glob("sweep_*.png")}
    assert pictures == {
        f"sweep_{name}_{kind}.png" for name in ("k_beta", "subdivision") for kind in ("heat_map", "pareto")
    }
    page = (report / "index.html").read_text()
    assert 'id="sweep-k_beta"' in page
    assert 'id="sweep-subdivision"' in page


def test_a_new_title_draws_the_report_again_and_runs_nothing(project: MiniProject) -> None:
    assert project.repro() == []
    project.edit("configs/sweeps/demo/k_beta.yaml", "k and β", "k by β")
    assert project.repro() == ["configure", "report"]


def test_a_lost_database_gets_the_sweeps_again_once(project: MiniProject) -> None:
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
    assert len(before) == 2 + 6 + 4
    (project.root / "mlflow.db").unlink()
    for _ in range(2):
        assert project.repro() == []
        assert logged() == before


def test_the_command_does_not_train_what_is_missing(project: MiniProject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.root)
    app = typer.Typer()
    app.command()(sweep)
    weights = project.root / TRAINED
    aside = weights.rename(weights.with_suffix(".aside"))
    result = CliRunner().invoke(app, ["configs/sweeps/demo/subdivision.yaml"])
    aside.rename(weights)
    assert result.exit_code == 1
    assert f"`dvc repro train@{RUN}`" in result.output + result.stderr


def test_the_command_runs_a_sweep(project: MiniProject, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(project.root)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    app = typer.Typer()
    app.command()(sweep)
    file = tmp_path / "coarse.yaml"
    file.write_text(SUBDIVISION.replace("[2, 5]", "[1]").replace("[196, 784]", "[49]"))
    result = CliRunner().invoke(app, [str(file)])
    assert result.exit_code == 0, result.output + result.stderr
    assert "best is num_points=49,steps=1" in result.output
    assert len(rows(project, "coarse")) == 1
