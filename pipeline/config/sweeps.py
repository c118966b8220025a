"""The schema of ``configs/sweeps``: settings that are varied, and how the report shows the results."""

from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import Discriminator, Field, NonNegativeInt, PositiveInt, RootModel, Tag, model_validator

from pipeline.config.reader import Name, Strict, load

Value = int | float
Point = dict[str, Value]  # a value for each parameter of a space


class Parameter(NamedTuple):
    """How a parameter is shown, and whether its values are whole numbers."""

    symbol: str
    label: str
    is_count: bool


#: The parameters that can be swept, by their names in a space and in results.
PARAMETERS = {
    "num_points": Parameter("N", "N, points", True),
    "oversample_ratio": Parameter("k", "k, oversampling", False),
    "importance_sample_ratio": Parameter("β", "β, share of important points", False),
    "point_layers": Parameter("layers", "hidden layers of the point head", True),
    "point_channels": Parameter("channels", "channels of the point head", True),
    "steps": Parameter("steps", "subdivision steps", True),
}


class Range(Strict):
    """All values between two; whole numbers for a parameter that is a count."""

    low: float
    high: float
    log: bool = Field(False, description="draw from the logarithm, so that each order of magnitude is equally likely")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low is {self.low:g}, expected less than high, which is {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"low is {self.low:g}, which has no logarithm; expected more than 0")
        return self


def _kind_of_values(value: Any) -> Literal["choices", "range"] | None:
    if isinstance(value, list):
        return "choices"
    return "range" if isinstance(value, dict | Range) else None


Choices = Annotated[list[Value], Field(min_length=1)]
Values = Annotated[
    Annotated[Choices, Tag("choices")] | Annotated[Range, Tag("range")],
    Discriminator(_kind_of_values),
]


class Space(Strict):
    """The values to try for each parameter of training: a list or a range."""

    num_points: Values | None = Field(None, description="N, training points of a region")
    oversample_ratio: Values | None = Field(None, description="k, candidates per point")
    importance_sample_ratio: Values | None = Field(None, description="beta, share of points that are most uncertain")
    point_layers: Values | None = Field(None, description="hidden layers of the point head")
    point_channels: Values | None = Field(None, description="channels of each hidden layer")

    @property
    def given(self) -> dict[str, list[Value] | Range]:
        """The parameters that are swept."""
        found = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: values for name, values in found.items() if values is not None}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.given:
            raise ValueError(f"no parameter; expected some of {', '.join(type(self).model_fields)}")
        for name, values in self.given.items():
            ends = values if isinstance(values, list) else [values.low, values.high]
            if len(set(ends)) != len(ends):
                raise ValueError(f"{name} has a value twice")
            if PARAMETERS[name].is_count and any(end != int(end) for end in ends):
                raise ValueError(f"{name} is a count; expected whole numbers")
        return self


class GridSearch(Strict):
    """Every combination of the choices."""

    method: Literal["grid"]


class RandomSearch(Strict):
    """Independent draws."""

    method: Literal["random"]
    trials: PositiveInt
    seed: NonNegativeInt = 0


class OptunaSearch(Strict):
    """Optuna's tree-structured Parzen estimator, which learns from the trials that are done."""

    method: Literal["optuna"]
    trials: PositiveInt
    seed: NonNegativeInt = 0


Search = Annotated[GridSearch | RandomSearch | OptunaSearch, Field(discriminator="method")]


class EarlyStopping(Strict):
    """ASHA: at each rung, only the best 1 / ``reduction`` of the trials that reached it go on."""

    grace: PositiveInt = Field(description="updates of the first rung; each next one has `reduction` times as many")
    reduction: int = Field(3, ge=2)


class ShownSweep(Strict):
    """How the report shows a sweep. A change to it does not run the sweep again."""

    title: str
    cost: Literal["seconds", "multiply_adds"] = Field(
        "seconds", description="measured per update or image, or counted for one region"
    )
    heat_map: Annotated[list[str], Field(min_length=2, max_length=2)] | None = Field(
        None, description="the parameters of its rows and columns; null for none"
    )


class TrainingSweep(ShownSweep):
    """A sweep whose trials are trainings."""

    kind: Literal["training"]
    experiment: Name = Field(description="the experiment that is varied")
    starts_from: str | None = Field(
        None, description="a run whose weights trials start from, except the point head's; null for none"
    )
    schedule: Name | None = Field(None, description="of each trial; null for the experiment's own")
    seed: NonNegativeInt = 0
    space: Space
    search: Search
    early_stopping: EarlyStopping | None = None
    evaluation: str = Field(description="the evaluation setting of the experiment that trials are judged by")
    metric: str = "AP"
    val_images: PositiveInt | None = Field(None, description="judge by this many COCO val images; null for all")

    @model_validator(mode="after")
    def _check(self) -> Self:
        given = self.space.given
        if isinstance(self.search, GridSearch) and (ranges := [n for n, v in given.items() if isinstance(v, Range)]):
            raise ValueError(f"space.{ranges[0]} is a range, which has no grid; list its values or search otherwise")
        for name in self.heat_map or ():
            if not isinstance(given.get(name), list):
                raise ValueError(f"heat_map: {name} has no list of values in space")
        return self


class SubdivisionSweep(ShownSweep):
    """A sweep over the ways to render masks of one trained run."""

    kind: Literal["subdivision"]
    run: str = Field(description="a run of selection.yaml")
    steps: Annotated[list[PositiveInt], Field(min_length=1)] = Field(description="subdivision steps, from 7x7")
    num_points: Annotated[list[PositiveInt], Field(min_length=1)] = Field(description="N, the most points of a step")
    metric: str = "AP"
    timed_images: PositiveInt = Field(16, description="val images that rendering is timed on")

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in self.heat_map or ():
            if name not in ("steps", "num_points"):
                raise ValueError(f"heat_map: {name!r} is neither steps nor num_points")
        return self


SweepConfig = Annotated[TrainingSweep | SubdivisionSweep, Field(discriminator="kind")]


class SweepFile(RootModel[SweepConfig]):
    """One file of ``configs/sweeps``."""


class ShownSweeps(RootModel[dict[str, ShownSweep]]):
    """How the report shows the selected sweeps, by name."""


def load_sweep(path: Path) -> TrainingSweep | SubdivisionSweep:
    """Reads a sweep's file, see :func:`pipeline.config.reader.load`."""
    return load(SweepFile, path).root
