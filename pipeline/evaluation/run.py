"""The `evaluate` step: predictions of every setting of a run, then their scores."""

import functools
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.config import ClusterConfig, EvaluationConfig, RunConfig
from pipeline.data.manifest import PreparedDataset
from pipeline.evaluation.instances import InstancePredictor, merge_predictions
from pipeline.evaluation.outputs import labels_folder, prediction_names, predictions_file
from pipeline.evaluation.scoring import score_instances, score_labels
from pipeline.evaluation.semantics import SemanticPredictor, gather_predictions
from pipeline.evaluation.trained_run import TrainedRun
from pipeline.evaluation.workers import predict_in_chunks
from pipeline.files import atomic_folder, write_json
from pipeline.storage import Storage
from pipeline.tracking import Tracker


def predict(run: TrainedRun, settings: EvaluationConfig, cluster: ClusterConfig, output: Path) -> None:
    """Writes the predictions of every setting of a run into an existing folder: the same however many workers.

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


def score(dataset: PreparedDataset, predictions: Path, setting: str) -> tuple[dict[str, float], dict[str, Any]]:
    """The metrics of a setting, and what else of its scores is kept."""
    if dataset.task == "semantic":
        return score_labels(dataset.truth, labels_folder(predictions, setting), dataset.labels)
    return score_instances(dataset, predictions_file(predictions, setting)), {}


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
        metrics: the JSON file of metrics and MLflow run ids to write.
        tracker: where the evaluations are logged, nested in the training's run.
    """
    training = json.loads((trained / "train.json").read_text())
    run = TrainedRun(config, prepared, images, trained / "model.safetensors")
    dataset = run.dataset()
    evaluations: dict[str, dict[str, Any]] = {}
    with atomic_folder(output) as folder:
        if settings.root:
            predict(run, settings, cluster, folder)
        scores = {name: score(dataset, folder, name) for name in settings.root}
        # Nothing is logged before all is well.
        for name, setting in settings.root.items():
            values, details = scores[name]
            run_id = tracker.add_evaluation(
                training["mlflow_run_id"],
                f"{config.run} {name}",
                setting,
                values,
                {"kind": "evaluation", "experiment": config.experiment, "evaluation": name},
            )
            # On the training's run too: comparing trainings then shows losses and metrics together.
            logged = [(f"{key}_{name}", value, 0) for key, value in values.items()]
            tracker.log_metrics(training["mlflow_run_id"], logged)
            rounded = {key: round(value, 4) for key, value in values.items()}
            evaluations[name] = {"mlflow_run_id": run_id, **rounded, **details}
    write_json(metrics, {"run": config.run, "mlflow_run_id": training["mlflow_run_id"], "evaluations": evaluations})
