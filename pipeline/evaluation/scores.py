"""The scores of one evaluation setting."""

from typing import Any, NamedTuple


class Scores(NamedTuple):
    """The scores of one setting, in percent.

    Attributes:
        metrics: by name; undefined ones are left out.
        details: more numbers, such as the IoU of each class.
        resamples: the main metrics on each bootstrap resample of the val images, by name; NaN where a resample has
            nothing to compute the metric from.
    """

    metrics: dict[str, float]
    details: dict[str, Any]
    resamples: dict[str, list[float]]
