"""The best and the worst images of a run."""

import math

import numpy as np
import pytest

from pipeline.report.figures.ranked_images import instance_quality, semantic_quality, worst_and_best


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
    assert worst_and_best({"a": math.nan, "b": 0.3}) == (["b"], [])


def test_quality_of_labels() -> None:
    truth = np.array([[0, 0, 1, 1], [2, 2, 2, 2]])  # 2 is ignored
    assert semantic_quality(truth, np.array([[0, 0, 1, 1], [0, 1, 0, 1]]), 2) == 1.0
    # Half of the first class is taken for the second: IoUs of 1/2 and 2/3.
    assert semantic_quality(truth, np.array([[0, 1, 1, 1], [0, 0, 0, 0]]), 2) == pytest.approx((1 / 2 + 2 / 3) / 2)
    # An ignored id that is predicted is a miss.
    assert semantic_quality(truth, np.array([[0, 2, 1, 1], [0, 0, 0, 0]]), 2) == pytest.approx((1 / 2 + 1) / 2)


def test_no_image_is_among_the_worst_and_the_best() -> None:
    worst, best = worst_and_best({f"{number}.png": number / 10 for number in range(5)})
    assert (worst, best) == (["0.png", "1.png"], ["4.png", "3.png"])
