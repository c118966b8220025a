"""The camera by hand, and painting without seams."""

import numpy as np
import pytest

from pipeline.synthetic.view import Camera, View, box, rgb, stripes

CAMERA = Camera(focal=100, centre=20, horizon=10, height=2)
WHITE = rgb(250, 250, 250)


@pytest.fixture
def view() -> View:
    return View.empty(CAMERA, np.random.default_rng(0), rgb(128, 128, 128), 24, 40)


def test_projection_by_hand() -> None:
    # 10 m away a metre is 10 pixels; the eyes are 2 m above the ground.
    points = np.array([[0, 2, 10], [1, 2, 10], [0, 0, 10], [0, 0, 20], [-1, 3, 5]])
    np.testing.assert_allclose(CAMERA.project(points), [[20, 10], [30, 10], [20, 30], [20, 20], [0, -10]])
    np.testing.assert_allclose(CAMERA.upright(box(0, 0, 1, 2), 0, 10), [[20, 30], [30, 30], [30, 10], [20, 10]])
    np.testing.assert_allclose(CAMERA.ground([-1, 1], [20, 20]), [[15, 20], [25, 20]])


def test_parts_of_an_object_meet_without_a_seam(view: View) -> None:
    halves = [([box(4, 4, 9.5, 8)], WHITE), ([box(9.5, 4, 14, 8)], WHITE)]
    view.fill_layers(halves, 7)
    np.testing.assert_allclose(view.image[4:8, 4:14], 250)
    assert (view.ids == 7).sum() == 40


def test_an_edge_is_as_much_as_it_covers_and_belongs_to_who_has_half(view: View) -> None:
    view.fill([box(4.25, 4, 10.75, 8)], WHITE, 7)
    np.testing.assert_allclose(view.image[5, 3:12, 0], [0, 187.5, *[250] * 5, 187.5, 0])
    view.fill([box(20.75, 4, 30.25, 8)], WHITE, 8)
    assert np.flatnonzero(view.ids[5] == 7).tolist() == [*range(4, 11)]
    assert np.flatnonzero(view.ids[5] == 8).tolist() == [*range(21, 30)]


def test_a_detail_changes_no_id_and_what_is_outside_nothing(view: View) -> None:
    view.fill([box(0, 0, 10, 10)], WHITE, 7)
    view.fill([box(2, 2, 4, 4)], rgb(9, 9, 9), None)
    view.fill([box(90, 2, 99, 4)], WHITE, 9)
    assert (view.ids[:10, :10] == 7).all()
    np.testing.assert_allclose(view.image[2:4, 2:4], 9)
    assert 9 not in view.ids


def test_objects_are_numbered_by_class_and_specks_become_a_group(view: View) -> None:
    first, second, car = view.new_object(24), view.new_object(24), view.new_object(26)
    assert (first, second, car) == (24000, 24001, 26000)
    view.fill([box(0, 0, 5, 4)], WHITE, first)
    view.fill([box(8, 0, 10, 4)], WHITE, second)
    view.fill([box(12, 0, 15, 4)], WHITE, car)
    image, ids = view.finished(smallest=12)
    assert image.dtype == np.uint8
    assert ids.dtype == np.uint16
    assert dict(zip(*np.unique(ids, return_counts=True), strict=True)) == {0: 24 * 40 - 40, 24: 8, 24000: 20, 26000: 12}


@pytest.mark.parametrize("blur", [0.01, 0.3, 2.0, 50.0])
def test_stripes_cover_their_share_at_any_distance(blur: float) -> None:
    along = np.linspace(0, 12, 4000, endpoint=False)
    found = stripes(along, 3.0, 0.4, blur)
    assert 0 <= found.min() <= found.max() <= 1
    assert found.mean() == pytest.approx(0.4, abs=0.06)
