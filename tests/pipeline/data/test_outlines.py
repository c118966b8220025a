"""How coarse the outlines of annotations are."""

import math

import pytest

from pipeline.data.outlines import Outlines, edge_lengths, outlines

SQUARE = [0, 0, 20, 0, 20, 20, 0, 20]
RLE = {"size": [30, 40], "counts": "0"}


def test_edges_of_a_closed_polygon() -> None:
    assert edge_lengths(SQUARE) == [20, 20, 20, 20]
    assert edge_lengths([0, 0, 3, 0, 3, 4]) == [3, 4, 5]


def test_points_within_a_straight_edge_do_not_split_it() -> None:
    assert sorted(edge_lengths([0, 0, 5, 0, 10, 0, 20, 0, 20, 20, 0, 20])) == [20, 20, 20, 20]


def test_a_square_is_all_straight_and_a_fine_circle_is_not() -> None:
    circle = [
        value
        for step in range(60)
        for value in (10 * math.cos(step / 60 * math.tau), 10 * math.sin(step / 60 * math.tau))
    ]
    assert outlines([[SQUARE]]) == Outlines(objects=1, others=0, points=4, straight=1.0)
    fine = outlines([[circle]])
    assert fine is not None
    assert (fine.points, fine.straight) == (60, 0.0)


def test_long_edges_count_by_their_length() -> None:
    found = outlines([[[0, 0, 30, 0, 30, 5, 0, 5]]])  # 60 of 70 pixels
    assert found is not None
    assert found.straight == pytest.approx(6 / 7)


def test_the_points_of_an_object_are_those_of_all_its_polygons() -> None:
    found = outlines([[SQUARE, SQUARE], [SQUARE], [SQUARE]])
    assert found is not None
    assert (found.objects, found.points) == (3, 4)


def test_masks_are_counted_apart() -> None:
    assert outlines([RLE]) is None
    found = outlines([[SQUARE], RLE, RLE])
    assert found is not None
    assert (found.objects, found.others) == (1, 2)
