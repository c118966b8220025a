"""Clusters."""

from pathlib import Path

import pytest

from pipeline.config.clusters import ClusterConfig
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
