"""What the runs of a scale came to, read from MLflow by the run ids in their metrics files."""

import json
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import Params
from pipeline.tracking import Tracker


@dataclass(frozen=True)
class EvaluationResult:
    """One evaluation setting of one run: its metrics as MLflow has them."""

    mlflow_run_id: str
    metrics: dict[str, float]


@dataclass(frozen=True)
class RunResult:
    """One training run and its evaluations."""

    run: str
    experiment: str
    dataset: str
    seed: int
    mlflow_run_id: str
    parameters: dict[str, str]
    tags: dict[str, str]
    seconds: float
    losses: list[tuple[int, float]]  # (update, total loss)
    evaluations: dict[str, EvaluationResult]


def read_results(params: Params, metrics: Path, trained: Path, tracker: Tracker) -> list[RunResult]:
    """The results of every run of ``params.yaml``; others, of earlier selections, are not looked at.

    Args:
        params: what was selected.
        metrics: the folder of the runs' metrics files.
        trained: the folder of the runs' training outputs.
        tracker: where they are logged.

    Raises:
        TrackingError: if MLflow does not have a run.
    """
    results = []
    for name, selected in params.runs.items():
        file = json.loads((metrics / f"{name}.json").read_text())
        summary = json.loads((trained / name / "train.json").read_text())
        training = tracker.get(file["mlflow_run_id"])
        evaluations = {
            setting: EvaluationResult(entry["mlflow_run_id"], dict(tracker.get(entry["mlflow_run_id"]).data.metrics))
            for setting, entry in file["evaluations"].items()
        }
        results.append(
            RunResult(
                run=name,
                experiment=selected.experiment,
                dataset=selected.dataset,
                seed=selected.seed,
                mlflow_run_id=file["mlflow_run_id"],
                parameters=dict(training.data.params),
                tags=dict(training.data.tags),
                seconds=summary["seconds"],
                losses=tracker.history(file["mlflow_run_id"], "loss"),
                evaluations=evaluations,
            )
        )
    return results
