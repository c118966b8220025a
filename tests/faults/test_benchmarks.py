"""Benchmarks that start Ray or several processes of torch run, small. No other Ray may run on the machine."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mini_project import MiniProject

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.faults


def benchmark(name: str, *options: str) -> dict[str, Any]:
    command = [sys.executable, f"benchmarks/{name}.py", *options, "--json"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.parametrize("more", [(), ("--without-fork-server",)])
def test_submission(more: tuple[str, ...]) -> None:
    found = benchmark("submission", "--runs", "2", "--updates", "2", "--cpus", str(os.cpu_count()), *more)
    assert found["seconds"].keys() == {"one by one", "together"}
    assert all(len(runs) == 2 for runs in found["timeline"].values())
    assert len(found["gaps"]) == 1
    assert found["gaps"][0] > 0  # one run at a time


def test_two_workers(base_project: MiniProject) -> None:
    data = base_project.root / "outputs/demo"
    images = ("--prepared", str(data / "data/shapes"), "--images", str(data / "drawn/shapes"))
    found = benchmark("two_workers", *images, "--updates", "24", "--seeds", "1")
    assert found["rows"]
    assert all(row["mean_1"] > 0 and row["mean_2"] > 0 for row in found["rows"])


def test_cluster_simulation() -> None:
    found = benchmark("cluster_simulation", "box", "--gpus", "4", "--runs", "2")
    assert found["runs"] == 2
    assert found["moments at which a GPU had two runs"] == 0
