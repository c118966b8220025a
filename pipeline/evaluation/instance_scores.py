"""Scores the COCO results of one setting: AP, boundary AP and AP*, or Cityscapes AP."""

import json
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from pipeline.data.manifest import FINER, PreparedDataset
from pipeline.evaluation.scores import Scores
from pipeline.metrics.bootstrap import RESAMPLES
from pipeline.metrics.boundary_ap import boundary_ap
from pipeline.metrics.cityscapes_ap import cityscapes_ap
from pipeline.metrics.coco_ap import coco_ap
from pipeline.metrics.lvis_ap import ap_star

RESAMPLED = ("AP", "AP50", "AP75")  # these take as long as AP alone


def score_instances(prepared: PreparedDataset, predictions: Path, resamples: int = 0, *, finer: bool = True) -> Scores:
    """All metrics of a COCO results file of the val split, in percent but for ``F1_score``.

    Args:
        prepared: the dataset.
        predictions: the COCO results file.
        resamples: how many bootstrap resamples of the images to compute AP, AP50 and AP75, their like of boundary AP,
            and AP* on as well.
        finer: whether to measure AP* against the annotations of ``finer_val``, if there are any.

    Returns:
        For a COCO dataset: AP, AP50, AP75, APs, APm and APl; the best F1 and the least score that it is reached with
        (``F1``, and ``F1_score`` in [0, 1]); the same for boundary AP (``boundary_AP`` ...); AP* (``AP_star``,
        ``AP_star50``, ``AP_star75``, ``AP_star_s`` ...) by LVIS's rules on the images that have LVIS annotations, or as
        AP is measured against the annotations of ``finer_val``. For a Cityscapes dataset: AP and AP50, over all
        classes and by class (``AP-person`` ...). Undefined metrics, such as APs without small objects, are left out,
        because JSON and MLflow have only numbers. Details of a COCO dataset are its AP by class (``AP_by_class``), and
        against ``finer_val`` its AP* by class (``AP_star_by_class``).

    Raises:
        DatasetError, GroundTruthError, PredictionError: if a metric cannot read one of the files.
    """
    details: dict[str, Any] = {}
    instances, lvis = prepared.truth / "instances.json", prepared.truth / "lvis.json"
    if instances.is_file():
        scores = coco_ap(instances, predictions, resamples=resamples, resampled=RESAMPLED, by_class=True, best_f1=True)
        details["AP_by_class"] = _defined(scores.pop("AP_by_class"))
        boundary = boundary_ap(instances, predictions, resamples=resamples, resampled=RESAMPLED)
        scores |= {f"boundary_{name}": value for name, value in boundary.items()}
        if lvis.is_file():
            left_out = prepared.manifest("val")["id"].to_pylist()
            starred = ap_star(lvis, predictions, left_out=left_out, resamples=resamples, resampled=["AP"])
            scores |= {_starred(name): value for name, value in starred.items()}
        elif finer and (file := prepared.folder / FINER).is_file():
            starred = coco_ap(file, predictions, resamples=resamples, resampled=["AP"], by_class=True)
            details["AP_star_by_class"] = _defined(starred.pop("AP_by_class"))
            scores |= {_starred(name): value for name, value in starred.items()}
    else:
        manifest = prepared.manifest("val")
        images = dict(zip(manifest["id"].to_pylist(), manifest["file_name"].to_pylist(), strict=True))
        with tempfile.TemporaryDirectory() as folder:
            write_cityscapes_results(predictions, images, Path(folder))
            scores = cityscapes_ap(prepared.truth, Path(folder), resamples=resamples)
    drawn = {name.removesuffix(RESAMPLES): scores.pop(name) for name in list(scores) if name.endswith(RESAMPLES)}
    metrics = {name: value for name, value in scores.items() if not math.isnan(value)}
    return Scores(metrics, details, {name: values.tolist() for name, values in drawn.items() if name in metrics})


def _defined(by_class: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in by_class.items() if not math.isnan(value)}


def _starred(name: str) -> str:
    variant = name.removeprefix("AP")
    return f"AP_star_{variant}" if variant.isalpha() else f"AP_star{variant}"


def write_cityscapes_results(predictions: Path, images: Mapping[int, str], folder: Path) -> None:
    """Converts COCO results, whose category ids are label ids, to the files that :func:`cityscapes_ap` reads.

    Args:
        predictions: the COCO results file.
        images: the file name of each image by its id; an image without results gets an empty text file.
        folder: the folder to write ``<image>.txt`` and the masks ``<image>_<number>.png`` to.
    """
    lines: dict[int, list[str]] = {image_id: [] for image_id in images}
    results: list[dict[str, Any]] = json.loads(predictions.read_bytes())
    for result in results:
        found = lines[result["image_id"]]
        name = f"{PurePosixPath(images[result['image_id']]).stem}_{len(found)}.png"
        _picture(result["segmentation"]).save(folder / name, compress_level=1)
        found.append(f"{name} {result['category_id']} {result['score']}\n")
    for image_id, file_name in images.items():
        (folder / f"{PurePosixPath(file_name).stem}.txt").write_text("".join(lines[image_id]))


def _picture(rle: dict[str, Any]) -> Image.Image:
    """A mask as a picture with one bit per pixel.

    COCO's masks are stored by columns. Only the mask's box is copied to rows, since most masks are small.
    """
    height, width = rle["size"]
    x, y, w, h = map(int, coco_mask.toBbox(rle))
    rows = np.zeros((height, width), np.uint8)
    rows[y : y + h, x : x + w] = coco_mask.decode(rle)[y : y + h, x : x + w]
    return Image.frombytes("1", (width, height), np.packbits(rows, axis=1).tobytes())
