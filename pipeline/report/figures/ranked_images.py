"""Shows the images of the val split on which a run is best and worst.

Shape letters: K classes, D predictions, G objects.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.data.labels import read_ids
from pipeline.data.manifest import PreparedDataset
from pipeline.data.storage import Storage
from pipeline.evaluation.outputs import labels_folder, prediction_names, predictions_file
from pipeline.evaluation.trained_run import TrainedRun
from pipeline.metrics.segmentation_iou import confusion_counts
from pipeline.report.figures.figure import Figure, save_picture
from pipeline.report.figures.overlays import MIN_IOU, MIN_SCORE, Scenes, Source, scene_panels
from pipeline.report.figures.panels import Panels, with_note
from pipeline.report.figures.semantic_overlays import classes_of, picture_panels, with_legend

#: The quality of each image by its file's name, and what draws some of them.
_Ranking = tuple[dict[str, float], Callable[[Sequence[str]], Image.Image]]

SHOWN = 3  # images of each kind
SEMANTIC_QUALITY = "Quality is the mean IoU of the classes in the image."


def instance_quality(overlaps: np.ndarray) -> float:
    """The quality of an image, given the IoU (D, G) of predictions and objects, 0 for those of different classes.

    It is the panoptic quality: 1 if every object is found exactly and nothing else is. NaN without either.
    """
    if not sum(overlaps.shape):
        return float("nan")
    total, left = 0.0, overlaps.copy()
    while left.size and (best := left.max()) > MIN_IOU:
        row, column = np.unravel_index(left.argmax(), left.shape)
        left[row, :] = left[:, column] = 0
        total += float(best)
    return total / (sum(overlaps.shape) / 2)


def semantic_quality(truth: np.ndarray, predicted: np.ndarray, classes: int) -> float:
    """The mean IoU of the classes in an image: numbers (H, W) from 0 to K, K where ignored. NaN if all is ignored."""
    table = confusion_counts(truth, predicted, classes)
    hits, wholes = np.diagonal(table), table.sum(1) + table.sum(0)[:classes]
    present = table.sum(1) > 0
    return float((hits[present] / (wholes - hits)[present]).mean()) if present.any() else float("nan")


def worst_and_best(qualities: Mapping[str, float]) -> tuple[list[str], list[str]]:
    """The keys of the lowest qualities, rising, and of the highest, falling; no key is in both."""
    ranked = sorted((key for key, value in qualities.items() if value == value), key=qualities.__getitem__)
    count = min(SHOWN, len(ranked) // 2)
    return ranked[: max(count, min(1, len(ranked)))], ranked[::-1][:count]


def ranked_figures(
    run: TrainedRun, setting: str, predictions: Path, folder: Path, least_score: float | None = None
) -> list[Figure]:
    """Draws the worst and the best val images of a run under a setting.

    There are none if the run has no right prediction in any image, as no image is better than another then.

    Args:
        run: the run.
        setting: the name of the evaluation setting.
        predictions: the folder of the run's predictions.
        folder: where the pictures go.
        least_score: predictions of objects with lower scores do not count; by default :data:`MIN_SCORE`.
    """
    prepared, name = run.dataset(), run.config.run
    if prepared.task == "semantic":
        qualities, draw = _labels(prepared, run.images, labels_folder(predictions, setting))
        what = SEMANTIC_QUALITY
    else:
        score = MIN_SCORE if least_score is None else least_score
        qualities, draw = _instances(prepared, run.images, predictions_file(predictions, setting), score)
        what = (
            f"Predictions with a score of {score:.2f} or more. Quality is the sum of the IoUs of predictions and "
            f"objects that match (IoU above {MIN_IOU:g}, same class), over the mean of the numbers of both."
        )
    if not any(quality > 0 for quality in qualities.values()):
        return []
    figures = []
    for kind, chosen in zip(("worst", "best"), worst_and_best(qualities), strict=True):
        if chosen:
            file = f"{kind}_{name}.webp"
            width = save_picture(draw(chosen), folder / file)
            figures.append(Figure(f"The {kind} images: {name}, {setting}", what, file, width))
    return figures


def _noted(panels: Panels, notes: Sequence[str]) -> Image.Image:
    """The rows of panels with a note below the last picture of each, and nothing below the others."""
    rows = [
        [with_note(panel, note if panel is row[-1] else "") for panel in row]
        for row, note in zip(panels.rows, notes, strict=True)
    ]
    return Panels(panels.captions, rows).render()


def _instances(prepared: PreparedDataset, images: Storage, predictions: Path, least_score: float) -> _Ranking:
    manifest = prepared.manifest("val")
    scenes = Scenes(manifest, images, [Source("prediction", predictions)], least_score, reading=prepared.reading)
    ids = {row["file_name"]: row["id"] for row in manifest.select(["id", "file_name"]).to_pylist()}
    qualities = {name: instance_quality(scenes.overlaps(image_id, 0)) for name, image_id in ids.items()}

    def draw(chosen: Sequence[str]) -> Image.Image:
        panels = scene_panels(scenes, [ids[name] for name in chosen])
        return _noted(panels, [f"quality {qualities[name]:.2f}" for name in chosen])

    return qualities, draw


def _labels(prepared: PreparedDataset, images: Storage, predictions: Path) -> _Ranking:
    table, names = prepared.labels, prediction_names(prepared)
    rows = {row["file_name"]: row for row in prepared.manifest("val").to_pylist()}

    def both(name: str) -> tuple[np.ndarray, np.ndarray]:
        label_file = rows[name]["label_file"]
        return classes_of(table, images, label_file), table.classes(read_ids(predictions / names[label_file]))

    qualities = {name: semantic_quality(*both(name), len(table.names)) for name in rows}

    def draw(chosen: Sequence[str]) -> Image.Image:
        drawn = [picture_panels(images, name, both(name), prepared) for name in chosen]
        panels = Panels(["image", "ground truth", "prediction"], drawn)
        return with_legend(_noted(panels, [f"quality {qualities[name]:.2f}" for name in chosen]), table)

    return qualities, draw
