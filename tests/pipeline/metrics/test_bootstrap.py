import math

import numpy as np
import pytest

from pipeline.metrics.bootstrap import interval, resample_counts


def test_every_resample_has_as_many_images() -> None:
    counts = resample_counts(images=7, resamples=50, seed=0)
    assert counts.shape == (50, 7)
    assert counts.dtype == np.int64
    assert (counts >= 0).all()
    assert (counts.sum(axis=1) == 7).all()


def test_equal_arguments_give_equal_bytes_and_another_seed_others() -> None:
    assert resample_counts(20, 30, 4).tobytes() == resample_counts(20, 30, 4).tobytes()
    assert resample_counts(20, 30, 4).tobytes() != resample_counts(20, 30, 5).tobytes()


def test_images_are_drawn_with_replacement_and_alike() -> None:
    counts = resample_counts(images=10, resamples=20_000, seed=1)
    # Each count is binomial(10, 1/10): mean 1, variance 0.9.
    assert counts.mean(axis=0) == pytest.approx(np.ones(10), abs=0.03)
    assert counts.var(axis=0) == pytest.approx(np.full(10, 0.9), abs=0.05)


def test_one_image_and_no_resamples() -> None:
    assert resample_counts(1, 3, 0).tolist() == [[1], [1], [1]]
    assert resample_counts(5, 0, 0).shape == (0, 5)


@pytest.mark.parametrize(("images", "resamples"), [(0, 10), (-1, 10), (5, -1)])
def test_nothing_to_draw(images: int, resamples: int) -> None:
    with pytest.raises(ValueError, match="resamples"):
        resample_counts(images, resamples, 0)


def test_interval_by_hand() -> None:
    values = np.arange(101.0)[::-1]
    assert interval(values) == pytest.approx((2.5, 97.5))
    assert interval(np.array([3.0])) == (3, 3)


def test_interval_leaves_out_what_is_not_a_number() -> None:
    assert interval(np.array([math.nan, 0.0, 10.0, math.nan])) == pytest.approx((0.25, 9.75))
    for nothing in (np.array([math.nan, math.nan]), np.array([])):
        assert all(math.isnan(end) for end in interval(nothing))


def test_the_interval_of_a_mean_is_about_its_standard_error() -> None:
    values = np.random.default_rng(0).normal(size=400)
    means = resample_counts(400, 2000, 0) @ values / 400
    low, high = interval(means)
    assert low < values.mean() < high
    assert (high - low) / 2 == pytest.approx(1.96 * values.std() / math.sqrt(400), rel=0.08)
