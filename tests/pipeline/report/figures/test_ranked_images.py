"""The best, median and worst images of a model, and where two differ most."""

import math

import numpy as np
import pytest

from pipeline.report.figures.ranked_images import (
    SHOWN,
    instance_quality,
    most_different,
    semantic_quality,
    worst_median_best,
)


@pytest.mark.parametrize(
    ("overlaps", "expected"),
    [
        ([[1.0, 0.0], [0.0, 1.0]], 1.0),
        ([[0.8, 0.0], [0.0, 0.0]], 0.4),
        # The second prediction of an object is a mistake, and so is one that overlaps too little.
        ([[0.8], [0.9]], 0.6),
        ([[0.5]], 0.0),
    ],
)
def test_quality_of_instances(overlaps: list[list[float]], expected: float) -> None:
    assert instance_quality(np.array(overlaps)) == pytest.approx(expected)


@pytest.mark.parametrize("shape", [(0, 3), (2, 0)])
def test_missed_and_invented_objects_have_no_quality(shape: tuple[int, int]) -> None:
    assert instance_quality(np.zeros(shape)) == 0.0


def test_an_image_without_either_is_not_ranked() -> None:
    assert math.isnan(instance_quality(np.zeros((0, 0))))
    assert worst_median_best({"a": math.nan, "b": 0.3}) == (["b"], [], [])


def test_quality_of_labels() -> None:
    truth = np.array([[0, 0, 1, 1], [2, 2, 2, 2]])  # 2 is ignored
    assert semantic_quality(truth, np.array([[0, 0, 1, 1], [0, 1, 0, 1]]), 2) == 1.0
    # Half of the first class is taken for the second: IoUs of 1/2 and 2/3.
    assert semantic_quality(truth, np.array([[0, 1, 1, 1], [0, 0, 0, 0]]), 2) == pytest.approx((1 / 2 + 2 / 3) / 2)
    # An ignored id that is predicted is a miss.
    assert semantic_quality(truth, np.array([[0, 2, 1, 1], [0, 0, 0, 0]]), 2) == pytest.approx((1 / 2 + 1) / 2)


@pytest.mark.parametrize("images", range(1, 50))
def test_no_image_is_among_two_of_worst_median_and_best(images: int) -> None:
    qualities = {f"{number}.png": number / images for number in range(images)}
    worst, median, best = worst_median_best(qualities)
    shown = [*worst, *median, *best]
    assert len(set(shown)) == len(shown) <= 3 * SHOWN
    assert worst == list(qualities)[: len(worst)]
    assert best == list(qualities)[::-1][: len(best)]
    assert images < 3 or len(worst) == len(median) == len(best) == min(SHOWN, images // 3)


def test_images_about_the_median_lie_in_the_middle() -> None:
    worst, median, best = worst_median_best({f"{number}": number / 10 for number in range(9)})
    assert (worst, median, best) == (["0", "1", "2"], ["3", "4", "5"], ["8", "7", "6"])


def test_the_largest_differences_come_first() -> None:
    first = {"a": 0.5, "b": 0.9, "c": 0.1, "equal": 0.3, "undefined": math.nan}
    second = {"a": 0.6, "b": 0.4, "c": 0.3, "equal": 0.3, "undefined": 0.2}
    assert most_different(first, second) == ["b", "c", "a"]
