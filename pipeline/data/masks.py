"""Encodes COCO segmentations (polygons, uncompressed or compressed RLE) as compressed run lengths, checking each.

pycocotools checks little of its input, and ends the process on some of it.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

MAX_COORDINATE = 1e6  # pixels
MAX_PIXELS = 2**31 - 1  # of an image: pycocotools counts with 32 bits
MIN_POINTS = 3  # of a polygon
MAX_AREAS = 255  # that pycocotools counts at once: it keeps their number in eight bits


def is_int(value: Any) -> bool:
    """Whether a value of JSON is a whole number; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def _runs(counts: str) -> list[int]:
    """The runs of compressed RLE counts (pycocotools' rleFrString), which pycocotools itself does not check."""
    runs: list[int] = []
    value = shift = 0
    for byte in counts.encode("ascii"):
        part = byte - 48
        if not 0 <= part < 64:
            raise ValueError(f"the RLE's counts have the character {chr(byte)!r}")
        value |= (part & 0x1F) << shift
        shift += 5
        if part & 0x20:
            continue
        if part & 0x10:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("the RLE's counts are cut short")
    return runs


def _polygon_fault(index: int, polygon: Any) -> str:
    """What is wrong with a polygon; empty if it can be drawn."""
    if not isinstance(polygon, list) or len(polygon) % 2:
        return f"polygon {index} is not a list of x, y pairs"
    if len(polygon) < 2 * MIN_POINTS:
        return f"polygon {index} has {len(polygon) // 2} points, a polygon needs at least {MIN_POINTS}"
    try:
        # pycocotools overflows on large ones and crashes the process.
        if max(map(abs, polygon)) <= MAX_COORDINATE and math.isfinite(sum(polygon)) and bool not in map(type, polygon):
            return ""
    except TypeError:
        return f"polygon {index} has a coordinate that is not a finite number"
    if not all(isinstance(v, int | float) and not isinstance(v, bool) and abs(v) < math.inf for v in polygon):
        return f"polygon {index} has a coordinate that is not a finite number"
    return f"polygon {index} has a coordinate far outside its image"


def usable_polygons(polygons: list[Any], *, drop: bool) -> tuple[list[Any], list[str]]:
    """The polygons of an object that can be drawn, and messages about the others.

    Polygons of fewer than three points cover nothing, so that the object is the same without them.

    Args:
        polygons: the object's parts.
        drop: leave out other unusable polygons as well.

    Raises:
        ValueError: if no polygon is left, or one is unusable and not to be left out.
    """
    if not polygons:
        raise ValueError("the list of polygons is empty")
    faults = [_polygon_fault(index, polygon) for index, polygon in enumerate(polygons)]
    if not any(faults):
        return polygons, []
    kept = [polygon for polygon, fault in zip(polygons, faults, strict=True) if not fault]
    serious = [fault for fault in faults if fault and not fault.endswith(f"at least {MIN_POINTS}")]
    if not kept or (serious and not drop):
        raise ValueError((serious or list(filter(None, faults)))[0])
    return kept, list(filter(None, faults))


def encode_segmentation(segmentation: Any, height: int, width: int, *, polygons: bool = True) -> bytes:
    """Converts a COCO segmentation (polygons, uncompressed or compressed RLE) to compressed RLE counts.

    Polygons of fewer than three points beside others are left out.

    Args:
        segmentation: the segmentation.
        height: of the image in pixels.
        width: of the image in pixels.
        polygons: whether it may be a list of polygons.

    Raises:
        ValueError: saying what is wrong with it.
    """
    if isinstance(segmentation, list) and polygons:
        return draw(usable_polygons(segmentation, drop=False)[0], height, width)
    if not isinstance(segmentation, dict) or "counts" not in segmentation or "size" not in segmentation:
        raise ValueError("segmentation is neither a list of polygons nor an RLE with size and counts")
    if segmentation["size"] != [height, width]:
        raise ValueError(f"the RLE is of size {segmentation['size']}, its image of [{height}, {width}]")
    counts = segmentation["counts"]
    if isinstance(counts, bytes):
        counts = counts.decode("ascii")
    runs = _runs(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(is_int(run) and run >= 0 for run in runs):
        raise ValueError("the RLE's counts are neither a text nor a list of whole numbers")
    if sum(runs) != height * width:
        raise ValueError(f"the RLE's counts add up to {sum(runs)} pixels, its image has {height * width}")
    if isinstance(counts, str):
        return counts.encode("ascii")
    return coco_mask.frPyObjects(segmentation, height, width)["counts"]


def areas_of(masks: Sequence[dict[str, Any]]) -> np.ndarray:
    """The areas (N,) of compressed RLEs in pixels, float64."""
    parts = [coco_mask.area(list(masks[start : start + MAX_AREAS])) for start in range(0, len(masks), MAX_AREAS)]
    return np.concatenate([np.zeros(0), *parts]).astype(np.float64)


def draw(polygons: list[Any], height: int, width: int) -> bytes:
    """The counts of the union of usable polygons."""
    parts = coco_mask.frPyObjects(polygons, height, width)
    return (parts[0] if len(parts) == 1 else coco_mask.merge(parts))["counts"]
