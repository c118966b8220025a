"""Says of a score what a user must know to trust it: that nothing was scored, and what files look wrong."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pycocotools import mask as coco_mask

from pipeline.config.labels import LabelTable
from pipeline.data.labels import CITYSCAPES
from pipeline.data.lvis import coco_view, synset_table
from pipeline.metrics.choice import ImageList
from pipeline.metrics.coco_files import check_ground_truth, read_ground_truth, read_results
from pipeline.metrics.errors import GroundTruthError, NothingToScoreError, PredictionError
from pipeline.metrics.label_hints import hint, id_counts, ids_text
from pipeline.metrics.result_hints import class_hint, file_hints, read_entries
from pipeline.metrics.segmentation_iou import label_pairs
from pointrend.wording import counted

Scores = dict[str, Any]
Check = Callable[[Scores], Scores]
Note = Callable[[str], None]

#: Below this AP50, or mIoU, in percent the files are looked through for mistakes.
POOR_AP50, POOR_MIOU = 5.0, 50.0
#: A share of images without predictions from which on it is worth a note.
MANY = 0.2


@contextmanager
def explained_instances(annotations: Path, predictions: Path, note: Note, *, lvis: bool = False) -> Iterator[Check]:
    """Runs a metric of instances; yields the function that checks what it returns, and passes it on.

    Args:
        annotations: the ground truth, a COCO file.
        predictions: the COCO results.
        note: called with each thing worth a look.
        lvis: the ground truth is an LVIS file.

    Raises:
        PredictionError: the metric's, with what looks wrong about the whole file.
        NothingToScoreError: if there is no object to find.
    """

    def truth() -> dict[str, Any]:
        return check_ground_truth(coco_view(annotations), annotations) if lvis else read_ground_truth(annotations)

    def known(every: dict[str, Any]) -> list[int]:
        if lvis:
            return [entry.id for entry in synset_table(every, annotations).root]
        return [category["id"] for category in every["categories"]]

    def check(scores: Scores) -> Scores:
        if math.isnan(scores["AP"]):
            crowds = f" beside {counted(scores['ignored_objects'], 'crowd')}" if scores["ignored_objects"] else ""
            raise NothingToScoreError(
                f"{annotations}: nothing to score, because {counted(scores['images'], 'image')} to score hold no object"
                f"{crowds}; is it the right file, and are --images and --classes right?"
            )
        _note_images(scores, note)
        if scores["predictions"] and scores["AP50"] < POOR_AP50:
            every = truth()
            images = {image["id"] for image in every["images"]}
            others = [id_ for entry in read_entries(predictions) if (id_ := entry["image_id"]) not in images]
            results = read_results(predictions, every["images"], known(every), others)
            if text := class_hint(results, every, coco_mask.iou):
                note(text)
        return scores

    try:
        yield check
    except PredictionError as error:
        every = truth()
        hints = file_hints(read_entries(predictions), every, known(every))
        raise PredictionError("\n".join([str(error), *hints])) from error


def _note_images(scores: Mapping[str, Any], note: Note) -> None:
    without, images = scores["images_without_predictions"], scores["images"]
    if without > MANY * images:
        note(
            f"{without} of {counted(images, 'image')} have no predictions, so their objects count as missed; if the "
            "predictions are of other images, list those that both have with --images FILE"
        )


def check_cityscapes(scores: Mapping[str, Any], truth: Path, predictions: Path, note: Note) -> None:
    """Raises NothingToScoreError if Cityscapes AP has scored nothing, and notes what is worth a look."""
    if math.isnan(scores["AP"]):
        raise NothingToScoreError(
            f"{truth}: nothing to score, because {counted(scores['images'], 'image')} to score hold no object of at "
            "least 100 pixels; is it the right folder, and are --images and --classes right?"
        )
    if not scores["predictions"] and scores["predictions_left_out"]:
        raise NothingToScoreError(
            f"{predictions}: none of {counted(scores['predictions_left_out'], 'prediction')} is of a class to score; "
            "expected label ids, 24 (person) to 33 (bicycle), and not train ids, 11 to 18"
        )
    _note_images(scores, note)


@contextmanager
def explained_labels(
    truth: Path, predictions: Path, table: LabelTable, predicted: LabelTable, images: ImageList | None, note: Note
) -> Iterator[Check]:
    """Runs a metric of label PNGs; yields the function that checks what it returns, and passes it on.

    Args:
        truth: the folder of ground truth.
        predictions: the folder of predictions.
        table: the ids of the ground truth.
        predicted: the ids of the predictions.
        images: the images to score.
        note: called with each thing worth a look.

    Raises:
        GroundTruthError, PredictionError: the metric's, with what the ids look like.
        NothingToScoreError: if all pixels are ignored, or all those near boundaries.
    """

    def check(scores: Scores) -> Scores:
        poor = scores["mIoU"] < POOR_MIOU
        counts = (
            id_counts(label_pairs(truth, predictions, table, images)) if poor or math.isnan(scores["mIoU"]) else None
        )
        if math.isnan(scores["mIoU"]):
            assert counts is not None
            own = "; classes other than Cityscapes' need --classes" if set(table.names) <= set(CITYSCAPES.names) else ""
            raise NothingToScoreError(
                f"{truth}: nothing to score, because all pixels of {counted(scores['images'], 'image')} have an "
                f"ignored id; the ids are {ids_text(counts.sum(1))}{own}"
            )
        for name, value in scores.items():
            if name.endswith("_mIoU") and math.isnan(value):
                raise NothingToScoreError(f"{truth}: no image has a boundary, so leave --trimap out")
        if counts is not None and (text := hint(counts, table, predicted)):
            note(text)
        number, ignored = scores.pop("images"), scores.pop("ignored_pixels_percent")
        # An image without a prediction is an error of the metric.
        return scores | {"images": number, "images_without_predictions": 0, "ignored_pixels_percent": ignored}

    try:
        yield check
    except (GroundTruthError, PredictionError) as error:
        try:
            counts = id_counts(label_pairs(truth, predictions, table, images))
        except (GroundTruthError, PredictionError):
            own = (
                "; for classes other than Cityscapes' give --classes"
                if set(table.names) <= set(CITYSCAPES.names)
                else ""
            )
            raise type(error)(f"{error}{own if isinstance(error, GroundTruthError) else ''}") from error
        lines = [str(error)]
        if counts.any():
            lines.append(
                f"ids of the ground truth: {ids_text(counts.sum(1))}; of predictions: {ids_text(counts.sum(0))}"
            )
            if text := hint(counts, table, predicted):
                lines.append(text)
        raise type(error)("\n".join(lines)) from error
