"""Which objects are shown."""

from pipeline.report.figures.shown_objects import LocatedObject, choose_objects


def located(image_id: int, score: float, area: float, category_id: int = 1) -> LocatedObject:
    return LocatedObject(image_id, 0, category_id, score, area)


def images(objects: list[LocatedObject], count: int) -> list[int]:
    return [found.image_id for found in choose_objects(objects, count)]


def test_small_objects_are_left_out() -> None:
    # The median area is 30.
    assert images([located(1, 0.9, 10), located(2, 0.5, 30), located(3, 0.7, 50)], 3) == [3, 2]


def test_categories_take_turns() -> None:
    objects = [located(1, 0.9, 10), located(2, 0.8, 10), located(3, 0.7, 10, 2), located(4, 0.6, 10, 3)]
    assert images(objects, 3) == [1, 3, 4]
    assert images(objects, 4) == [1, 3, 4, 2]


def test_an_image_is_shown_once() -> None:
    objects = [located(1, 0.9, 10), located(1, 0.8, 10, 2), located(2, 0.7, 10)]
    assert images(objects, 3) == [1, 2]


def test_the_order_of_the_detections_does_not_matter() -> None:
    objects = [located(i, 0.5, 10, i % 2) for i in range(5)]
    assert images(objects, 3) == images(objects[::-1], 3) == [0, 1, 2]


def test_nothing_to_show() -> None:
    assert images([], 3) == []
