"""The schema of ``configs/sweeps``."""

from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import (
    Discriminator,
    Field,
    NonNegativeInt,
    PositiveInt,
    RootModel,
    Tag,
    model_validator,
)

from pipeline.config.reader import Name, Strict, load

Value = int | float
Point = dict[str, Value]  # a value for each parameter of a space


class Parameter(NamedTuple):
    """How a parameter is shown, and whether its values are counts."""

    symbol: str
    label: str
    is_count: bool


#: Every parameter that can be swept, by its name in a space or in the results.
PARAMETERS = {
    "num_points": Parameter("N", "N, points", True),
    "oversample_ratio": Parameter("k", "k, oversampling", False),
    "importance_sample_ratio": Parameter("β", "β, share of important points", False),
    "point_layers": Parameter("layers", "hidden layers of the point head", True),
    "point_channels": Parameter("channels", "channels of the point head", True),
    "steps": Parameter("steps", "subdivision steps", True),
}


class Range(Strict):
    """All values from one to another; those of a count are whole."""

    low: float
    high: float
    log: bool = Field(False, description="whether small values are to be as likely as large ones")

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
    """What is tried for each parameter of training: a list of values or a range of them."""

    num_points: Values | None = Field(None, description="N, training points of a region")
    oversample_ratio: Values | None = Field(None, description="k, candidates per point")
    importance_sample_ratio: Values | None = Field(None, description="beta, share of points that are most uncertain")
    point_layers: Values | None = Field(None, description="hidden layers of the point head")
    point_channels: Values | None = Field(None, description="channels of each of them")

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
    """ASHA: at each rung, all but the best 1 / ``reduction`` of the trials that have come there are stopped."""

    grace: PositiveInt = Field(description="updates of the first rung; each further one has `reduction` times as many")
    reduction: int = Field(3, ge=2)


class ShownSweep(Strict):
    """How the report shows a sweep; nothing runs again for it."""

    title: str
    cost: Literal["seconds", "multiply_adds"] = Field(
        "seconds", description="measured per update or image, or counted for one region"
    )
    heat_map: Annotated[list[str], Field(min_length=2, max_length=2)] | None = Field(
        None, description="the parameters of its rows and columns"
    )

    def shown(self) -> "ShownSweep":
        """This part alone."""
        return ShownSweep(title=self.title, cost=self.cost, heat_map=self.heat_map)


class TrainingSweep(ShownSweep):
    """Trials that train."""

    kind: Literal["training"]
    experiment: Name = Field(description="what is varied")
    starts_from: str | None = Field(
        None, description="a run whose weights trials start from, all but the point head's; null to train from nothing"
    )
    schedule: Name | None = Field(None, description="of each trial; by default the experiment's own")
    seed: NonNegativeInt = 0
    space: Space
    search: Search
    early_stopping: EarlyStopping | None = None
    evaluation: str = Field(description="the evaluation of the experiment that a trial is judged by")
    metric: str = "AP"
    val_images: PositiveInt | None = Field(None, description="judge by so many images of a COCO dataset; null for all")

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
    """Ways to render what one run has learned. Nothing is trained."""

    kind: Literal["subdivision"]
    run: str = Field(description="a run of params.yaml")
    steps: Annotated[list[PositiveInt], Field(min_length=1)] = Field(description="subdivision steps from 7x7")
    num_points: Annotated[list[PositiveInt], Field(min_length=1)] = Field(description="N, the most points of a step")
    metric: str = "AP"
    timed_images: PositiveInt = Field(16, description="how many images rendering is timed on")

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
    """The sweeps that are selected, as the report shows them."""


def load_sweep(path: Path) -> TrainingSweep | SubdivisionSweep:
    """Reads a sweep's file.

    Raises:
        ConfigError: naming the file and every key that is wrong.
    """
    return load(SweepFile, path).root
