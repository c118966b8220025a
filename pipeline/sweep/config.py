"""The schema of ``configs/sweeps``, and sweeps resolved into all that they depend on."""

from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import Discriminator, Field, NonNegativeInt, PositiveInt, RootModel, Tag, ValidationError, model_validator

from pipeline.config import (
    CocoDataset,
    ConfigError,
    EvaluationSetting,
    ExperimentConfig,
    InstanceModelConfig,
    Name,
    Params,
    PointHeadConfig,
    Project,
    RenderingConfig,
    RunConfig,
    RunParams,
    SamplingConfig,
    Strict,
    SweepParams,
    load,
)
from pointrend.specs import COARSE_SIDE

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
    "oversample": Parameter("k", "k, oversampling", False),
    "importance": Parameter("β", "β, share of important points", False),
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
    oversample: Values | None = Field(None, description="k")
    importance: Values | None = Field(None, description="beta")
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


class TrainingTask(Strict):
    """Everything that a training sweep depends on.

    Of the experiment there is what its best setting's needs: other evaluations and seeds make no sweep run again.
    """

    kind: Literal["training"]
    name: Name
    base: RunConfig
    experiment: ExperimentConfig
    starts_from: RunConfig | None
    space: Space
    search: Search
    early_stopping: EarlyStopping | None
    metric: str
    val_images: int | None

    @property
    def dataset(self) -> str:
        return self.base.dataset

    @property
    def rungs(self) -> list[int]:
        """The updates after which a trial is judged: ASHA's milestones, and the last."""
        updates, rungs = self.base.schedule.updates, []
        if self.early_stopping is not None:
            milestone = self.early_stopping.grace
            while milestone < updates:
                rungs.append(milestone)
                milestone *= self.early_stopping.reduction
        return [*rungs, updates]

    def trial(self, point: Point) -> RunConfig:
        """The training of a point."""
        return self.base.model_copy(update=varied(point, self.base.sampling, self.base.point_head))

    def best(self, point: Point) -> ExperimentConfig:
        """The experiment of a point."""
        changes = varied(point, self.experiment.sampling, self.experiment.point_head)
        return self.experiment.model_copy(update=changes)

    @property
    def setting(self) -> EvaluationSetting:
        """How a trial is evaluated."""
        return next(iter(self.experiment.evaluations.values()))


class SubdivisionTask(Strict):
    """Everything that a subdivision sweep depends on."""

    kind: Literal["subdivision"]
    name: Name
    run: RunConfig
    experiment: ExperimentConfig
    steps: list[int]
    num_points: list[int]
    metric: str
    timed_images: int

    @property
    def dataset(self) -> str:
        return self.run.dataset

    @property
    def points(self) -> list[Point]:
        """All combinations."""
        return [{"steps": steps, "num_points": n} for steps, n in product(self.steps, self.num_points)]

    def best(self, point: Point) -> ExperimentConfig:
        """The experiment, to be evaluated by a point."""
        return self.experiment.model_copy(update={"evaluations": {"best": rendering(point)}})


class SweepTask(RootModel[Annotated[TrainingTask | SubdivisionTask, Field(discriminator="kind")]]):
    """A sweep as its stage reads it."""


def varied(point: Point, sampling: SamplingConfig | None, point_head: PointHeadConfig | None) -> dict[str, Any]:
    """The settings of a run or experiment that a point changes, validated.

    Raises:
        ValidationError: for a value outside its domain.
    """
    changes: dict[str, Any] = {}
    if drawn := {k: v for k, v in point.items() if k in ("num_points", "oversample", "importance")}:
        changes["sampling"] = SamplingConfig.model_validate((sampling.model_dump() if sampling else {}) | drawn)
    if sized := {k.removeprefix("point_"): v for k, v in point.items() if k.startswith("point_")}:
        changes["point_head"] = PointHeadConfig.model_validate((point_head.model_dump() if point_head else {}) | sized)
    return changes


def rendering(point: Point) -> RenderingConfig:
    """The evaluation setting of a point of a subdivision sweep."""
    return RenderingConfig(resolution=COARSE_SIDE * 2 ** int(point["steps"]), num_points=int(point["num_points"]))


def load_sweep(path: Path) -> TrainingSweep | SubdivisionSweep:
    """Reads a sweep's file.

    Raises:
        ConfigError: naming the file and every key that is wrong.
    """
    return load(SweepFile, path).root


def sweep_file(project: Project, scale: str, name: str) -> Path:
    return project.configs / "sweeps" / scale / f"{name}.yaml"


def resolve_sweep(
    project: Project, scale: str, path: Path, runs: dict[str, RunParams]
) -> tuple[TrainingTask | SubdivisionTask, SweepParams]:
    """A sweep with all that its file refers to, and what it reads.

    Args:
        project: the project.
        scale: of the experiments.
        path: the sweep's file.
        runs: those of ``params.yaml``.

    Raises:
        ConfigError: if the file is wrong, or does not go with what it refers to.
    """
    sweep = load_sweep(path)
    try:
        if isinstance(sweep, SubdivisionSweep):
            return _subdivision(project, scale, path.stem, sweep, runs)
        return _training(project, scale, path.stem, sweep, runs)
    except _DisagreementError as problem:
        raise ConfigError(f"{path}:\n  {problem}") from problem


class _DisagreementError(ValueError):
    """A key of a sweep that does not go with the rest, as "key: problem"."""


def _run(project: Project, scale: str, key: str, name: str, runs: dict[str, RunParams]) -> RunConfig:
    if name not in runs:
        raise _DisagreementError(
            f"{key}: no run {name!r} in params.yaml, which has {', '.join(runs) or 'none'}; add it, or delete the sweep"
        )
    return project.run(scale, name, runs[name])[0]


def _subdivision(
    project: Project, scale: str, name: str, sweep: SubdivisionSweep, runs: dict[str, RunParams]
) -> tuple[SubdivisionTask, SweepParams]:
    run = _run(project, scale, "run", sweep.run, runs)
    if not isinstance(run.model, InstanceModelConfig) or not run.model.has_point_head:
        raise _DisagreementError(f"run: {sweep.run!r} has no masks that PointRend subdivides")
    experiment = project.experiment(scale, run.experiment)
    task = SubdivisionTask(
        name=name,
        run=run,
        experiment=experiment.model_copy(
            update={
                "description": f"best of the sweep {name}",
                "seeds": [run.seed],
                "evaluations": {"best": rendering({"steps": sweep.steps[-1], "num_points": sweep.num_points[-1]})},
            }
        ),
        **sweep.model_dump(include={"kind", "steps", "num_points", "metric", "timed_images"}),
    )
    return task, SweepParams(dataset=run.dataset, starts_from=f"train/{sweep.run}")


def _training(
    project: Project, scale: str, name: str, sweep: TrainingSweep, runs: dict[str, RunParams]
) -> tuple[TrainingTask, SweepParams]:
    experiment = project.experiment(scale, sweep.experiment)
    model = project.model(experiment.model)
    if not model.has_point_head:
        raise _DisagreementError(f"experiment: {sweep.experiment!r} has no point head")
    if sweep.evaluation not in experiment.evaluations:
        raise _DisagreementError(f"evaluation: {sweep.experiment!r} has {', '.join(experiment.evaluations)}")
    if sweep.val_images is not None and not isinstance(project.dataset(experiment.dataset), CocoDataset):
        raise _DisagreementError(f"val_images: {experiment.dataset!r} is no COCO dataset; leave it out to judge by all")
    start = None
    if sweep.starts_from is not None:
        start = _run(project, scale, "starts_from", sweep.starts_from, runs)
        if (start.dataset, start.model) != (experiment.dataset, model):
            raise _DisagreementError(f"starts_from: {sweep.starts_from!r} has another dataset or model")
    schedule = project.schedule(sweep.schedule or experiment.schedule)
    if sweep.early_stopping is not None and sweep.early_stopping.grace >= schedule.updates:
        raise _DisagreementError(
            f"early_stopping.grace: {sweep.early_stopping.grace}, but trials end at {schedule.updates}"
        )
    _check_space(sweep.space, experiment)
    base = RunConfig(
        run=name,
        experiment=sweep.experiment,
        dataset=experiment.dataset,
        seed=sweep.seed,
        model=model,
        sampling=experiment.sampling,
        point_head=experiment.point_head,
        schedule=schedule,
    )
    task = TrainingTask(
        kind="training",
        name=name,
        base=base,
        experiment=experiment.model_copy(
            update={
                "description": f"best of the sweep {name}",
                "seeds": [sweep.seed],
                "evaluations": {sweep.evaluation: experiment.evaluations[sweep.evaluation]},
            }
        ),
        starts_from=start,
        space=sweep.space,
        search=sweep.search,
        early_stopping=sweep.early_stopping,
        metric=sweep.metric,
        val_images=sweep.val_images,
    )
    starts_from = f"train/{sweep.starts_from}" if sweep.starts_from else f"data/{experiment.dataset}"
    return task, SweepParams(dataset=experiment.dataset, starts_from=starts_from)


def _check_space(space: Space, experiment: ExperimentConfig) -> None:
    """Tries every value, or the ends of its range, by itself: their domains do not depend on each other."""
    for name, values in space.given.items():
        ends = values if isinstance(values, list) else [values.low, values.high]
        for value in ends:
            point = {name: int(value) if PARAMETERS[name].is_count else value}
            try:
                varied(point, experiment.sampling, experiment.point_head)
            except ValidationError as error:
                message = error.errors()[0]["msg"].removeprefix("Value error, ")
                raise _DisagreementError(f"space.{name}: {value:g}: {message}") from error


def select_sweeps(project: Project, scale: str, runs: dict[str, RunParams]) -> dict[str, SweepParams]:
    """All sweeps of a scale, as ``params.yaml`` has them.

    Raises:
        ConfigError: if one of their files is wrong.
    """
    files = sorted((project.configs / "sweeps" / scale).glob("*.yaml"))
    return {path.stem: resolve_sweep(project, scale, path, runs)[1] for path in files}


def resolve_selected(
    project: Project, params: Params, path: Path, selected: SweepParams
) -> TrainingTask | SubdivisionTask:
    """A sweep of ``params.yaml``.

    Raises:
        ConfigError: if its file is wrong, or ``params.yaml`` says otherwise.
    """
    task, read = resolve_sweep(project, params.scale, path, params.runs)
    if read != selected:
        raise ConfigError(
            f"{project.root / 'params.yaml'}:\n  sweeps.{path.stem}: its file has dataset {read.dataset!r} and starts "
            f"from {read.starts_from!r}; `pointrend select {params.scale}` writes it anew"
        )
    return task
