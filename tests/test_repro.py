"""The DVC graph, run for real in a miniature project. The tests of this file build on each other, in order."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from mini_project import MiniProject
from mlflow import MlflowClient
from mlflow_server import MlflowServer
from safetensors.torch import load_file

from pipeline.tracking import KEY_TAG

BOTH = ["4xconv", "pointrend"]


def wait_for(condition, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.05)


def weights(project: MiniProject, head: str) -> dict:
    return load_file(project.root / f"outputs/demo/train/coco_{head}_r50-0/model.safetensors")


def client(project: MiniProject) -> MlflowClient:
    return MlflowClient(f"sqlite:///{project.root / 'mlflow.db'}")


def runs(project: MiniProject, kind: str) -> list:
    mlflow = client(project)
    experiment = mlflow.get_experiment_by_name("pointrend-demo")
    return mlflow.search_runs([experiment.experiment_id], f"tags.kind = '{kind}'")


def test_from_nothing_to_table_1(project: MiniProject) -> None:
    stages = project.repro()
    assert stages[:3] == ["configure", "generate@shapes", "prepare@shapes"]
    assert stages[-1] == "report"
    assert sorted(stages[3:-1]) == sorted(
        f"{kind}@coco_{head}_r50-0" for kind in ("train", "evaluate") for head in BOTH
    )
    report = project.root / "reports/demo"
    rows = [line for line in (report / "table1.md").read_text().splitlines() if line.startswith(("| 4×", "| Point"))]
    assert [row.split("|")[3].strip()[0].isdigit() for row in rows] == [True, True, True]
    assert {path.name for path in report.iterdir()} >= {"index.html", "table1.csv", "table1.tex"}


def test_mlflow_has_one_run_per_training_and_evaluations_nested_in_it(project: MiniProject) -> None:
    trainings, evaluations = runs(project, "training"), runs(project, "evaluation")
    assert sorted(run.info.run_name for run in trainings) == ["coco_4xconv_r50-0", "coco_pointrend_r50-0"]
    assert all(run.info.status == "FINISHED" for run in trainings + evaluations)
    parents = {run.info.run_id: run.info.run_name for run in trainings}
    nested = sorted(
        (parents[run.data.tags["mlflow.parentRunId"]], run.data.params["resolution"]) for run in evaluations
    )
    assert nested == [("coco_4xconv_r50-0", "28"), ("coco_pointrend_r50-0", "224"), ("coco_pointrend_r50-0", "28")]
    for run in trainings:
        history = client(project).get_metric_history(run.info.run_id, "loss")
        assert [entry.step for entry in history] == [4]
        assert {"learning_rate", "loss_mask", "loss_classifier"} <= run.data.metrics.keys()


def test_nothing_to_do(project: MiniProject) -> None:
    assert project.repro() == []


def test_predictions_are_plain_coco_results(project: MiniProject) -> None:
    results = json.loads(
        (project.root / "outputs/demo/predictions/coco_pointrend_r50-0/predictions_224x224.json").read_text()
    )
    assert results
    assert results[0].keys() == {"image_id", "category_id", "bbox", "score", "segmentation"}


def test_an_experiment_that_changes_reruns_itself_and_what_follows(project: MiniProject) -> None:
    before = weights(project, "4xconv")
    project.edit("configs/experiments/demo/coco_pointrend_r50.yaml", "importance: 0.75", "importance: 0.5")
    assert project.repro() == ["configure", "train@coco_pointrend_r50-0", "evaluate@coco_pointrend_r50-0", "report"]
    assert all((weights(project, "4xconv")[name] == value).all() for name, value in before.items())


def test_an_evaluation_setting_that_changes_trains_nothing(project: MiniProject) -> None:
    project.edit("configs/experiments/demo/coco_pointrend_r50.yaml", "224, num_points: 784", "224, num_points: 196")
    assert project.repro() == ["configure", "evaluate@coco_pointrend_r50-0", "report"]


def test_a_comment_in_the_configuration_reruns_nothing_but_its_reading(project: MiniProject) -> None:
    with (project.root / "configs/schedules/demo.yaml").open("a") as stream:
        stream.write("# a remark\n")
    assert project.repro() == ["configure"]


def test_a_configuration_error_is_one_message(project: MiniProject) -> None:
    project.edit("configs/schedules/demo.yaml", "batch_size: 2", "batch_sise: 2")
    result = project.run("dvc", "repro")
    assert result.returncode != 0
    assert "demo.yaml" in result.stdout
    assert "batch_sise: unknown key" in result.stdout
    assert "Traceback" not in result.stdout
    project.edit("configs/schedules/demo.yaml", "batch_sise: 2", "batch_size: 2")


def test_a_training_that_is_stopped_and_killed_goes_on_and_ends_with_the_same_weights(project: MiniProject) -> None:
    updates = 40
    schedule = (project.root / "configs/schedules/demo.yaml").read_text()
    longer = schedule.replace(
        schedule[schedule.index("  - {updates:") :], f"  - {{updates: {updates}, learning_rate: 0.01}}\n"
    )
    (project.root / "configs/schedules/demo.yaml").write_text(longer + "checkpoint_every: 2\n")
    only = ("dvc", "repro", "train@coco_4xconv_r50-0")
    folder = project.root / ".pointrend/runs"

    def checkpoints() -> list[int]:
        found = folder.glob("coco_4xconv_r50-0-*/checkpoints/update-*.pt")
        return [int(path.stem.split("-")[1]) for path in found]

    # Ctrl-C is for the stage: the job goes on until it is stopped, and says where it was.
    process = project.start(*only)
    wait_for(checkpoints)
    second = project.run("dvc", "repro", timeout=60)
    assert second.returncode != 0, "two at once"
    assert "busy" in second.stdout or "lock" in second.stdout
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "The jobs go on" in output
    assert "Traceback" not in output
    assert "RUNNING" in project.run("pointrend", "jobs", "list").stdout
    assert project.run("pointrend", "jobs", "stop", "coco_4xconv_r50-0").returncode == 0
    followed = project.run("pointrend", "jobs", "follow", "coco_4xconv_r50-0")
    assert followed.returncode == 1
    assert "the checkpoint is safe" in followed.stdout
    stopped_at = max(checkpoints())
    assert 0 < stopped_at < updates

    # Everything is killed: first what waits, then the training itself.
    process = project.start(*only)
    wait_for(lambda: max(checkpoints()) > stopped_at)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=120)
    (driver,) = [
        p for p in psutil.process_iter(["cmdline"]) if "--here" in p.info["cmdline"] and str(project.root) == p.cwd()
    ]
    driver.kill()
    driver.wait(60)
    stopped_at = max(checkpoints())
    assert 0 < stopped_at < updates

    assert project.run(*only).returncode == 0
    summary = json.loads((project.root / "outputs/demo/train/coco_4xconv_r50-0/train.json").read_text())
    assert summary["resumed_from"] == stopped_at
    assert not list(folder.glob("coco_4xconv_r50-0-*")), "nothing is left behind"
    key = summary["key"]
    same_key = [run for run in runs(project, "training") if run.data.tags[KEY_TAG] == key]
    assert [run.info.status for run in same_key] == ["FINISHED"], "one MLflow run, resumed"
    steps = [entry.step for entry in client(project).get_metric_history(same_key[0].info.run_id, "loss")]
    assert len(steps) == len(set(steps))
    resumed = weights(project, "4xconv")

    assert project.run("dvc", "repro", "--single-item", "--force", only[2]).returncode == 0
    assert (
        json.loads((project.root / "outputs/demo/train/coco_4xconv_r50-0/train.json").read_text())["resumed_from"] == 0
    )
    assert all((weights(project, "4xconv")[name] == value).all() for name, value in resumed.items())
    # For the tests below.
    shutil.copytree(project.root / "outputs/demo/train/coco_4xconv_r50-0", project.root / "undisturbed")


@pytest.fixture(scope="module")
def small_disk(project: MiniProject) -> Iterator[Callable[[int], None]]:
    """What gives the checkpoints a file system of their own, of so many bytes, or another size to the one they have."""
    folder = project.root / ".pointrend/runs"

    def resize(size: int) -> None:
        remount = ["-o", "remount"] if folder.is_mount() else []
        command = ["mount", "-t", "tmpfs", *remount, "-o", f"size={size}", "tmpfs", str(folder)]
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
        if mounted.returncode != 0:
            pytest.skip(f"a small tmpfs needs the right to mount one: {mounted.stderr.strip()}")

    yield resize
    if folder.is_mount():
        subprocess.run(["umount", str(folder)], check=True)


AGAIN = ("dvc", "repro", "--single-item", "--force", "train@coco_4xconv_r50-0")


def test_a_full_disk_stops_a_training_and_leaves_its_checkpoints(
    project: MiniProject, small_disk: Callable[[int], None]
) -> None:
    size = (project.root / "outputs/demo/train/coco_4xconv_r50-0/model.safetensors").stat().st_size
    # A checkpoint is twice that, for its momentum: there is room for two and for half of a third.
    small_disk(5 * size)
    result = project.run(*AGAIN)
    assert result.returncode != 0
    assert "update-00000006.pt: the checkpoint could not be written; free some space" in result.stdout
    assert "No space left on device" in result.stdout
    assert "Traceback" not in result.stdout
    left = (project.root / ".pointrend/runs").glob("*/checkpoints/*")
    assert sorted(path.name for path in left) == ["update-00000002.pt", "update-00000004.pt"]
    assert not list((project.root / ".pointrend/runs").glob("*/checkpoints/.*"))
    small_disk(50 * size)


def test_a_picture_that_vanishes_stops_a_training_that_then_goes_on(project: MiniProject) -> None:
    folder = project.root / ".pointrend/runs"
    process = project.start(*AGAIN)
    # Beyond what the full disk has left.
    wait_for(lambda: any(int(path.stem[7:]) > 4 for path in folder.glob("*/checkpoints/update-*.pt")))
    victim = max((project.root / "data/shapes/train").iterdir())
    content = victim.read_bytes()
    victim.unlink()
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert f"{victim}: no such file. Put it right and run `dvc repro` again" in output
    assert "Traceback" not in output

    victim.write_bytes(content)
    result = project.run(*AGAIN)
    assert result.returncode == 0, result.stdout
    summary = json.loads((project.root / "outputs/demo/train/coco_4xconv_r50-0/train.json").read_text())
    assert summary["resumed_from"] > 4
    undisturbed = load_file(project.root / "undisturbed/model.safetensors")
    assert all((weights(project, "4xconv")[name] == value).all() for name, value in undisturbed.items())


def test_mlflow_that_goes_in_mid_run_and_is_not_back_at_the_end(project: MiniProject, tmp_path: Path) -> None:
    server = MlflowServer(tmp_path)
    server.start()
    with (project.root / "configs/clusters/laptop.yaml").open("a") as stream:
        stream.write("tracking_patience: 1\n")
    # Longer than ever before: DVC does not run what it has the outputs of.
    (project.root / "configs/schedules/demo.yaml").write_text(
        "batch_size: 2\nwarmup: {updates: 1, learning_rate: 0.001}\nphases:\n"
        "  - {updates: 50, learning_rate: 0.01}\ncheckpoint_every: 2\n"
    )
    repro = ("env", f"MLFLOW_TRACKING_URI={server.uri}", "dvc", "repro", "train@coco_4xconv_r50-0")
    folder = project.root / ".pointrend/runs"
    try:
        process = project.start(*repro)
        wait_for(lambda: any(folder.glob("coco_4xconv_r50-0-*/checkpoints/update-*.pt")))
        server.kill()
        output, _ = process.communicate(timeout=120)
        assert process.returncode != 0
        assert "the training is complete and nothing is lost" in output
        assert "Traceback" not in output
        (summary,) = folder.glob("coco_4xconv_r50-0-*/summary.json")
        trained = json.loads(summary.read_text())

        server.start()
        result = project.run(*repro)
        assert result.returncode == 0, result.stdout
        published = json.loads((project.root / "outputs/demo/train/coco_4xconv_r50-0/train.json").read_text())
        assert published == published | trained, "it was not trained again"
        assert not list(folder.glob("coco_4xconv_r50-0-*"))
        mlflow = MlflowClient(server.uri)
        run = mlflow.get_run(published["mlflow_run_id"])
        assert run.info.status == "FINISHED"
        for name in ("loss", "loss_mask", "learning_rate"):
            steps = [entry.step for entry in mlflow.get_metric_history(run.info.run_id, name)]
            assert steps == [10, 20, 30, 40, 50]
    finally:
        server.kill()


def test_a_file_that_vanished_is_named(project: MiniProject, tmp_path: Path) -> None:
    victim = next((project.root / "data/shapes/train").iterdir())
    content = victim.read_bytes()
    victim.unlink()
    result = project.run("python", "-m", "stages.prepare", "--dataset", "shapes")
    assert result.returncode == 1
    assert victim.name in result.stdout
    assert "Traceback" not in result.stdout
    victim.write_bytes(content)
