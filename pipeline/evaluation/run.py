"""The `evaluate` step: predictions of every setting of a run, then their scores."""

import functools
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.cluster.prediction import predict_in_chunks
from pipeline.config.clusters import ClusterConfig
from pipeline.config.evaluations import EvaluationConfig, EvaluationSetting, SemanticRenderingConfig
from pipeline.config.experiments import RunConfig
from pipeline.data.manifest import PreparedDataset
from pipeline.data.storage import Storage
from pipeline.evaluation.instances import InstancePredictor, merge_predictions
from pipeline.evaluation.outputs import labels_folder, prediction_names, predictions_file
from pipeline.evaluation.record import EvaluationRecord
from pipeline.evaluation.scoring import score_instances, score_labels
from pipeline.evaluation.semantics import SemanticPredictor, gather_predictions
from pipeline.evaluation.trained_run import TrainedRun
from pipeline.files import atomic_folder
from pipeline.tracking.client import Tracker, now
from pipeline.tracking.runs import log_evaluation, training_run
from pipeline.training.record import WEIGHTS, TrainingRecord


def predict(run: TrainedRun, settings: EvaluationConfig, cluster: ClusterConfig, output: Path) -> None:
    """Writes the predictions of every setting of a run into an existing folder.

    They are the same however many workers there are. Without workers this process uses all its CPU threads instead of
    ``cpus_per_worker``, and the last digits of sums may differ.

    Of instances a COCO results file for each setting, of semantic labels a folder of PNGs.

    Args:
        run: the run.
        settings: how to evaluate it.
        cluster: where. Every worker must be able to reach the run's files and ``output``.
        output: the folder.

    Raises:
        LostWorkerError: when a worker's restarts are used up.
        OSError: for an image that cannot be read.
    """
    dataset = run.dataset()
    image_ids = dataset.manifest("val")["id"].to_pylist()
    run = replace(run, prepared=run.prepared.resolve(), weights=run.weights.resolve())
    build = functools.partial(SemanticPredictor if dataset.task == "semantic" else InstancePredictor, run, settings)
    with tempfile.TemporaryDirectory(dir=output, prefix=".chunks-") as chunks:
        parts = predict_in_chunks(build, len(image_ids), Path(chunks), cluster, f"evaluate {run.config.run}")
        for name in settings.root:
            if dataset.task == "semantic":
                gather_predictions(parts, name, prediction_names(dataset).values(), labels_folder(output, name))
            else:
                merge_predictions(parts, name, image_ids, predictions_file(output, name))


def score(
    dataset: PreparedDataset, predictions: Path, name: str, setting: EvaluationSetting
) -> tuple[dict[str, float], dict[str, Any]]:
    """The metrics of a setting's predictions, and the details that are kept beside them, such as IoU by class."""
    if isinstance(setting, SemanticRenderingConfig):
        folder = labels_folder(predictions, name)
        return score_labels(dataset.truth, folder, dataset.labels, setting.trimap_widths or ())
    return score_instances(dataset, predictions_file(predictions, name)), {}


def evaluate_run(
    config: RunConfig,
    settings: EvaluationConfig,
    cluster: ClusterConfig,
    *,
    prepared: Path,
    images: Storage,
    trained: Path,
    output: Path,
    metrics: Path,
    tracker: Tracker,
) -> None:
    """Predicts, scores and logs every setting of a run.

    Args:
        config: the run.
        settings: how to evaluate it.
        cluster: where to predict.
        prepared: the prepared dataset.
        images: what its file names are relative to.
        trained: the output of the run's training.
        output: the folder of predictions to write.
        metrics: the JSON file to write, see :class:`EvaluationRecord`.
        tracker: where the evaluations are logged, nested in the training's run.

    Raises:
        UnreadableRecordError: if the training's record cannot be used.
    """
    training = TrainingRecord.read(trained)
    run = TrainedRun(config, prepared, images, trained / WEIGHTS)
    dataset = run.dataset()
    evaluations: dict[str, dict[str, Any]] = {}
    started = now()
    with atomic_folder(output) as folder:
        predict(run, settings, cluster, folder)
        scores = {name: score(dataset, folder, name, setting) for name, setting in settings.root.items()}
        ended = now()
        # Nothing is logged before all is well.
        parent = training_run(training, trained, tracker)
        for name, setting in settings.root.items():
            values, details = scores[name]
            run_id = log_evaluation(config, name, setting, values, (started, ended), parent, tracker)
            evaluations[name] = {"mlflow_run_id": run_id, **values, **details}
    EvaluationRecord(
        run=config.run,
        mlflow_run_id=parent,
        training=training.key,
        settings=settings,
        evaluations=evaluations,
        started=started,
        ended=ended,
    ).write(metrics)
