"""Ray Train with two real workers."""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray.cloudpickle
import torch
from made_up_images import prepared_images, small_run
from mini_project import MiniProject

from pipeline.cluster.connection import connected
from pipeline.cluster.ray_train import fit, for_batch
from pipeline.cluster.worker import RunWork, run_worker
from pipeline.config.clusters import ClusterConfig
from pipeline.config.evaluations import EvaluationConfig, RenderingConfig
from pipeline.data.samplers import BatchShareError
from pipeline.errors import LostWorkerError
from pipeline.evaluation.run import gather, predict
from pipeline.evaluation.trained_run import TrainedRun
from pipeline.training.loop import DivergedTrainingError
from pipeline.training.model import build_run_model
from pointrend.weights import save_weights

TWO = ClusterConfig(workers=2)


@pytest.fixture(scope="module")
def ray_of_this_machine() -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    patch.delenv("RAY_ADDRESS", raising=False)
    # Of a run that has failed, Ray keeps the workers' place until its driver ends, which here is the tests' process.
    with connected(TWO.model_copy(update={"workers": 8})):
        yield
    patch.undo()


def ray_processes(marker: str) -> list[str]:
    """Command lines of processes whose environment or arguments name a folder."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if marker in (folder / "environ").read_text(errors="replace"):
                found.append((folder / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return [command for command in found if str(os.getpid()) not in command]


def test_two_workers_train_a_run_and_leave_nothing_running(project: MiniProject, ray_address: str) -> None:
    project = project.on_ray(ray_address)
    assert project.run("pointrend", "select", "demo", "--cluster", "two_cpu_workers").returncode == 0
    result = project.run("dvc", "repro", "train@coco_pointrend_r50-0")
    assert result.returncode == 0, result.stdout
    summary = json.loads((project.root / "outputs/demo/train/coco_pointrend_r50-0/train.json").read_text())
    assert summary["workers"] == 2
    assert summary["updates"] == 4
    assert (project.root / "outputs/demo/train/coco_pointrend_r50-0/model.safetensors").stat().st_size > 1e6
    end = time.monotonic() + 60
    while (left := ray_processes(str(project.root))) and time.monotonic() < end:
        time.sleep(0.2)
    assert left == []


@pytest.mark.usefixtures("ray_of_this_machine")
def test_a_worker_s_own_message_is_what_the_user_sees(tmp_path: Path) -> None:
    def train_worker(arguments: dict[str, Any]) -> None:
        raise DivergedTrainingError(f"update {arguments['update']}: not finite")

    # Pickled by value, for the workers cannot import this file.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(DivergedTrainingError, match=r"^update 2: not finite$"):
        fit(train_worker, {"update": 2}, TWO, "run", tmp_path)
    # Ray Train would leave one that connects to its Ray, which is gone.
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.usefixtures("ray_of_this_machine")
def test_a_worker_that_dies_once_too_often_is_one_message(tmp_path: Path) -> None:
    def die(arguments: dict[str, Any]) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with pytest.raises(LostWorkerError, match=r"worker (\d )?of 2 died and its restarts are used up \(max_failures: 0"):
        fit(die, {}, TWO, "killed", tmp_path)


@pytest.mark.usefixtures("ray_of_this_machine")
def test_two_workers_evaluate_to_the_bytes_of_one_though_one_is_killed(repository: Path, tmp_path: Path) -> None:
    """They share the images; started again, they predict only the chunks that are not there."""
    prepared, images = prepared_images(tmp_path, 19)  # chunks of 8, 8 and 3
    config, weights = small_run(repository), tmp_path / "model.safetensors"
    torch.manual_seed(3)
    save_weights(build_run_model(config, 2, pretrained=False), weights)
    run = TrainedRun(config, prepared, images, weights)
    settings = EvaluationConfig({"28x28": RenderingConfig(resolution=28, num_points=196)})
    alone, together, chunks = tmp_path / "alone", tmp_path / "together", tmp_path / "chunks"
    for folder in (alone, together, chunks):
        folder.mkdir()
    complete = ["images-0000000", "images-0000008", "images-0000016"]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as a worker of one CPU has
    predict(run, settings, torch.device("cpu"), tmp_path / "chunks of one", alone)
    torch.set_num_threads(threads)

    def killed_once(arguments: dict[str, Any]) -> None:
        run_worker(arguments)
        died = arguments["work"].chunks.parent / "died"
        if ray.train.get_context().get_world_rank() == 0 and not died.exists():
            # The other worker is killed as well, and would leave a chunk that it writes just then unfinished.
            end, folder = time.monotonic() + 60, arguments["work"].chunks
            while sorted(part.name for part in folder.iterdir()) != complete:
                assert time.monotonic() < end
                time.sleep(0.05)
            died.touch()
            (folder / complete[-1]).rename(died.parent / "lost")  # as if it had been killed before its second chunk
            os.kill(os.getpid(), signal.SIGKILL)

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    cluster = TWO.model_copy(update={"max_failures": 1})
    work = RunWork(cluster, evaluated=run, settings=settings, chunks=chunks)
    fit(killed_once, {"work": work}, cluster, "evaluation", tmp_path / "ray")
    assert (tmp_path / "died").exists()
    assert sorted(part.name for part in chunks.iterdir()) == complete
    made = {part.name: part.stat().st_mtime_ns for part in chunks.iterdir()}
    assert made["images-0000000"] < (tmp_path / "died").stat().st_mtime_ns < made["images-0000016"]
    gather(run, settings, chunks, together)
    name = "predictions_28x28.json"
    assert (together / name).read_bytes() == (alone / name).read_bytes()


def test_a_number_of_workers_that_may_vary_is_no_larger_than_a_batch_has_parts() -> None:
    cluster = ClusterConfig(workers=8, min_workers=2, images_per_worker=2)
    assert for_batch(cluster, 32).workers == 8
    assert for_batch(cluster, 8).workers == 4
    assert for_batch(ClusterConfig(workers=8, images_per_worker=2), 8).workers == 8


@pytest.mark.parametrize(
    ("cluster", "batch_size", "message"),
    [
        (ClusterConfig(workers=3), 16, "batch_size is 16, which 3 workers cannot share equally"),
        (
            ClusterConfig(workers=0, images_per_worker=3),
            16,
            "not a multiple of images_per_worker, which is 3",
        ),
        (ClusterConfig(workers=8, min_workers=3, images_per_worker=8), 16, "which 3 workers cannot share"),
    ],
)
def test_a_batch_that_cannot_be_shared_out_is_refused_before_training(
    cluster: ClusterConfig, batch_size: int, message: str
) -> None:
    with pytest.raises(BatchShareError, match=message):
        for_batch(cluster, batch_size)
