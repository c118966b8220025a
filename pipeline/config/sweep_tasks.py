"""Sweeps resolved into everything that they depend on."""

from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    Field,
    RootModel,
    ValidationError,
)

from pipeline.config.datasets import CocoDataset
from pipeline.config.evaluations import EvaluationSetting, RenderingConfig
from pipeline.config.experiments import ExperimentConfig, RunConfig
from pipeline.config.models import InstanceModelConfig, PointHeadConfig, SamplingConfig
from pipeline.config.params import Params, RunParams, SweepParams
from pipeline.config.reader import ConfigError, Name, Strict
from pipeline.config.sweeps import (
    PARAMETERS,
    EarlyStopping,
    Point,
    Search,
    Space,
    SubdivisionSweep,
    TrainingSweep,
    load_sweep,
)
from pointrend.specs import (
    COARSE_SIDE,
)

if TYPE_CHECKING:
    from pipeline.config.project import Project


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
    if drawn := {k: v for k, v in point.items() if k in ("num_points", "oversample_ratio", "importance_sample_ratio")}:
        changes["sampling"] = SamplingConfig.model_validate((sampling.model_dump() if sampling else {}) | drawn)
    if sized := {k.removeprefix("point_"): v for k, v in point.items() if k.startswith("point_")}:
        changes["point_head"] = PointHeadConfig.model_validate((point_head.model_dump() if point_head else {}) | sized)
    return changes


def rendering(point: Point) -> RenderingConfig:
    """The evaluation setting of a point of a subdivision sweep."""
    return RenderingConfig(resolution=COARSE_SIDE * 2 ** int(point["steps"]), num_points=int(point["num_points"]))


def sweep_file(project: "Project", scale: str, name: str) -> Path:
    return project.configs / "sweeps" / scale / f"{name}.yaml"


def resolve_sweep(
    project: "Project", scale: str, path: Path, runs: dict[str, RunParams]
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


def _run(project: "Project", scale: str, key: str, name: str, runs: dict[str, RunParams]) -> RunConfig:
    if name not in runs:
        raise _DisagreementError(
            f"{key}: no run {name!r} in params.yaml, which has {', '.join(runs) or 'none'}; add it, or delete the sweep"
        )
    return project.run(scale, name, runs[name])[0]


def _subdivision(
    project: "Project", scale: str, name: str, sweep: SubdivisionSweep, runs: dict[str, RunParams]
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
    project: "Project", scale: str, name: str, sweep: TrainingSweep, runs: dict[str, RunParams]
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


def select_sweeps(project: "Project", scale: str, runs: dict[str, RunParams]) -> dict[str, SweepParams]:
    """All sweeps of a scale, as ``params.yaml`` has them.

    Raises:
        ConfigError: if one of their files is wrong.
    """
    files = sorted((project.configs / "sweeps" / scale).glob("*.yaml"))
    return {path.stem: resolve_sweep(project, scale, path, runs)[1] for path in files}


def resolve_selected(
    project: "Project", params: Params, path: Path, selected: SweepParams
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
