"""The scores of one setting's predictions: whatever metrics the prepared dataset has the truth for."""

import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from pipeline.config.labels import LabelTable
from pipeline.data.manifest import PreparedDataset
from pipeline.metrics.boundary_ap import boundary_ap
from pipeline.metrics.cityscapes_ap import cityscapes_ap
from pipeline.metrics.coco_ap import coco_ap
from pipeline.metrics.lvis_ap import ap_star
from pipeline.metrics.segmentation_iou import miou


def score_instances(prepared: PreparedDataset, predictions: Path) -> dict[str, float]:
    """All metrics of a COCO results file of the val split, in percent.

    Args:
        prepared: the dataset.
        predictions: the file.

    Returns:
        Of a COCO dataset AP, AP50, AP75, APs, APm and APl, the same of boundary AP (``boundary_AP`` ...), and, of one
        with LVIS annotations, of AP* on the images that have them (``AP_star``, ``AP_star50``, ``AP_star75``,
        ``AP_star_s`` ...). Of a Cityscapes dataset AP and AP50, and both by class (``AP-person`` ...). What is not
        defined (no small objects, say) is left out: JSON and MLflow have numbers only.

    Raises:
        DatasetError, GroundTruthError, PredictionError: as the metrics do.
    """
    instances, lvis = prepared.truth / "instances.json", prepared.truth / "lvis.json"
    if instances.is_file():
        scores = coco_ap(instances, predictions)
        scores |= {f"boundary_{name}": value for name, value in boundary_ap(instances, predictions).items()}
        if lvis.is_file():
            starred = ap_star(lvis, predictions, left_out=prepared.manifest("val")["id"].to_pylist())
            scores |= {_starred(name): value for name, value in starred.items()}
    else:
        manifest = prepared.manifest("val")
        images = dict(zip(manifest["id"].to_pylist(), manifest["file_name"].to_pylist(), strict=True))
        with tempfile.TemporaryDirectory() as folder:
            write_cityscapes_results(predictions, images, Path(folder))
            scores = cityscapes_ap(prepared.truth, Path(folder))
    return {name: value for name, value in scores.items() if not math.isnan(value)}


def _starred(name: str) -> str:
    variant = name.removeprefix("AP")
    return f"AP_star_{variant}" if variant.isalpha() else f"AP_star{variant}"


def write_cityscapes_results(predictions: Path, images: Mapping[int, str], folder: Path) -> None:
    """Writes COCO results, whose category ids are label ids, as :func:`cityscapes_ap` reads predictions.

    Args:
        predictions: the COCO results file.
        images: the file name of each image by its id; those without results get an empty text file.
        folder: where ``<image>.txt`` and the masks ``<image>_<number>.png`` go.
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
    """A mask of one bit a pixel. Only its box is turned from columns into rows: masks are small, streets large."""
    height, width = rle["size"]
    x, y, w, h = map(int, coco_mask.toBbox(rle))
    rows = np.zeros((height, width), np.uint8)
    rows[y : y + h, x : x + w] = coco_mask.decode(rle)[y : y + h, x : x + w]
    return Image.frombytes("1", (width, height), np.packbits(rows, axis=1).tobytes())


def score_labels(
    truth: Path, predictions: Path, table: LabelTable, trimap_widths: Sequence[int]
) -> tuple[dict[str, float], dict[str, Any]]:
    """The metrics of a folder of label PNGs, and for each of them the IoU of every class.

    Undefined values are left out, such as the IoU of a class that is neither in the truth nor predicted.

    Args:
        truth: the folder of ground truth.
        predictions: the folder.
        table: of the label ids of both.
        trimap_widths: of trimap mIoU, in pixels.
    """
    found = miou(truth, predictions, table=table, trimap_widths=trimap_widths)
    means = {key: value for key, value in found.items() if key.endswith("mIoU") and not math.isnan(value)}
    classes = {
        key: {name: round(value, 4) for name, value in by_class.items() if not math.isnan(value)}
        for key, by_class in found.items()
        if isinstance(by_class, dict)
    }
    return means, classes
