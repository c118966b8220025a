"""A subdivision sweep: renders every setting from one detector pass over a run's val images. Trains nothing."""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.cluster.ray_train import fit
from pipeline.cluster.worker import ray_workers
from pipeline.config.clusters import ClusterConfig
from pipeline.config.evaluations import EvaluationConfig, RenderingConfig
from pipeline.config.parameters import run_parameters, setting_parameters
from pipeline.config.sweep_tasks import SubdivisionTask, rendering
from pipeline.config.sweeps import Point
from pipeline.evaluation.run import gather, predict_share, score
from pipeline.evaluation.trained_run import TrainedRun
from pipeline.files import write_json
from pipeline.sweep.costs import multiply_adds, rendering_seconds
from pipeline.sweep.records import Rung, TrialRecord, TrialRecords
from pipeline.sweep.trial import check_metric
from pipeline.tracking.client import Tracker
from pipeline.tracking.runs import RunRecord, log_run
from pipeline.training.metrics_file import now


def setting_name(point: Point) -> str:
    """The name of a setting: the masks' resolution and the number of points per subdivision step."""
    setting = rendering(point)
    return f"{setting.resolution}x{setting.resolution}-{setting.num_points}"


@dataclass(frozen=True)
class SettingsWork:
    """The work of a subdivision sweep's workers; every path is absolute, and every worker can reach it.

    Attributes:
        run: the trained run.
        settings: the settings to render, by name.
        timed_images: the number of images to time.
        folder: a folder for the predictions and times.
        use_gpu: whether each worker has a GPU.
    """

    run: TrainedRun
    settings: Mapping[str, RenderingConfig]
    timed_images: int
    folder: Path
    use_gpu: bool

    @property
    def chunks(self) -> Path:
        return self.folder / "chunks"

    @property
    def seconds(self) -> Path:
        return self.folder / "seconds.json"


def predict_and_time(arguments: dict[str, Any]) -> None:
    """Predicts one worker's share of the images. Then worker 0 times the settings while the others are idle."""
    work: SettingsWork = arguments["work"]
    workers = ray_workers(work.use_gpu)
    settings = EvaluationConfig(dict(work.settings))
    predict_share(work.run, settings, work.chunks, workers.device, workers.rank, workers.world_size)
    workers.broadcast(0)  # waits for all workers
    if workers.rank == 0:
        write_json(work.seconds, rendering_seconds(work.run, work.settings, work.timed_images, workers.device))
    workers.broadcast(0)


def evaluate_settings(
    task: SubdivisionTask,
    run: TrainedRun,
    cluster: ClusterConfig,
    records: TrialRecords,
    tracker: Tracker,
    parent: str,
    tags: dict[str, str],
) -> None:
    """Predicts, scores and times the settings that have no record yet, and logs each in an MLflow run.

    Args:
        task: the sweep.
        run: the trained run to render.
        cluster: the number of workers and the resources of each.
        records: the records of the settings.
        tracker: the MLflow experiment.
        parent: the sweep's MLflow run, in which those of the settings are nested.
        tags: the tags of every setting's MLflow run.

    Raises:
        SweepError: if the dataset does not have the sweep's metric.
    """
    begun = [(point, records.read(point)) for point in task.points]
    missing = {setting_name(point): point for point, record in begun if record is None or not record.rungs}
    if missing:
        dataset = run.dataset()
        settings = {name: rendering(point) for name, point in missing.items()}
        records.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=records.folder, prefix=".predictions-") as name:
            folder = Path(name)
            work = SettingsWork(run, settings, task.timed_images, folder, cluster.gpus_per_worker > 0)
            fit(predict_and_time, {"work": work}, cluster, run.config.run, folder / "ray")
            gather(run, EvaluationConfig(settings), work.chunks, folder)
            seconds = json.loads(work.seconds.read_text())
            for name, point in missing.items():
                metrics = score(dataset, folder, name, settings[name]).metrics
                check_metric(task, metrics)
                cost = multiply_adds(task.run, dataset.num_classes, settings[name])
                record = TrialRecord(point, "", "finished", [Rung(0, metrics)], seconds[name], cost)
                records.write(record)
    for record in records.all():
        if not record.mlflow_run_id:
            setting, steps = rendering(record.point), str(record.point["steps"])
            trial = RunRecord(
                key=f"{parent}-{record.name}",
                name=f"{task.name} {setting_name(record.point)}",
                parameters={**run_parameters(task.run), **setting_parameters(setting), "steps": steps},
                tags=tags,
                started=now(),
                parent=parent,
            )
            records.write(replace(record, mlflow_run_id=log_run(tracker, trial)))
