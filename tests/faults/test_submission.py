"""A cluster that several people share: one run is one job, whoever asks; and its head may be another one tomorrow."""

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from faults.processes import RayNodes, kill_all, started_for
from mini_project import MiniProject

TRAIN = ("dvc", "repro", "train@coco_4xconv_r50-0")
WEIGHTS = "outputs/demo/train/coco_4xconv_r50-0/model.safetensors"

pytestmark = pytest.mark.faults


@pytest.fixture
def ray(tmp_path: Path) -> Iterator[RayNodes]:
    try:
        yield RayNodes(tmp_path)
    finally:
        kill_all(started_for(tmp_path))


def checkout(project: MiniProject, root: Path, nodes: RayNodes, runs: Path) -> MiniProject:
    """Another person's copy of the project, which uses the cluster and a folder that all its nodes share."""
    shutil.copytree(project.root, root)
    (root / "configs/clusters/laptop.yaml").write_text(f"workers: 0\nmax_failures: 2\nstorage: {runs}\n")
    return replace(project, root=root, variables=nodes.driver_environment())


def jobs(project: MiniProject) -> list[str]:
    """The jobs of the cluster, as its user sees them."""
    listed = project.run("pointrend", "jobs", "list")
    assert listed.returncode == 0, listed.stdout
    return re.findall(r"coco_\S+", listed.stdout)


def test_one_job_for_two_people_and_another_head_for_the_next(
    project: MiniProject, tmp_path: Path, ray: RayNodes
) -> None:
    runs = tmp_path / "runs"
    ada, ben = (checkout(project, tmp_path / name, ray, runs) for name in ("ada", "ben"))
    for each in (ada, ben):
        assert each.run("dvc", "repro", "prepare@shapes").returncode == 0

    # Both ask at once: one waits for what the other has submitted.
    processes = [each.start(*TRAIN) for each in (ada, ben)]
    outputs = [process.communicate(timeout=240)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert len(jobs(ada)) == 1
    first = (ada.root / WEIGHTS).read_bytes()
    assert (ben.root / WEIGHTS).read_bytes() == first

    # A third finds it trained.
    eve = checkout(project, tmp_path / "eve", ray, runs)
    assert "trained already" in eve.run(*TRAIN).stdout
    assert (eve.root / WEIGHTS).read_bytes() == first
    assert len(jobs(ada)) == 1

    # The head is restarted and knows nothing any more: what was trained is, and what is new runs.
    ray.kill_head()
    ray.start_head()
    assert jobs(ada) == []
    assert "trained already" in ada.run(*TRAIN[:2], "--force", "--single-item", TRAIN[2]).stdout
    ada.edit("configs/experiments/demo/coco_4xconv_r50.yaml", "seeds: [0]", "seeds: [1]")
    ada.edit("selection.yaml", "coco_4xconv_r50-0:", "coco_4xconv_r50-1:")
    ada.edit("selection.yaml", "experiment: coco_4xconv_r50, seed: 0", "experiment: coco_4xconv_r50, seed: 1")
    result = ada.run("dvc", "repro", "train@coco_4xconv_r50-1")
    assert result.returncode == 0, result.stdout
    assert len(jobs(ada)) == 1
    assert (ada.root / WEIGHTS.replace("-0", "-1")).read_bytes() != first
