"""Compares the boxes and areas of annotations with their masks, and recognises how boxes were written instead.

Shape letters: N annotations. Boxes are (x, y, width, height) as COCO writes them, corners (x1, y1, x2, y2), in pixels.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

BOX_TOLERANCE = 3.0  # pixels
AREA_TOLERANCE = 1.3  # factor
MOST = 0.5  # the share from which a fault is that of the file, not of some annotations
RECOGNISED = 0.9  # the share of the boxes beside their masks that a habit must explain
RECTANGLES = 20  # so many masks that all are rectangles are no chance

Reading = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _centred(numbers: np.ndarray, scale: np.ndarray) -> np.ndarray:
    half = numbers[:, 2:] / 2
    return np.concatenate([numbers[:, :2] - half, numbers[:, :2] + half], axis=1) * scale


#: How tools write boxes that COCO writes as x, y, width, height: the corners (N, 4) that four numbers (N, 4) stand for,
#: given the width, height, width, height of the images (N, 4).
HABITS: tuple[tuple[str, Reading], ...] = (
    ("x1, y1, x2, y2", lambda numbers, scale: numbers),
    ("y, x, height, width", lambda numbers, scale: corners(numbers[:, [1, 0, 3, 2]])),
    ("y1, x1, y2, x2", lambda numbers, scale: numbers[:, [1, 0, 3, 2]]),
    ("centre x, centre y, width, height", lambda numbers, scale: _centred(numbers, np.ones(4))),
    ("x, y, width, height from 0 to 1, as shares of the image", lambda numbers, scale: corners(numbers) * scale),
    ("x1, y1, x2, y2 from 0 to 1, as shares of the image", lambda numbers, scale: numbers * scale),
    ("centre x, centre y, width, height from 0 to 1, as YOLO has them", _centred),
)


def corners(boxes: np.ndarray) -> np.ndarray:
    """Boxes (N, 4) as corners (N, 4)."""
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def _near(found: np.ndarray, masks: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """(N,) bool: whether corners (N, 4), clipped to their images, are those of the masks."""
    return np.abs(np.clip(found, 0, scale) - masks).max(axis=1, initial=0) <= BOX_TOLERANCE


@dataclass(frozen=True)
class BoxFit:
    """How boxes compare with their masks.

    Attributes:
        beside: (N,) bool, the boxes that are not those of their masks.
        habit: how these look to be written; empty if that is not known.
    """

    beside: np.ndarray
    habit: str

    @property
    def is_systematic(self) -> bool:
        """Whether most boxes are written in another way."""
        return bool(self.habit) and self.beside.mean() >= MOST


def compare_boxes(boxes: np.ndarray, mask_boxes: np.ndarray, sizes: np.ndarray) -> BoxFit:
    """Compares boxes (N, 4) with the boxes of their masks (N, 4), in images of sizes (N, 2): height and width."""
    scale, masks = np.tile(sizes[:, ::-1], 2), corners(mask_boxes)
    beside = ~_near(corners(boxes), masks, scale)
    if not beside.any():
        return BoxFit(beside, "")
    odd = boxes[beside], masks[beside], scale[beside]
    explained = [_near(read(odd[0], odd[2]), odd[1], odd[2]).mean() for _, read in HABITS]
    best = int(np.argmax(explained))
    return BoxFit(beside, HABITS[best][0] if explained[best] >= RECOGNISED else "")


def odd_areas(areas: np.ndarray, mask_areas: np.ndarray, mask_boxes: np.ndarray) -> np.ndarray:
    """(N,) bool: which areas are far from those of their masks, more than outlines of polygons explain."""
    difference, outline = np.abs(areas - mask_areas), 2 * mask_boxes[:, 2:].sum(axis=1)
    ratio = areas / np.maximum(mask_areas, 1)
    return (difference > outline / 2) & ((ratio > AREA_TOLERANCE) | (ratio < 1 / AREA_TOLERANCE))
