"""Traces the outlines of masks, and simplifies them to polygons such as annotators draw."""

from collections.abc import Iterator

import numpy as np

from pipeline.synthetic.drawing import signed_area

MIN_FRAGMENT = 10  # pixels; smaller parts and smaller holes are not annotated


def trace_outlines(mask: np.ndarray) -> list[np.ndarray]:
    """The rings (P, 2) int along the pixel edges around a mask (H, W) bool.

    The region lies on a ring's right-hand side: rings around it have a positive `signed_area`, rings around
    its holes a negative one. Diagonal neighbours belong to one part (8-connected), so thin spikes stay
    in one piece.
    """
    padded = np.pad(mask, 1)
    above_left, above_right = padded[:-1, :-1], padded[:-1, 1:]
    below_left, below_right = padded[1:, :-1], padded[1:, 1:]
    # edges[d, y, x]: from corner (x, y) an edge leads right, down, left or up, with the region on its right.
    rightward, downward = below_right & ~above_right, below_left & ~below_right
    leftward, upward = above_left & ~below_left, above_right & ~above_left
    edges = np.stack([rightward, downward, leftward, upward])
    direction, y, x = np.nonzero(edges)
    number = np.full(edges.shape, -1)
    number[edges] = np.arange(len(direction))
    end_x, end_y = x + np.array([1, 0, -1, 0])[direction], y + np.array([0, 1, 0, -1])[direction]
    left, ahead, right = (number[(direction + turn) % 4, end_y, end_x] for turn in (-1, 0, 1))
    # Where two diagonal pixels meet there are two ways on; the left turn leads to the other pixel.
    following = np.where(left >= 0, left, np.where(ahead >= 0, ahead, right))

    corners = np.stack([x, y], axis=1)
    rings = []
    for cycle in _cycles(following.tolist()):
        is_turn = direction[cycle] != np.roll(direction[cycle], 1)
        rings.append(corners[cycle][is_turn])
    return rings


def _cycles(following: list[int]) -> Iterator[list[int]]:
    """The cycles of a permutation."""
    seen = [False] * len(following)
    for first in range(len(following)):
        cycle, at = [], first
        while not seen[at]:
            seen[at] = True
            cycle.append(at)
            at = following[at]
        if cycle:
            yield cycle


def simplify(ring: np.ndarray, tolerance: float) -> np.ndarray:
    """The ring (P, 2) with fewer points (Douglas-Peucker), at least three.

    No dropped point is farther than `tolerance` pixels from the line that replaces it.
    """
    # A closed line has no ends: cut it in two at a point and at the one farthest from it.
    far = int(np.argmax(np.hypot(*(ring - ring[0]).T)))
    closed = np.concatenate([ring, ring[:1]])
    keep = {0, far}
    spans = [(0, far), (far, len(ring))]
    while spans:
        first, last = spans.pop()
        if last - first < 2:
            continue
        gaps = _segment_distance(closed[first + 1 : last], closed[first], closed[last])
        if gaps.max() > tolerance:
            middle = first + 1 + int(np.argmax(gaps))
            keep.add(middle)
            spans += [(first, middle), (middle, last)]
    if len(keep) == 2:
        keep.add(int(np.argmax(_segment_distance(ring, ring[0], ring[far]))))
    return ring[sorted(keep)]


def _segment_distance(points: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """The distance (P,) from points (P, 2) to the segment between two distinct points (2,)."""
    direction = end - start
    offset = points - start
    share = np.clip(offset @ direction / (direction @ direction), 0, 1)
    return np.hypot(*(offset - share[:, None] * direction).T)


def _contains(ring: np.ndarray, point: np.ndarray) -> bool:
    """Whether a ring (P, 2) contains a point (2,) that is not on it."""
    (x, y), end = ring.T, np.roll(ring, -1, axis=0)
    crosses = (y <= point[1]) != (end[:, 1] <= point[1])
    slope = (end[crosses, 0] - x[crosses]) / (end[crosses, 1] - y[crosses])
    return bool(np.count_nonzero(x[crosses] + slope * (point[1] - y[crosses]) > point[0]) % 2)


def _join_hole(ring: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Joins the ring of a region and that of a hole in it where they are nearest, by a slit of no width."""
    gaps = np.linalg.norm(ring[:, None] - hole, axis=2)
    i, j = np.unravel_index(np.argmin(gaps), gaps.shape)
    return np.concatenate([ring[: i + 1], np.roll(hole, -j, axis=0), hole[j : j + 1], ring[i:]])


def mask_polygons(mask: np.ndarray, tolerance: float) -> list[np.ndarray]:
    """Polygons (P, 2), one for each connected part of a mask (H, W) bool, such as an annotator might draw.

    Parts and holes under MIN_FRAGMENT pixels are left out, except for the largest part.
    """
    rings = sorted(trace_outlines(mask), key=signed_area, reverse=True)
    parts = [ring for n, ring in enumerate(rings) if signed_area(ring) >= (MIN_FRAGMENT if n else 0)]
    polygons = [simplify(part, tolerance) for part in parts]
    for hole in rings:
        if signed_area(hole) > -MIN_FRAGMENT:
            continue
        # A pixel centre of the part itself, on the right of the hole's first edge.
        step = np.sign(hole[1] - hole[0])
        beside = hole[0] + (step + np.array([-step[1], step[0]])) / 2
        # Parts are sorted from large to small; the pixel belongs to the smallest part around it.
        owner = max((n for n, part in enumerate(parts) if _contains(part, beside)), default=None)
        if owner is not None:
            polygons[owner] = _join_hole(polygons[owner], simplify(hole, tolerance))
    return polygons
