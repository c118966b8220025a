import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from masks import dilate, polygon_mask

from pipeline.synthetic.drawing import coverage, signed_area
from pipeline.synthetic.outlines import mask_polygons, simplify, trace_outlines


def any_mask(max_side: int = 12) -> st.SearchStrategy[np.ndarray]:
    sides = st.integers(1, max_side)
    return st.tuples(sides, sides).flatmap(
        lambda shape: st.lists(st.booleans(), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]).map(
            lambda bits: np.array(bits).reshape(shape)
        )
    )


@given(any_mask())
def test_traced_outlines_enclose_exactly_the_mask(mask):
    rings = trace_outlines(mask)
    rasterised = np.zeros_like(mask)
    for ring in rings:
        rasterised ^= polygon_mask([ring], *mask.shape)
    np.testing.assert_array_equal(rasterised, mask)
    assert sum(signed_area(ring) for ring in rings) == mask.sum()
    if rings:
        np.testing.assert_array_equal(coverage(rings, *mask.shape), mask)


@given(any_mask())
def test_outlines_are_8_connected_parts_without_needless_points(mask):
    rings = trace_outlines(mask)
    parts, left = 0, mask.copy()
    while left.any():
        part = np.zeros_like(mask)
        part[np.unravel_index(np.argmax(left), mask.shape)] = True
        while (grown := dilate(part) & mask).sum() > part.sum():
            part = grown
        left &= ~part
        parts += 1
    assert sum(signed_area(ring) > 0 for ring in rings) == parts
    for ring in rings:
        step, following = (
            np.roll(ring, -1, axis=0) - ring,
            np.roll(ring, -2, axis=0) - np.roll(ring, -1, axis=0),
        )
        assert ((step * following).sum(axis=1) == 0).all()  # right-angled turns only


def test_nested_parts_keep_their_own_holes():
    mask = np.ones((40, 40), dtype=bool)
    mask[5:35, 5:35] = False
    mask[10:30, 10:30] = True
    mask[15:25, 15:25] = False
    polygons = mask_polygons(mask, 0.5)
    assert len(polygons) == 2
    np.testing.assert_array_equal(polygon_mask(polygons, 40, 40), mask)


def test_fragments_and_specks_are_left_out():
    mask = np.zeros((40, 40), dtype=bool)
    mask[5:25, 5:25] = True
    mask[10:12, 10:13] = False
    mask[30:33, 30:33] = True
    (polygon,) = mask_polygons(mask, 1.0)
    np.testing.assert_array_equal(polygon, [[5, 5], [25, 5], [25, 25], [5, 25]])


def test_simplified_points_stay_within_the_tolerance():
    angle = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    circle = 50 + 40 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    for tolerance in (0.2, 1.0, 3.0):
        points = simplify(circle, tolerance)
        # The sagitta of an arc is the gap between it and its chord.
        chords = np.linalg.norm(points - np.roll(points, 1, axis=0), axis=1)
        assert (40 - np.sqrt(40**2 - (chords / 2) ** 2)).max() <= tolerance
        assert len(points) < 60 / np.sqrt(tolerance)
    assert len(simplify(circle, 1000.0)) == 3
