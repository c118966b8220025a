"""What befalls a project's training from outside: a full disk, a file that goes, MLflow that goes.

Real runs of `dvc repro` in a miniature project. The tests of this file build on each other, in order.
"""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mini_project import MiniProject, wait_for
from mlflow import MlflowClient
from mlflow_server import MlflowServer
from safetensors.torch import load_file
from torch import Tensor

pytestmark = pytest.mark.faults

TRAIN = ("dvc", "repro", "train@coco_4xconv_r50-0")
AGAIN = ("dvc", "repro", "--single-item", "--force", "train@coco_4xconv_r50-0")


def schedule(project: MiniProject, updates: int) -> None:
    (project.root / "configs/schedules/demo.yaml").write_text(
        "batch_size: 2\nwarmup: {updates: 1, learning_rate: 0.001}\nphases:\n"
        f"  - {{updates: {updates}, learning_rate: 0.01}}\ncheckpoint_every: 2\n"
    )


def weights(project: MiniProject) -> dict[str, Tensor]:
    return load_file(project.root / "outputs/demo/train/coco_4xconv_r50-0/model.safetensors")


@pytest.fixture(scope="module")
def undisturbed(project: MiniProject) -> dict[str, Tensor]:
    schedule(project, 100)
    result = project.run(*TRAIN)
    assert result.returncode == 0, result.stdout
    return weights(project)


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


def test_a_full_disk_stops_a_training_and_leaves_its_checkpoints(
    project: MiniProject, undisturbed: dict[str, Tensor], small_disk: Callable[[int], None]
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


def test_a_picture_that_vanishes_stops_a_training_that_then_goes_on(
    project: MiniProject, undisturbed: dict[str, Tensor]
) -> None:
    folder = project.root / ".pointrend/runs"
    process = project.start(*AGAIN)
    # Beyond what the full disk has left.
    wait_for(lambda: any(int(path.stem[7:]) > 4 for path in folder.glob("*/checkpoints/update-*.pt")), "a checkpoint")
    victim = max((project.root / "outputs/demo/drawn/shapes/train").iterdir())
    content = victim.read_bytes()
    victim.unlink()
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert f"{victim}: no such file. Repair the file and run `dvc repro` again" in output
    assert "Traceback" not in output

    victim.write_bytes(content)
    result = project.run(*AGAIN)
    assert result.returncode == 0, result.stdout
    summary = json.loads((project.root / "outputs/demo/train/coco_4xconv_r50-0/train.json").read_text())
    assert summary["resumed_from"] > 4
    assert all((weights(project)[name] == value).all() for name, value in undisturbed.items())


def test_mlflow_that_goes_in_mid_run_and_is_not_back_at_the_end(project: MiniProject, tmp_path: Path) -> None:
    server = MlflowServer(tmp_path)
    server.start()
    with (project.root / "configs/clusters/laptop.yaml").open("a") as stream:
        stream.write("tracking_patience: 1\n")
    # Another length than ever before: DVC does not run what it has the outputs of.
    schedule(project, 50)
    repro = ("env", f"MLFLOW_TRACKING_URI={server.uri}", *TRAIN)
    folder = project.root / ".pointrend/runs"
    try:
        process = project.start(*repro)
        wait_for(lambda: any(folder.glob("coco_4xconv_r50-0-*/checkpoints/update-*.pt")), "a checkpoint")
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
