"""A weight file as an MLflow model: pictures in, masks out. MLflow loads it by :func:`_load_pyfunc`.

The input is a table with a column ``image``, the bytes of image files of any format that ``pointrend predict`` reads
(base64 in JSON). The output has one entry per picture, see :meth:`Segmenter.predict`. Needs MLflow only where it is
loaded, and never unpickles anything.
"""

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from pointrend.instance import MaskRCNN
from pointrend.metadata import ClassInfo
from pointrend.pixels import Reading, decode_image
from pointrend.predict import MAX_PIXELS, Settings, class_infos, find
from pointrend.regions import Instances, Segments, regions
from pointrend.results import coco_result, label_image
from pointrend.runs import USUAL_SCORE
from pointrend.semantic import SemanticSegmenter
from pointrend.weights import load_model

#: Where the weights lie in the folder of an MLflow model.
WEIGHTS = "data/model.safetensors"
IMAGE = "image"  # the column of the input


class Segmenter:
    """Predicts with a model on a GPU if there is one.

    Args:
        model: in evaluation mode.
    """

    def __init__(self, model: MaskRCNN | SemanticSegmenter) -> None:
        assert model.metadata is not None
        self.model = model.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        self.classes = class_infos(model)
        self.reading = Reading("exif", model.metadata.pixel_range)

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """What the model finds in pictures.

        Args:
            model_input: a data frame, or another mapping, with the bytes of the image files in its column ``image``.
            params: ``score``, the lowest score of an object in [0, 1].

        Returns:
            for each picture its ``height`` and ``width`` in pixels, and

            - of an instance model its ``objects``, best first, as COCO's results have them: ``category_id``,
              ``category_name``, ``score``, ``bbox`` (x, y, width, height in pixels) and ``segmentation``, an RLE;
            - of a semantic model its ``labels``, the base64 of a PNG with the class id of every pixel, and the ids and
              names of its ``classes``.

        Raises:
            KeyError: without a column ``image``.
            OSError, ValueError: if a picture cannot be read, or if ``score`` is not in [0, 1].
        """
        score = float((params or {}).get("score", USUAL_SCORE))
        if not 0 <= score <= 1:
            raise ValueError(f"score is {score:g}, expected a number from 0 to 1")
        return [self._entry(file, f"image {number}", score) for number, file in enumerate(model_input[IMAGE])]

    def _entry(self, file: bytes, name: str, score: float) -> dict[str, Any]:
        instance = isinstance(self.model, MaskRCNN)
        most = MAX_PIXELS["instance" if instance else "semantic"]
        pixels = decode_image(io.BytesIO(file), name, self.reading, max_pixels=most).pixels
        (found,) = find(self.model, [pixels], Settings(score, tuple(range(len(self.classes)))))
        entry: dict[str, Any] = {"height": found.size[0], "width": found.size[1]}
        if isinstance(found, Instances):
            return entry | {"objects": _objects(found, self.classes)}
        classes = [{"id": each.id, "name": each.name} for each in self.classes]
        return entry | {"labels": _label_png(found, self.classes), "classes": classes}


def _objects(found: Instances, classes: tuple[ClassInfo, ...]) -> list[dict[str, Any]]:
    objects = []
    for region in regions(found):
        result = coco_result(0, region, classes, found.size)
        del result["image_id"]
        objects.append({"category_name": classes[region.class_index].name, **result})
    return objects[::-1]  # best first


def _label_png(found: Segments, classes: tuple[ClassInfo, ...]) -> str:
    labels = label_image(found, classes)
    for region in regions(found):
        labels.add(region, classes[region.class_index].id)
    file = io.BytesIO()
    Image.fromarray(labels.pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")


def _load_pyfunc(path: str) -> Segmenter:
    """MLflow's entry: loads the model whose folder is ``path``."""
    return Segmenter(load_model(Path(path) / WEIGHTS))
