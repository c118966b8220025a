"""What the server keeps: the weights to choose from, and the models, pictures and passes that were used last."""

import secrets
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from pointrend.instance import MaskRCNN
from pointrend.metadata import KEY, MetadataError, ModelMetadata, parse_metadata
from pointrend.runs import USUAL_SCORE, all_runs, drawn_images, run_scores
from pointrend.semantic import SemanticSegmenter
from pointrend.specs import COARSE_SIDE, InstanceSpec
from pointrend.ui.instance_view import InstanceView
from pointrend.ui.pictures import Picture, open_picture
from pointrend.ui.semantic_view import SemanticView
from pointrend.ui.views import Choice, View
from pointrend.weights import load_model, stored_metadata

K = TypeVar("K")
V = TypeVar("V")
#: The values that were black and white in a model's training; None where all pictures had 8 bits.
PixelRange = tuple[float, float] | None

MODELS, PICTURES, VIEWS = 2, 2, 2
EXAMPLES = 6
RESOLUTIONS = tuple(COARSE_SIDE * 2**step for step in range(7))
#: Points of a step: of one object, and of a whole picture.
OBJECT_POINTS = (16, 49, 100, 196, 400, 784, 1568, 3136)
IMAGE_POINTS = (128, 512, 1024, 2048, 4096, 8192, 16384, 32768)


class Recent(Generic[K, V]):
    """The values that were used last."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._values: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K, make: Callable[[], V]) -> V:
        """The value of a key, made if it is not there. The one that was not used for longest makes room first."""
        if key not in self._values:
            while len(self._values) >= self.limit:
                self._values.popitem(last=False)
            self._values[key] = make()
        self._values.move_to_end(key)
        return self._values[key]


@dataclass(frozen=True)
class Weights:
    """Weights that the page offers."""

    name: str
    source: str | Path
    metadata: ModelMetadata
    options: Mapping[str, Any] = field(default_factory=dict)  # of load_model
    scores: Mapping[str, float] = field(default_factory=dict)
    examples: tuple[Path, ...] = ()

    def controls(self) -> dict[str, Any]:
        """The values of the sliders, those of the model itself, and why a slider cannot be moved."""
        spec = self.metadata.spec
        if not isinstance(spec, InstanceSpec):
            note = "A semantic model predicts every pixel of the picture, so its resolution is the picture's."
            if spec.points_per_step is None:
                note = "This model has no PointRend head: nothing is refined, and there is nothing to set."
                return {"resolutions": [], "points": [], "resolution": 0, "num_points": 0, "note": note}
            points = sorted({*IMAGE_POINTS, spec.points_per_step})
            return {
                "resolutions": [], "points": points, "resolution": 0, "num_points": spec.points_per_step, "note": note
            }  # fmt: skip
        if spec.rendering is None:
            side = spec.mask_side
            note = f"This model has Mask R-CNN's usual head: masks are always {side} × {side}, and "
            note += "there are no points."
            return {"resolutions": [], "points": [], "resolution": side, "num_points": 0, "note": note}
        resolution, num_points = spec.rendering.resolution, spec.rendering.num_points
        return {
            "resolutions": sorted({*RESOLUTIONS, resolution}),
            "points": sorted({*OBJECT_POINTS, num_points}),
            "resolution": resolution,
            "num_points": num_points,
            "note": None,
        }

    def answer(self) -> dict[str, Any]:
        """What the page needs to know, as JSON."""
        spec = self.metadata.spec
        return {
            "name": self.name,
            "task": "instance" if isinstance(spec, InstanceSpec) else "semantic",
            "pointrend": spec.has_pointrend,
            "scores": dict(self.scores),
            "least_score": self.scores.get("F1_score", USUAL_SCORE),
            "examples": len(self.examples),
            **self.controls(),
        }


def offered_weights(root: Path) -> tuple[list[Weights], list[str]]:
    """The runs of a checkout, and a message for each whose weights do not say what they are."""
    offered, problems = [], []
    for name, path in all_runs(root).items():
        try:
            metadata = parse_metadata(stored_metadata(path).get(KEY, "null"))
        except MetadataError as error:
            problems.append(f"{path}: not offered: {error}")
            continue
        examples = drawn_images(path, metadata.origin.get("dataset", ""), EXAMPLES)
        offered.append(Weights(name, path, metadata, scores=run_scores(path), examples=tuple(examples)))
    return offered, problems


def best(weights: list[Weights]) -> int:
    """The number of the weights that show most: an instance model with PointRend, the one with the highest score."""

    def rank(index: int) -> tuple[bool, bool, float]:
        spec = weights[index].metadata.spec
        return isinstance(spec, InstanceSpec), spec.has_pointrend, next(iter(weights[index].scores.values()), 0.0)

    return max(range(len(weights)), key=rank)


class Session:
    """Answers the page's requests. Not thread-safe: its methods are called one at a time.

    Args:
        weights: to choose from, at least one.
        start: the number of those that the page begins with.
        device: to compute on.
        bits: see :func:`pointrend.pixels.decode_image`.
    """

    def __init__(self, weights: list[Weights], start: int, device: torch.device, bits: int | None) -> None:
        self.weights, self.start, self.device, self.bits = weights, start, device, bits
        self._models: Recent[int, Any] = Recent(MODELS)
        self._files: Recent[str, tuple[bytes, str]] = Recent(PICTURES)
        self._pictures: Recent[tuple[str, PixelRange], Picture] = Recent(PICTURES)
        self._views: Recent[tuple[int, str], View] = Recent(VIEWS)

    def choose(self, index: int) -> Weights:
        """Weights by their number.

        Raises:
            ValueError: if there are none of that number.
        """
        if not 0 <= index < len(self.weights):
            raise ValueError(f"there are no weights {index}; reload the page")
        return self.weights[index]

    def load(self, index: int) -> MaskRCNN | SemanticSegmenter:
        """The model of weights by their number."""
        weights = self.choose(index)
        return self._models.get(index, lambda: load_model(weights.source, **weights.options).to(self.device))

    def open(self, index: int, data: bytes, name: str) -> dict[str, Any]:
        """Opens a picture, read as it is for a model. Other models may read its file otherwise, see :meth:`view`.

        Raises:
            OSError, ValueError: if it cannot be read.
        """
        key, limits = secrets.token_urlsafe(8), self.choose(index).metadata.pixel_range
        picture = open_picture(data, name, self.bits, limits)
        self._files.get(key, lambda: (data, name))
        self._pictures.get((key, limits), lambda: picture)
        height, width = picture.pixels.shape[:2]
        return {"picture": key, "name": name, "width": width, "height": height, "remarks": picture.remarks}

    def view(self, index: int, picture: str) -> View:
        """The pass of a model over a picture.

        Raises:
            OSError, ValueError: for a picture that is not open any more, or that cannot be read for this model.
        """

        def closed() -> tuple[bytes, str]:
            raise ValueError("this picture is not open any more; choose it again")

        data, name = self._files.get(picture, closed)
        limits = self.choose(index).metadata.pixel_range
        opened = self._pictures.get((picture, limits), lambda: open_picture(data, name, self.bits, limits))

        def look() -> View:
            model = self.load(index)
            return InstanceView(model, opened) if isinstance(model, MaskRCNN) else SemanticView(model, opened)

        return self._views.get((index, picture), look)

    def check(self, index: int, choice: Choice) -> Choice:
        """A choice whose values the page's sliders have.

        Raises:
            ValueError: for other values, which could ask for any amount of memory.
        """
        controls = self.choose(index).controls()
        for name, value, key in (("resolution", choice.resolution, "resolutions"), ("points", choice.points, "points")):
            if controls[key] and value not in controls[key]:
                raise ValueError(f"{name} is {value}, expected one of {', '.join(map(str, controls[key]))}")
        return choice
