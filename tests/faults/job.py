"""Trains a run under Ray Train on made-up labels: what the tests beside it start, kill and start again.

Usage: job.py FOLDER CLUSTER UPDATES CHECKPOINT_EVERY. CLUSTER is a cluster configuration as JSON; what FOLDER already
holds is gone on from.
"""

import sys
from pathlib import Path

from made_up_labels import OWN, prepared_labels
from pipeline.cluster.run import run_training

from pipeline.config.clusters import ClusterConfig
from pipeline.config.experiments import RunConfig
from pipeline.config.models import SamplingConfig
from pipeline.config.project import Project
from pipeline.config.schedules import Poly, ScheduleConfig, Warmup
from pipeline.data.storage import Storage
from pipeline.stage import run_stage
from pipeline.tracking.client import Tracker
from pipeline.training.training import Training

REPOSITORY = Path(__file__).parents[2]


def config(updates: int, checkpoint_every: int) -> RunConfig:
    """DeepLabV3 with PointRend: dropout and sampled points draw random numbers in every pass."""
    network = Project(REPOSITORY).model("pointrend_deeplabv3_tiny_camvid")
    return RunConfig(
        run="faults",
        experiment="faults",
        dataset="labels",
        seed=5,
        model=network.model_copy(update={"crop_size": [64, 64], "norm": "group"}),
        sampling=SamplingConfig(strategy="biased", num_points=64, oversample_ratio=3.0, importance_sample_ratio=0.75),
        schedule=ScheduleConfig(
            batch_size=4,
            warmup=Warmup(updates=2, learning_rate=0.001),
            poly=Poly(updates=updates, learning_rate=0.01, power=0.9),
            checkpoint_every=checkpoint_every,
        ),
    )


def main() -> None:
    folder, cluster = Path(sys.argv[1]), ClusterConfig.model_validate_json(sys.argv[2])
    if not (folder / "prepared").is_dir():
        prepared_labels(folder, OWN, images=6)
    training = Training(
        config(int(sys.argv[3]), int(sys.argv[4])),
        folder / "prepared",
        Storage(str(folder / "raw")),
        "test",
        folder / "runs",
    )
    tracker = Tracker(f"sqlite:///{folder / 'mlflow.db'}", "faults", folder / "artifacts")
    run_training(training, cluster, tracker, "test")
    training.collect(folder / "output")


if __name__ == "__main__":
    run_stage(main)
