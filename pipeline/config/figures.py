"""The schema of ``configs/figures.yaml``: what the head of the report's page and the figures of masks show."""

from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveInt

from pipeline.config.models import SamplingConfig
from pipeline.config.reader import Name, Strict
from pipeline.config.tables import TableConfig


class HeadlineConfig(Strict):
    """What the page shows first: some numbers of a table, and masks of some of its rows side by side."""

    table: Name = Field(description="the name of a table in configs/tables")
    columns: Annotated[list[Name], Field(min_length=1)] = Field(description="keys of its columns of numbers")
    pictured: Annotated[list[NonNegativeInt], Field(min_length=2)] = Field(
        description="rows, from 0, whose masks are shown: those of the run and setting of the first column"
    )
    objects: PositiveInt = Field(description="the most objects that are shown, each of a different category")

    def problem(self, table: TableConfig) -> str | None:
        """What the table lacks, as "key: problem"; None if it has everything."""
        known = [column.key for column in table.columns]
        if unknown := [key for key in self.columns if key not in known]:
            return f"columns: {self.table} has no column {unknown[0]!r}; it has {', '.join(known)}"
        for number in self.pictured:
            if number >= len(table.rows):
                return f"pictured: {self.table} has no row {number}; its rows are 0 to {len(table.rows) - 1}"
            if self.columns[0] not in table.rows[number].measured:
                return f"pictured: no run measures {self.columns[0]!r} in row {number} of {self.table}"
        return None


class SubdivisionFigure(Strict):
    """The subdivision steps that a figure shows one by one (Figures 1 and 4)."""

    steps: PositiveInt
    num_points: PositiveInt = Field(description="N, the most points per step")


class FiguresConfig(Strict):
    """What the head of the page and the figures of PointRend's masks show."""

    headline: HeadlineConfig
    subdivision: SubdivisionFigure = Field(description="cell by cell (Figure 4)")
    rendering: SubdivisionFigure = Field(description="over the picture, up to the finest mask (Figure 1)")
    training_points: Annotated[dict[str, SamplingConfig], Field(min_length=1)] = Field(
        description="training points by caption (Figure 5)"
    )
    resolutions: Annotated[list[PositiveInt], Field(min_length=1)] = Field(
        description="of the masks that are shown side by side (Figures 6 and 7)"
    )
