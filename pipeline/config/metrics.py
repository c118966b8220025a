"""The schema of ``configs/metrics.yaml``: settings of metrics that all evaluations share."""

from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveInt

from pipeline.config.reader import Strict


class MetricsConfig(Strict):
    """Settings of metrics."""

    trimap_widths: Annotated[list[PositiveInt], Field(min_length=1)] = Field(description="of trimap mIoU, in pixels")
    resamples: NonNegativeInt = Field(
        description="bootstrap resamples of the val images, on which the report's intervals are computed; 0 for none"
    )
