"""Clusters."""

from pathlib import Path

import pytest

from pipeline.config.batch_norm import batch_norm_problem, check_batch_norm
from pipeline.config.clusters import ClusterConfig
from pipeline.config.project import Project
from pipeline.config.reader import ConfigError, load


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("workers: 2\nmin_workers: 3\nimages_per_worker: 1\n", "min_workers is 3, more than the 2 workers"),
        ("workers: 2\nmin_workers: 1\n", "min_workers needs images_per_worker"),
        ("workers: 2\nruns_at_once: 0\n", "runs_at_once: Input should be greater than 0"),
        ("workers: 2\ndriver_memory_gb: 0\n", "driver_memory_gb: Input should be greater than 0"),
        ("workers: 2\nmin_workers: 0\nimages_per_worker: 1\n", "min_workers: Input should be greater than 0"),
    ],
)
def test_faults_of_a_cluster_file(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load(ClusterConfig, tmp_path / "mine.yaml")


class TestBatchNormThatLearns:
    @pytest.mark.parametrize(
        ("cluster", "problem"),
        [
            ({"workers": 0}, None),
            ({"workers": 0, "images_per_worker": 16}, None),
            ({"workers": 0, "images_per_worker": 8}, "one worker takes 8 of the 16 images"),
            ({"workers": 2}, "without GPUs"),
            ({"workers": 1}, None),
            ({"workers": 8, "gpus_per_worker": 1}, None),
            ({"workers": 8, "gpus_per_worker": 1, "images_per_worker": 2}, None),
            ({"workers": 8, "gpus_per_worker": 1, "images_per_worker": 1}, "8 workers take 8 of the 16 images"),
            (
                {"workers": 8, "min_workers": 4, "gpus_per_worker": 1, "images_per_worker": 2},
                "4 workers take 8 of the 16 images",
            ),
            ({"workers": 8, "min_workers": 4, "gpus_per_worker": 1, "images_per_worker": 4}, None),
        ],
    )
    def test_needs_whole_batches(self, cluster: dict, problem: str | None) -> None:
        found = batch_norm_problem(ClusterConfig(**cluster), 16)
        assert (found is None) == (problem is None)
        assert (problem or "") in (found or "")

    def test_the_error_names_experiment_and_clusters(self, repository: Path) -> None:
        project = Project(repository)
        selection = project.select("paper", "data")
        with pytest.raises(ConfigError) as raised:
            check_batch_norm(project, "paper", selection, "spot_gpus")
        message = str(raised.value)
        assert "clusters/spot_gpus.yaml" in message
        assert "experiment cityscapes_deeplabv3_" in message
        assert "can train it: eight_gpus, nodes_of_8_gpus. " in message  # and no laptop in place of GPUs
        for name in ("eight_gpus", "nodes_of_8_gpus", "laptop"):
            check_batch_norm(project, "paper", selection, name)
        with pytest.raises(ConfigError, match=r"(?s)one_gpu.* one worker takes 2 of the 16 images"):
            check_batch_norm(project, "paper", selection, "one_gpu")
        with pytest.raises(ConfigError, match="without GPUs"):
            check_batch_norm(project, "paper", selection, "two_cpu_workers")

    def test_what_is_not_selected_is_not_refused(self, repository: Path) -> None:
        project = Project(repository)
        selection = project.select("paper", "data")
        runs = {name: run for name, run in selection.runs.items() if "deeplabv3" not in name}
        check_batch_norm(project, "paper", selection.model_copy(update={"runs": runs}), "spot_gpus")

    def test_no_cluster_can(self, project: Project) -> None:
        for path in (project.configs / "clusters").glob("*.yaml"):
            path.write_text("workers: 2\nimages_per_worker: 1\n")
        with pytest.raises(ConfigError, match=r"no file of configs/clusters can; add one"):
            check_batch_norm(project, "paper", project.select("paper", "data"), "laptop")

    def test_a_trial_has_one_worker(self, project: Project) -> None:
        sweep = project.configs / "sweeps" / "paper" / "deeplab.yaml"
        sweep.write_text(
            "kind: training\ntitle: k\nexperiment: cityscapes_deeplabv3_pointrend_r103\n"
            "space: {oversample_ratio: [1.0, 3.0]}\nsearch: {method: grid}\nevaluation: os16\nmetric: mIoU\n"
        )
        cluster = project.configs / "clusters" / "pairs.yaml"
        cluster.write_text("workers: 8\ngpus_per_worker: 1\nimages_per_worker: 2\n")
        selection = project.select("paper", "data")
        with pytest.raises(
            ConfigError,
            match=r"sweep deeplab has norm 'batch'.* the one worker of a trial takes the shares of 8 workers",
        ):
            check_batch_norm(project, "paper", selection, "pairs")
        check_batch_norm(project, "paper", selection.model_copy(update={"sweeps": {}}), "pairs")
