"""How coarse the outlines of polygon annotations are: boundary metrics end where they do."""

import math
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.data.masks import usable_polygons

LONG = 10.0  # pixels of an edge from which it is drawn straight, rather than along the object


@dataclass(frozen=True)
class Outlines:
    """The outlines of the polygons of a split.

    Attributes:
        objects: how many objects have polygons.
        others: how many are given as masks (RLE).
        points: the median number of points of an object.
        straight: the share of the outlines' length, in [0, 1], in straight edges of :data:`LONG` pixels or more.
    """

    objects: int
    others: int
    points: float
    straight: float


def outlines_of(annotations: Iterable[Mapping[str, Any]], usable: Collection[int]) -> Outlines | None:
    """The outlines of the annotations of an instances file.

    Args:
        annotations: its entries.
        usable: the ids of those that can be used; crowds among them are left out.

    Returns:
        The outlines; None if no object has polygons.
    """
    return outlines(raw["segmentation"] for raw in annotations if raw["id"] in usable and not raw.get("iscrowd"))


def outlines(segmentations: Iterable[Any]) -> Outlines | None:
    """The outlines of usable COCO segmentations; None if none of them is a list of polygons."""
    points, total, straight, others = [], 0.0, 0.0, 0
    for segmentation in segmentations:
        if not isinstance(segmentation, list):
            others += 1
            continue
        polygons, _ = usable_polygons(segmentation, drop=True)
        points.append(sum(len(polygon) // 2 for polygon in polygons))
        for polygon in polygons:
            for length in edge_lengths(polygon):
                total += length
                straight += length if length >= LONG else 0.0
    if not points:
        return None
    return Outlines(len(points), others, statistics.median(points), straight / total if total else 0.0)


def edge_lengths(polygon: Sequence[float]) -> list[float]:
    """The lengths of a closed polygon's edges, given as x, y, x, y, ...; straight runs of edges count as one."""
    points = list(zip(polygon[::2], polygon[1::2], strict=True))
    corners = [
        point
        for before, point, after in zip(points[-1:] + points[:-1], points, points[1:] + points[:1], strict=True)
        if abs((point[0] - before[0]) * (after[1] - point[1]) - (point[1] - before[1]) * (after[0] - point[0])) > 1e-9
    ]
    return [math.dist(start, end) for start, end in zip(corners, corners[1:] + corners[:1], strict=True)]
