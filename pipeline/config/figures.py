"""The schema of ``configs/figures.yaml``: what the report's figures of PointRend's masks show."""

from typing import Annotated

from pydantic import Field, PositiveInt

from pipeline.config.models import SamplingConfig
from pipeline.config.reader import Strict


class SubdivisionFigure(Strict):
    """The subdivision steps whose cells are shown one by one (Figure 4)."""

    steps: PositiveInt
    num_points: PositiveInt = Field(description="N, the most points per step")


class FiguresConfig(Strict):
    """What the figures of PointRend's masks show."""

    subdivision: SubdivisionFigure
    training_points: Annotated[dict[str, SamplingConfig], Field(min_length=1)] = Field(
        description="training points by caption (Figure 5)"
    )
    resolutions: Annotated[list[PositiveInt], Field(min_length=1)] = Field(
        description="of the masks that are shown side by side (Figures 6 and 7)"
    )
