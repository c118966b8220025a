"""A run under Ray Train with two real workers, started and stopped by the pipeline."""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import ray.cloudpickle
from mini_project import MiniProject

from pipeline.cluster.ray_train import fit, for_batch
from pipeline.config.clusters import ClusterConfig
from pipeline.data.samplers import BatchShareError
from pipeline.training.loop import DivergedTrainingError


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


def test_two_workers_train_a_run_and_leave_nothing_running(project: MiniProject) -> None:
    assert project.run("pointrend", "select", "demo", "--cluster", "two_cpu_workers").returncode == 0
    result = project.run("dvc", "repro", "train@coco_pointrend_r50-0")
    assert result.returncode == 0, result.stdout
    summary = json.loads((project.root / "outputs/demo/train/coco_pointrend_r50-0/train.json").read_text())
    assert summary["workers"] == 2
    assert summary["updates"] == 4
    assert (project.root / "outputs/demo/train/coco_pointrend_r50-0/model.safetensors").stat().st_size > 1e6
    # Ray on this machine waits some seconds for another job.
    end = time.monotonic() + 60
    while (left := ray_processes(str(project.root))) and time.monotonic() < end:
        time.sleep(0.2)
    assert left == []


def test_a_worker_s_own_message_is_what_the_user_sees(tmp_path: Path) -> None:
    def train_worker(arguments: dict[str, Any]) -> None:
        raise DivergedTrainingError(f"update {arguments['update']}: not finite")

    cluster = ClusterConfig(workers=2)
    # Pickled by value, for the workers cannot import this file.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(DivergedTrainingError, match=r"^update 2: not finite$"):
        fit(train_worker, {"update": 2}, cluster, "run", tmp_path)
    # Ray Train would leave one that connects to its Ray, which is gone.
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_number_of_workers_that_may_vary_is_no_larger_than_a_batch_has_parts() -> None:
    cluster = ClusterConfig(workers=8, min_workers=2, images_per_worker=2)
    assert for_batch(cluster, 32).workers == 8
    assert for_batch(cluster, 8).workers == 4
    assert for_batch(ClusterConfig(workers=8, images_per_worker=2), 8).workers == 8


@pytest.mark.parametrize(
    ("cluster", "batch_size", "message"),
    [
        (ClusterConfig(workers=3), 16, "batch_size is 16, which 3 workers cannot share equally"),
        (ClusterConfig(workers=0, images_per_worker=3), 16, "passes of 3 images cannot make up"),
        (ClusterConfig(workers=8, min_workers=3, images_per_worker=8), 16, "which 3 workers cannot share"),
    ],
)
def test_a_batch_that_cannot_be_shared_out_is_refused_before_training(
    cluster: ClusterConfig, batch_size: int, message: str
) -> None:
    with pytest.raises(BatchShareError, match=message):
        for_batch(cluster, batch_size)
