"""Draws a run's predictions of a few val images and logs them as pictures that MLflow's page compares between runs.

Every run of a dataset has the same images, and the page shows those of one name side by side.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from pipeline.data.dataset import ManifestImages
from pipeline.data.labels import read_ids
from pipeline.data.manifest import PreparedDataset
from pipeline.evaluation.outputs import labels_folder, prediction_names, predictions_file
from pipeline.evaluation.trained_run import TrainedRun
from pipeline.tracking.client import Tracker
from pointrend.metadata import ClassInfo
from pointrend.overlays import draw_overlay
from pointrend.regions import Masks, Segments
from pointrend.runs import USUAL_SCORE

SIDE = 512  # pixels of a picture's longer side, at most
#: Where MLflow keeps pictures with a name and a step.
FOLDER = "images"
PREFIX = "overlays"  # of their names


def log_overlays(tracker: Tracker, run_id: str, run: TrainedRun, predictions: Path, setting: str, count: int) -> None:
    """Logs the predictions of ``count`` val images as pictures, unless the MLflow run has pictures already.

    Args:
        tracker: the MLflow experiment.
        run_id: the MLflow run of the training.
        run: the trained run.
        predictions: the folder of its predictions.
        setting: the evaluation setting whose predictions are drawn.
        count: the number of images; 0 for none.

    Raises:
        TrackingError: if MLflow does not answer.
        OSError: if a picture or prediction cannot be read.
    """
    subject = f"pictures of run {run.config.run}"
    logged = tracker.call(subject, lambda: tracker.client.list_artifacts(run_id, FOLDER))
    names = [Path(each.path).name for each in logged]
    for name, picture in overlays(run, predictions, setting, count) if count else ():
        key = f"{PREFIX}/{name}"
        # MLflow separates the parts of a file's name by characters that differ between its versions.
        pattern = re.compile(rf"{PREFIX}\W{re.escape(name)}\Wstep\W")
        if not any(pattern.match(each) for each in names):
            log = partial(tracker.client.log_image, run_id, picture, key=key, step=run.config.schedule.updates)
            tracker.call(subject, partial(log, synchronous=True))


def overlays(run: TrainedRun, predictions: Path, setting: str, count: int) -> Iterator[tuple[str, np.ndarray]]:
    """The names and the pictures, uint8 (H, W, 3), of ``count`` val images at equal distances in the manifest."""
    dataset = run.dataset()
    images = ManifestImages(dataset.manifest("val"), run.images, dataset.reading)
    shown = np.linspace(0, len(images) - 1, min(count, len(images))).round().astype(int).tolist()
    rows = [images.row(index) for index in shown]
    draw = _labels if dataset.task == "semantic" else _objects
    for row, (found, classes) in zip(rows, draw(dataset, rows, predictions, setting), strict=True):
        picture = Image.fromarray(draw_overlay(images.pixels(row), found, classes))
        picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        yield _key(row["file_name"]), np.array(picture)


def _key(file_name: str) -> str:
    """A file's name as MLflow takes it for a picture's."""
    return re.sub(r"[^A-Za-z0-9_. -]", "_", Path(file_name).stem)


Found = tuple[Masks | Segments, list[ClassInfo]]


def _objects(dataset: PreparedDataset, rows: list[dict[str, Any]], predictions: Path, setting: str) -> Iterator[Found]:
    """The objects in images, by a COCO results file."""
    classes = [ClassInfo(category.id, category.name) for category in dataset.categories]
    numbers = {known.id: number for number, known in enumerate(classes)}
    wanted, by_image = {row["id"] for row in rows}, defaultdict(list)
    for result in json.loads(predictions_file(predictions, setting).read_text(encoding="utf-8")):
        if result["image_id"] in wanted and result["score"] >= USUAL_SCORE:
            by_image[result["image_id"]].append(result)
    for row in rows:
        found = sorted(by_image[row["id"]], key=lambda result: -result["score"])
        yield (
            Masks(
                (row["height"], row["width"]),
                torch.tensor([numbers[result["category_id"]] for result in found], dtype=torch.long),
                torch.tensor([result["score"] for result in found]),
                [torch.from_numpy(coco_mask.decode(result["segmentation"]).astype(bool)) for result in found],
            ),
            classes,
        )


def _labels(dataset: PreparedDataset, rows: list[dict[str, Any]], predictions: Path, setting: str) -> Iterator[Found]:
    """The class of every pixel of images, by a folder of label PNGs."""
    table, names = dataset.labels, prediction_names(dataset)
    classes = [ClassInfo(id_, name) for id_, name in zip(table.ids, table.names, strict=True)]
    for row in rows:
        labels = table.classes(read_ids(labels_folder(predictions, setting) / names[row["label_file"]]))
        size, shown = (labels.shape[0], labels.shape[1]), tuple(range(len(classes)))
        yield Segments(size, torch.from_numpy(labels.astype(np.int16)), shown), classes
