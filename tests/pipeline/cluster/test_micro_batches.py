"""How many images of the paper's batches go through a network at a time, on the clusters that come with the project."""

from pathlib import Path

import pytest

from pipeline.cluster.needs import workers_for_batch
from pipeline.config.project import Project
from pipeline.data.samplers import Share


def images_per_pass(project: Project, cluster: str, batch: int) -> int:
    found = project.cluster(cluster)
    workers = max(workers_for_batch(found, batch), 1)
    return batch // Share.of_batch(batch, found.images_per_worker, world_size=workers).micro_batches


@pytest.mark.parametrize("cluster", ["one_gpu", "eight_gpus", "nodes_of_8_gpus", "spot_gpus"])
def test_no_gpu_takes_a_whole_batch_of_the_paper_at_once(cluster: str, repository: Path) -> None:
    """Two images of a detector, whose memory 16 would exceed on most GPUs; four crops of SemanticFPN's 32."""
    project = Project(repository)
    for name in project.experiment_names("paper"):
        experiment = project.experiment("paper", name)
        limit = 2 if project.model(experiment.model).task == "instance" else 4
        batch = project.schedule(experiment.schedule).batch_size
        assert images_per_pass(project, cluster, batch) <= limit, name


def test_one_gpu_computes_coco_s_micro_batches_of_eight(repository: Path) -> None:
    project = Project(repository)
    assert images_per_pass(project, "one_gpu", 16) == images_per_pass(project, "eight_gpus", 16) == 2
