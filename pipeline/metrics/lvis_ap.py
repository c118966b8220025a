"""AP*: models trained on COCO, evaluated against LVIS's more precise annotations (Section 4.1, Appendix D)."""

import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.lvis import coco_view, synset_table
from pipeline.metrics.average_precision import AREAS, Matches, counted, resampled_ap
from pipeline.metrics.choice import Choice, class_labels
from pipeline.metrics.coco_files import check_ground_truth, chosen_results, counts, detections
from pipeline.metrics.lvis_api import Detections, Evaluation, Truth

STATISTICS: dict[str, tuple[float | None, str]] = {
    "AP": (None, "all"),
    "AP50": (0.5, "all"),
    "AP75": (0.75, "all"),
    "APs": (None, "small"),
    "APm": (None, "medium"),
    "APl": (None, "large"),
}


def ap_star(
    annotations: Path,
    predictions: Path,
    *,
    left_out: Collection[int] = (),
    resamples: int = 0,
    seed: int = 0,
    resampled: Collection[str] = tuple(STATISTICS),
    by_class: bool = False,
    choice: Choice | None = None,
    with_counts: bool = False,
) -> dict[str, Any]:
    """Mask AP in percent by LVIS's rules: 300 detections per image, and a detection counts as wrong only where the
    annotations say so.

    LVIS's APr, APc and APf are left out: they group categories by their number of LVIS training images, which says
    nothing about models trained on COCO.

    All images of the LVIS file count unless ``choice`` says which, so predictions must be for all of them: v0.5's val
    are COCO's val2017, v1's are partly from train2017, on which a COCO model has trained.

    Args:
        annotations: an LVIS file, v0.5 or v1, or its COCO-category view (see :func:`pipeline.data.lvis.coco_view`).
        predictions: a COCO results file, with COCO's image and category ids (a view's own, where it was made with
            another table of synsets). Predictions of categories that the LVIS version lacks are skipped.
        left_out: ids of images that are not in the LVIS file but may have predictions, which are skipped. Predictions
            for any other image that is not in the file are an error.
        resamples: how many bootstrap resamples of the images to compute metrics on as well.
        seed: of the resampling.
        resampled: the names of those metrics.
        by_class: whether to give the AP of each category as well, ``AP_by_class``.
        choice: the images and categories to score, by default all. Where images are chosen, predictions for any
            others are left out.
        with_counts: whether to say what was scored as well, see :func:`pipeline.metrics.coco_files.counts`.

    Returns:
        AP, AP50, AP75 and, by the objects' area (below 32^2, to 96^2, above), APs, APm, APl; NaN where there is no
        ground truth to average over. Without any prediction they are 0. With resamples also
        ``AP_resamples`` and so on: (resamples,), the values on them; see :mod:`pipeline.metrics.bootstrap`.

    Raises:
        DatasetError: for a file that is not in LVIS's format, and for annotations with duplicate or unknown ids, or
            unusable masks.
        GroundTruthError: if the file has not the chosen images or categories.
        PredictionError: for an unknown image or category, a mask of another size than its image, or a score that
            is not finite.
    """
    every = check_ground_truth(coco_view(annotations), annotations)
    view = choice.of_instances(every, annotations) if choice else every
    categories = [entry.id for entry in synset_table(every, annotations).root]
    skipped = None if choice and choice.images else left_out
    results, others = chosen_results(predictions, every, view, categories, skipped)
    truth = Truth(view)
    evaluation = Evaluation(truth, Detections(truth, detections(results)))
    evaluation.evaluate()
    evaluation.accumulate()
    values = {name: evaluation.average_precision(*where) for name, where in STATISTICS.items()}
    scores: dict[str, Any] = {name: 100 * value if value >= 0 else math.nan for name, value in values.items()}
    if by_class:
        labels = class_labels(view["categories"])
        scores["AP_by_class"] = {
            labels[id_]: 100 * value if value >= 0 else math.nan for id_, value in evaluation.by_category().items()
        }
    if with_counts:
        scores |= counts(view, results, counted(_matches(evaluation)), others)
    if resamples:
        scores |= resampled_ap(_matches(evaluation), len(evaluation.params.img_ids), resamples, seed, resampled)
    return scores


def _matches(evaluation: Evaluation) -> list[Matches]:
    """The matches in lvis's results, which are a list over categories, ranges of areas and images."""
    matches = []
    images = len(evaluation.params.img_ids)
    for cell, start in enumerate(range(0, len(evaluation.eval_imgs), images)):
        found = {i: entry for i, entry in enumerate(evaluation.eval_imgs[start : start + images]) if entry is not None}
        objects = np.zeros(images, np.int64)
        if not found:
            continue
        objects[list(found)] = [np.count_nonzero(np.asarray(entry["gt_ignore"]) == 0) for entry in found.values()]
        scores = np.concatenate([entry["dt_scores"] for entry in found.values()])
        order = np.argsort(-scores, kind="stable")
        of_image = np.repeat(list(found), [len(entry["dt_scores"]) for entry in found.values()])
        matched, ignored = (
            np.concatenate([entry[key] for entry in found.values()], axis=1)[:, order] != 0
            for key in ("dt_matches", "dt_ignore")
        )
        right, wrong = matched & ~ignored, ~matched & ~ignored
        matches.append(Matches(AREAS[cell % len(AREAS)], scores[order], of_image[order], right, wrong, objects))
    return matches
