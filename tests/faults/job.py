"""Trains a run under Ray Train on made-up labels: what the tests beside it start, kill and start again.

Usage: job.py FOLDER CLUSTER UPDATES CHECKPOINT_EVERY [evaluate]. CLUSTER is a cluster configuration as JSON. It goes on
from what FOLDER already holds. With "evaluate" the run is evaluated as well.
"""

import sys
from pathlib import Path

from made_up_labels import OWN, prepared_labels

from pipeline.cluster.run_job import run_job
from pipeline.config.clusters import ClusterConfig
from pipeline.config.evaluations import EvaluationConfig, SemanticRenderingConfig
from pipeline.config.experiments import RunConfig
from pipeline.config.models import SamplingConfig
from pipeline.config.project import Project
from pipeline.config.schedules import Poly, ScheduleConfig, Warmup
from pipeline.data.storage import Storage
from pipeline.evaluation.evaluation import Evaluation
from pipeline.evaluation.trained_run import TrainedRun
from pipeline.stage import run_stage
from pipeline.tracking.client import Tracker
from pipeline.tracking.products import Products
from pipeline.training.training import Training

REPOSITORY = Path(__file__).parents[2]
SETTINGS = EvaluationConfig(
    {f"os{stride}": SemanticRenderingConfig(output_stride=stride, num_points=256) for stride in (8, 16)}
)


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
    run = config(int(sys.argv[3]), int(sys.argv[4]))
    prepared, images, runs = folder / "prepared", Storage(str(folder / "raw")), folder / "runs"
    training = Training(run, prepared, images, "test", runs)
    evaluation = evaluated = None
    if sys.argv[5:] == ["evaluate"]:
        evaluation = Evaluation("faults", training.key, SETTINGS, prepared, "test", training.storage)
        evaluated = TrainedRun(run, prepared, images, training.weights)
    tracker = Tracker(f"sqlite:///{folder / 'mlflow.db'}", "faults", folder / "artifacts")
    products = Products(Project(REPOSITORY).tracking())
    run_job(run, training, evaluation, evaluated, cluster, tracker, "test", {}, products)
    output = folder / "output"
    training.collect(output)
    if evaluation is not None:
        evaluation.collect(output / "predictions", output / "evaluation.json", output / "metrics.json")


if __name__ == "__main__":
    run_stage(main)
