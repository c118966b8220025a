"""What the page shows: the answers of a view of one picture, which are sent as JSON."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image

from pointrend.ui.pictures import jpeg


@dataclass(frozen=True)
class Choice:
    """What is set in the page.

    Args:
        score: the lowest score of an object.
        resolution: side of a mask; of instance models.
        points: most points of a subdivision step.
        index: the chosen object; of instance models.
        place: (x, y) in [0, 1] of the image, the chosen place; of semantic models. None for the most telling one.
    """

    score: float
    resolution: int
    points: int
    index: int = 0
    place: tuple[float, float] | None = None


@dataclass(frozen=True)
class Panel:
    """A small picture with a title, and a sentence about it."""

    title: str
    text: str
    image: np.ndarray | Image.Image

    def answer(self) -> dict[str, str]:
        return {"title": self.title, "text": self.text, "image": jpeg(self.image)}


@dataclass(frozen=True)
class Details:
    """One object, or one place, from coarse to fine."""

    summary: str
    panels: Sequence[Panel]
    steps: Sequence[Panel] = field(default=())
    window: tuple[float, float, float, float] | None = None  # what is shown of the picture, xyxy in [0, 1]

    def answer(self) -> dict[str, Any]:
        return {
            "summary": self.summary,
            "panels": [panel.answer() for panel in self.panels],
            "steps": [step.answer() for step in self.steps],
            "window": self.window,
        }


@dataclass(frozen=True)
class Overlay:
    """A whole picture with what was found in it, and the seconds that the masks took."""

    image: np.ndarray
    seconds: float
    masks: str  # what took the seconds
    classes: Sequence[dict[str, Any]] = field(default=())  # of semantic models: name, share of the pixels, colour

    def answer(self) -> dict[str, Any]:
        return {
            "image": jpeg(self.image),
            "seconds": self.seconds,
            "masks": self.masks,
            "classes": list(self.classes),
        }


class View(Protocol):
    """One pass of a model over one picture, from which masks are rendered again and again."""

    def found(self) -> dict[str, Any]:
        """The objects, if any are looked for, the seconds of the pass, and a remark."""

    def overlay(self, choice: Choice) -> Overlay:
        """The whole picture."""

    def details(self, choice: Choice) -> Details:
        """The chosen object or place."""


def clock(device: torch.device) -> float:
    """Seconds, after all work on a device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def css_color(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def side_by_side(size: Sequence[int]) -> str:
    """A grid of size (rows, columns) in words that do not break at the end of a line."""
    return f"{size[1]}\u00a0×\u00a0{size[0]}"


def point_count(predicted: int, cells: int) -> str:
    """How many points were predicted, compared with one for each cell of the result."""
    if predicted >= cells:
        return f"{predicted:,} points were predicted for {cells:,} cells."
    return f"{predicted:,} points were predicted instead of all {cells:,} cells ({predicted / cells:.1%})."


def step_text(points: int, cells: int) -> str:
    """What a step of subdivision did."""
    if not points:
        return "the coarse prediction"
    if points == cells:
        return f"all {cells:,} cells predicted"
    return f"{points:,} of {cells:,} cells predicted"
