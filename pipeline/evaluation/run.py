"""The `evaluate` step: predictions of every setting of a run, then their scores."""

import json
from pathlib import Path
from typing import Any

import torch

from pipeline.config import EvaluationConfig, RunConfig
from pipeline.data.dataset import EvaluationImages
from pipeline.data.manifest import read_prepared
from pipeline.evaluation.instances import predictions_file, write_predictions
from pipeline.evaluation.scoring import score_predictions
from pipeline.files import atomic_folder, write_json
from pipeline.tracking import Tracker
from pipeline.training.run import build_run_model
from pointrend import load_weights


def evaluate_run(
    config: RunConfig,
    settings: EvaluationConfig,
    *,
    prepared: Path,
    images: Path,
    annotations: Path,
    trained: Path,
    output: Path,
    metrics: Path,
    tracker: Tracker,
) -> None:
    """Predicts, scores and logs every setting of a run.

    Args:
        config: the run.
        settings: how to evaluate it.
        prepared: the prepared dataset.
        images: the folder that its file names are relative to.
        annotations: the val split's COCO file, to score against.
        trained: the output of the run's training.
        output: the folder of predictions to write.
        metrics: the JSON file of metrics and MLflow run ids to write.
        tracker: where the evaluations are logged, nested in the training's run.
    """
    dataset = read_prepared(prepared)
    model = build_run_model(config, len(dataset.categories), pretrained=False)
    load_weights(model, trained / "model.safetensors")
    training = json.loads((trained / "train.json").read_text())
    if torch.cuda.is_available():
        model.cuda()
    scores: dict[str, dict[str, Any]] = {}
    with atomic_folder(output) as folder:
        write_predictions(
            model,
            EvaluationImages(dataset, images),
            settings.root,
            dataset.categories,
            folder,
            f"evaluate {config.run}",
        )
        for name, setting in settings.root.items():
            ap = score_predictions(annotations, predictions_file(folder, name))
            run_id = tracker.add_evaluation(
                training["mlflow_run_id"],
                f"{config.run} {name}",
                setting,
                ap,
                {"kind": "evaluation", "experiment": config.experiment, "evaluation": name},
            )
            # On the training's run too: comparing trainings then shows losses and AP together.
            tracker.log_metrics(training["mlflow_run_id"], [(f"{key}_{name}", value, 0) for key, value in ap.items()])
            scores[name] = {"mlflow_run_id": run_id, **{key: round(value, 4) for key, value in ap.items()}}
    write_json(metrics, {"run": config.run, "mlflow_run_id": training["mlflow_run_id"], "evaluations": scores})
