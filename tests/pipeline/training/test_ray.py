"""A run under Ray Train with two real workers, started and stopped by the pipeline."""

import json
import os
import re
from pathlib import Path

from mini_project import MiniProject


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
    assert ray_processes(str(project.root)) == []


def test_a_diverged_training_is_one_message_also_from_a_worker(project: MiniProject) -> None:
    project.edit("configs/schedules/demo.yaml", "learning_rate: 0.001", "learning_rate: 1.0e+30")
    project.edit("configs/clusters/two_cpu_workers.yaml", "max_failures: 1", "max_failures: 0")
    result = project.run("dvc", "repro", "train@coco_pointrend_r50-0")
    assert result.returncode != 0
    message = result.stdout[result.stdout.index("error: ") :]
    assert re.search(r"update 2: not finite: .*images of this worker: \d+", message)
    assert not (project.root / "outputs/demo/train/coco_pointrend_r50-0").exists()
