"""The schema of ``configs/tables``: a table of the paper as data."""

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, PositiveFloat, PositiveInt, Tag, field_validator, model_validator

from pipeline.config.reader import Name, Strict
from pointrend.specs import MODELS, InstanceSpec, list_models


class Measurement(Strict):
    """A number that runs measure: a metric of an experiment under one of its evaluation settings."""

    experiment: str
    evaluation: str
    metric: str


class Cell(Measurement):
    """A number that runs measure, and the published one."""

    paper: float | None = None


class CostCell(Strict):
    """A number counted on a model's mask head for one region with all classes, and the published one (Table 2)."""

    model: str
    resolution: PositiveInt
    num_points: PositiveInt | None = Field(None, description="N of PointRend, which must have one")
    cost: Literal["multiply_adds", "activations"]
    paper: float | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.num_points is None) == MODELS[self.model].has_pointrend:
            expected = "needs num_points" if self.num_points is None else "subdivides nothing and has no num_points"
            raise ValueError(f"model {self.model!r} {expected}")
        return self

    @field_validator("model")
    @classmethod
    def _check_model(cls, name: str) -> str:
        if not isinstance(MODELS.get(name), InstanceSpec):
            raise ValueError(f"expected one of {', '.join(list_models('instance'))}")
        return name


def _cell_kind(value: Any) -> str:
    # Neither tag is the name of a key: the tag would show up as that key in the location of errors.
    return "counted" if isinstance(value, CostCell) or (isinstance(value, dict) and "cost" in value) else "measured"


class Column(Strict):
    key: Name
    label: str
    unit: PositiveFloat = Field(1.0, description="numbers are divided by it before they are shown")


class Row(Strict):
    labels: list[str]
    cells: dict[
        str,
        Annotated[Annotated[Cell, Tag("measured")] | Annotated[CostCell, Tag("counted")], Discriminator(_cell_kind)],
    ]
    baseline: bool = Field(
        False, description="whether other rows show their gain over this one, see TableConfig.baseline_of"
    )

    @property
    def measured(self) -> dict[str, Cell]:
        """The cells that runs measure."""
        return {key: cell for key, cell in self.cells.items() if isinstance(cell, Cell)}

    @property
    def experiments(self) -> set[str]:
        """The names of the experiments of its cells."""
        return {cell.experiment for cell in self.measured.values()}


class TableConfig(Strict):
    """A table of the paper as data."""

    heading: str | None = Field(None, description="null for the table's number")
    title: str
    row_labels: list[str]
    columns: list[Column]
    rows: list[Row]
    overlays: bool = Field(False, description="whether the report shows the predictions of its rows side by side")

    @property
    def experiments(self) -> set[str]:
        """The names of the experiments of all cells."""
        return set[str]().union(*(row.experiments for row in self.rows))

    def heading_of(self, name: str) -> str:
        """The paper's name for a table, "Table 1", from its own name, "table1"."""
        return self.heading or name.replace("table", "Table ")

    def baseline_of(self, index: int) -> int:
        """The index of a row's baseline: the row itself or the nearest above, else the first below, else row 0."""
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
