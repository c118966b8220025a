"""The confusion matrix of a run on somebody's own data, and its files."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import UserError
from pipeline.evaluation.outputs import labels_folder, predictions_file
from pipeline.evaluation.trained_run import TrainedRun
from pipeline.files import atomic_file, write_json
from pipeline.metrics.confusion import MATCHING_IOU, Confusion, instance_confusion, pixel_confusion

#: The names of the last row and the last column.
BACKGROUND, MISSED = "background", "missed"


def run_confusion(run: TrainedRun, setting: str, predictions: Path, score: float) -> Confusion:
    """The confusion matrix of a run under an evaluation setting, from its predictions.

    Args:
        run: the run.
        setting: the name of the setting.
        predictions: the folder of the run's predictions.
        score: the least one of the instances that count.

    Raises:
        DatasetError, GroundTruthError, PredictionError: if one of the files cannot be read.
    """
    prepared = run.dataset()
    if prepared.task == "semantic":
        return pixel_confusion(prepared.truth, labels_folder(predictions, setting), prepared.labels)
    file = predictions_file(predictions, setting)
    return instance_confusion(prepared.manifest("val"), prepared.categories, file, score)


def csv_file(run: str) -> str:
    """The name of the file with a run's whole matrix."""
    return f"confusion_{run}.csv"


def json_file(run: str) -> str:
    """The name of the file with the cells of a run's matrix that are not 0."""
    return f"confusion_{run}.json"


def write_confusion(confusion: Confusion, run: str, folder: Path) -> None:
    """Writes the whole matrix as CSV, and its cells that are not 0 as JSON, into an existing folder."""
    with atomic_file(folder / csv_file(run)) as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["true class", *confusion.classes, MISSED])
        for name, counts in zip([*confusion.classes, BACKGROUND], confusion.counts.tolist(), strict=True):
            writer.writerow([name, *counts])
    cells = [[*map(int, cell), int(confusion.counts[tuple(cell)])] for cell in np.argwhere(confusion.counts)]
    ignored = [[int(number), int(confusion.ignored[number])] for number in np.flatnonzero(confusion.ignored)]
    about: dict[str, Any] = {
        "unit": confusion.unit,
        "images": confusion.images,
        "classes": confusion.classes,
        # Of the first, the number of classes stands for background; of the second, for what was missed.
        "true_predicted_count": cells,
    }
    if confusion.score is not None:
        about |= {"mask_iou": MATCHING_IOU, "score": confusion.score, "f1": confusion.f1, "ignored": ignored}
    write_json(folder / json_file(run), about)


def read_confusion(path: Path) -> Confusion:
    """Reads the JSON of :func:`write_confusion`.

    Raises:
        UserError: if it is missing or damaged.
    """
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        classes = tuple(about["classes"])
        counts = np.zeros((len(classes) + 1, len(classes) + 1), np.int64)
        for row, column, count in about["true_predicted_count"]:
            counts[row, column] = count
        ignored = np.zeros(len(classes), np.int64)
        for number, count in about.get("ignored", []):
            ignored[number] = count
        return Confusion(about["unit"], classes, counts, about["images"], about.get("score"), ignored)
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(f"{path}: no readable confusion matrix ({error!r}); run `dvc repro -f report`") from error
