"""The bootstrap over images: how far a metric would move on another sample of images (Efron and Tibshirani, 1993)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

CONFIDENCE = 0.95
#: A metric's values on the resamples, (resamples,) in percent, have the metric's name with this ending.
RESAMPLES = "_resamples"


def resample_counts(images: int, resamples: int, seed: int) -> np.ndarray:
    """How often each image is drawn in each resample of as many images, with replacement.

    A metric that is a function of sums over images is then a function of ``counts @ per_image``.

    Args:
        images: how many images there are, at least 1.
        resamples: how many resamples to draw, 0 or more.
        seed: equal arguments give equal counts.

    Returns:
        Counts (resamples, images), int64; every row sums to ``images``.

    Raises:
        ValueError: without any image, or for a negative number of resamples.
    """
    if images < 1 or resamples < 0:
        raise ValueError(f"cannot draw {resamples} resamples of {images} images")
    counts = np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), size=resamples)
    return counts.astype(np.int64, copy=False)


def interval(values: np.ndarray) -> tuple[float, float]:
    """The 95% percentile interval of a statistic's values on the resamples.

    Args:
        values: (resamples,), NaN where a resample has nothing to compute the statistic from; those are left out.

    Returns:
        Lower and upper end, interpolated linearly between values; (nan, nan) if no value is left.
    """
    values = np.asarray(values, dtype=np.float64)
    values = values[~np.isnan(values)]
    if not values.size:
        return (float("nan"), float("nan"))
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return (float(low), float(high))


def with_intervals(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Scores with ``<name>_interval``, a list of the lower and upper end, in place of each ``<name>_resamples``.

    Where the values on the resamples are by class, the intervals are too.
    """
    replaced: dict[str, Any] = {}
    for name, value in scores.items():
        if name.endswith(RESAMPLES):
            replaced[f"{name.removesuffix(RESAMPLES)}_interval"] = _interval(value)
        else:
            replaced[name] = value
    return replaced


def _interval(values: Any) -> Any:
    if isinstance(values, Mapping):
        return {name: _interval(own) for name, own in values.items()}
    return list(interval(values))
