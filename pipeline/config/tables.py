"""The schema of ``configs/tables``: a table of the paper as data."""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    Discriminator,
    Field,
    PositiveFloat,
    PositiveInt,
    Tag,
    field_validator,
    model_validator,
)

from pipeline.config.reader import Name, Strict
from pointrend.specs import (
    MODELS,
    InstanceSpec,
    list_models,
)


class Cell(Strict):
    """Where a table's number comes from, and the paper's own."""

    experiment: str
    evaluation: str
    metric: str
    paper: float | None = None


class CostCell(Strict):
    """A number that is counted on a model's mask head, one region with all classes, and the paper's own (Table 2)."""

    model: str
    resolution: PositiveInt
    num_points: PositiveInt | None = Field(None, description="N, of PointRend")
    cost: Literal["multiply_adds", "activations"]
    paper: float | None = None

    @field_validator("model")
    @classmethod
    def _check_model(cls, name: str) -> str:
        if not isinstance(MODELS.get(name), InstanceSpec):
            raise ValueError(f"expected one of {', '.join(list_models('instance'))}")
        return name


def _cell_kind(value: Any) -> str:
    # No tag is the name of a key: errors would be said to be of that key.
    return "counted" if isinstance(value, CostCell) or (isinstance(value, dict) and "cost" in value) else "measured"


class Column(Strict):
    key: Name
    label: str
    unit: PositiveFloat = Field(1.0, description="what its numbers are divided by")


class Row(Strict):
    labels: list[str]
    cells: dict[
        str,
        Annotated[Annotated[Cell, Tag("measured")] | Annotated[CostCell, Tag("counted")], Discriminator(_cell_kind)],
    ]
    baseline: bool = Field(False, description="whether others' gains are over this one, see TableConfig.baseline_of")

    @property
    def measured(self) -> dict[str, Cell]:
        """The cells that runs fill."""
        return {key: cell for key, cell in self.cells.items() if isinstance(cell, Cell)}


class TableConfig(Strict):
    """A table of the paper as data."""

    heading: str | None = Field(None, description="what the paper calls it, if not by its number")
    title: str
    row_labels: list[str]
    columns: list[Column]
    rows: list[Row]
    overlays: bool = Field(False, description="whether the report shows what its rows predict, side by side")

    @property
    def experiments(self) -> set[str]:
        """The names of all experiments that it has numbers of."""
        return {cell.experiment for row in self.rows for cell in row.measured.values()}

    def baseline_of(self, index: int) -> int:
        """The row that a row's gains are over: the nearest baseline above it, or else below; without any the first."""
        baselines = [number for number, row in enumerate(self.rows) if row.baseline] or [0]
        above = [number for number in baselines if number <= index]
        return above[-1] if above else baselines[0]

    @model_validator(mode="after")
    def _check(self) -> Self:
        known = {column.key for column in self.columns}
        for index, row in enumerate(self.rows):
            if len(row.labels) != len(self.row_labels):
                raise ValueError(f"rows.{index}.labels has {len(row.labels)} entries, not {len(self.row_labels)}")
            if unknown := row.cells.keys() - known:
                raise ValueError(f"rows.{index}.cells names unknown columns: {', '.join(sorted(unknown))}")
        return self
