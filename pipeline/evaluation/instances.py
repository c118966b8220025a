"""Predictions of instance models: one detector pass per image, every setting of the run rendered from it.

Shape letters: R regions, M the side of a region mask, H W rows and columns of an image.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import torch
from pycocotools import mask as coco_mask
from torch import Tensor

from pipeline.config import RenderingConfig
from pipeline.data.coco import Category
from pipeline.data.dataset import EvaluationImages
from pipeline.files import atomic_file
from pipeline.progress import progress
from pointrend.instance import MaskRCNN
from pointrend.paste import mask_runs
from pointrend.points import Size


def encode_region(region_mask: Tensor, box: Tensor, size: Size) -> dict[str, Any]:
    """A region mask (M, M) in its box (4,) as the RLE of a binary mask on the image's pixels (H, W)."""
    runs = {"size": list(size), "counts": mask_runs(region_mask, box, size).numpy()}
    return {"size": list(size), "counts": coco_mask.frPyObjects(runs, *size)["counts"].decode("ascii")}


@torch.inference_mode()
def predict_image(
    model: MaskRCNN, image_id: int, image: Tensor, settings: Mapping[str, RenderingConfig], categories: list[Category]
) -> dict[str, list[dict[str, Any]]]:
    """COCO results of one image (3, H, W) under each setting, from one detector pass."""
    found = model.detect([image])
    boxes, size = found.original_boxes()[0], found.original_sizes[0]
    corners, scores, labels = boxes.tolist(), found.scores[0].tolist(), found.labels[0].tolist()
    results = {}
    for name, setting in settings.items():
        region_masks = model.region_masks(found, setting.build())[0]
        results[name] = [
            {
                "image_id": image_id,
                "category_id": categories[label - 1].id,
                "bbox": [round(v, 3) for v in (x0, y0, x1 - x0, y1 - y0)],
                "score": score,
                "segmentation": encode_region(region_mask[0], box, size),
            }
            for region_mask, box, (x0, y0, x1, y1), score, label in zip(
                region_masks, boxes, corners, scores, labels, strict=True
            )
        ]
    return results


def predictions_file(folder: Path, setting: str) -> Path:
    """The COCO results of one setting."""
    return folder / f"predictions_{setting}.json"


class ResultsWriter:
    """A COCO results file, written as the results come: memory does not grow with the number of images."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream, self._first = stream, True
        stream.write("[")

    def add(self, results: list[dict[str, Any]]) -> None:
        for result in results:
            self._stream.write("\n" if self._first else ",\n")
            json.dump(result, self._stream)
            self._first = False

    def close(self) -> None:
        self._stream.write("\n]\n")


def write_predictions(
    model: MaskRCNN,
    images: EvaluationImages,
    settings: Mapping[str, RenderingConfig],
    categories: list[Category],
    folder: Path,
    label: str,
) -> None:
    """Writes the predictions of every setting for all images into a folder."""
    model.eval()
    device = next(model.parameters()).device
    with ExitStack() as stack:
        writers = {
            name: ResultsWriter(stack.enter_context(atomic_file(predictions_file(folder, name)))) for name in settings
        }
        bar = stack.enter_context(progress(label, len(images)))
        for image_id, image in _each(images):
            for name, results in predict_image(model, image_id, image.to(device), settings, categories).items():
                writers[name].add(results)
            bar.advance()
        for writer in writers.values():
            writer.close()


def _each(images: EvaluationImages) -> Iterator[tuple[int, Tensor]]:
    for index in range(len(images)):
        yield images[index]
