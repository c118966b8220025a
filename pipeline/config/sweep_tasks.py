"""Resolves sweeps into everything that they depend on."""

from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, RootModel, ValidationError

from pipeline.config.datasets import CocoDataset
from pipeline.config.evaluations import EvaluationSetting, RenderingConfig
from pipeline.config.experiments import ExperimentConfig, RunConfig, start_of
from pipeline.config.models import InstanceModelConfig, PointHeadConfig, SamplingConfig
from pipeline.config.params import Params
from pipeline.config.reader import ConfigError, Name, Strict, first_message
from pipeline.config.selection import SelectedRun, SelectedSweep, Selection
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
from pointrend.specs import COARSE_SIDE

if TYPE_CHECKING:
    from pipeline.config.project import Project


class TrainingTask(Strict):
    """Everything that a training sweep depends on.

    Of the experiment's evaluations it keeps only the one that trials are judged by, so that a change to the others, or
    to the seeds, does not run the sweep again.
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
        """The updates after which a trial is judged: ASHA's milestones and the last update."""
        updates, rungs = self.base.schedule.updates, []
        if self.early_stopping is not None:
            milestone = self.early_stopping.grace
            while milestone < updates:
                rungs.append(milestone)
                milestone *= self.early_stopping.reduction
        return [*rungs, updates]

    def trial(self, point: Point) -> RunConfig:
        """The training with the settings of a point."""
        changes = {key: value for key, value in self.base.changes.items() if key not in point}
        settings = varied(point, self.base.sampling, self.base.point_head)
        return self.base.model_copy(update={**settings, "changes": changes})

    def best(self, point: Point) -> ExperimentConfig:
        """The experiment with the settings of a point."""
        settings = varied(point, self.experiment.sampling, self.experiment.point_head)
        return self.experiment.model_copy(update=settings)

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
        """All combinations of steps and number of points."""
        return [{"steps": steps, "num_points": n} for steps, n in product(self.steps, self.num_points)]

    def best(self, point: Point) -> ExperimentConfig:
        """The experiment, evaluated with the settings of a point."""
        return self.experiment.model_copy(update={"evaluations": {"best": rendering(point)}})


class SweepTask(RootModel[Annotated[TrainingTask | SubdivisionTask, Field(discriminator="kind")]]):
    """A resolved sweep, as its stage reads it."""


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
    project: "Project", scale: str, path: Path, runs: dict[str, SelectedRun], params: Params | None = None
) -> tuple[TrainingTask | SubdivisionTask, SelectedSweep]:
    """A sweep with the selected runs and the experiments that its file names, and its entry in ``selection.yaml``.

    The changed settings of ``params.yaml`` apply to the experiments, if any are given.

    Raises:
        ConfigError: if the file is wrong, or does not go with the runs and experiments that it names.
    """
    sweep = load_sweep(path)
    folder = path.resolve().parent
    if folder.parent == (project.configs / "sweeps").resolve() and folder.name != scale:
        raise ConfigError(
            f"{path}: is a sweep of scale {folder.name}, but {scale} is selected; `pointrend select {folder.name}` "
            f"selects its data and runs, or copy the file out of {folder.name}/ to run it on those of {scale}"
        )
    resolver = _Resolver(project, scale, runs, params)
    try:
        if isinstance(sweep, SubdivisionSweep):
            return resolver.subdivision(path.stem, sweep)
        return resolver.training(path.stem, sweep)
    except _DisagreementError as problem:
        raise ConfigError(f"{path}:\n  {problem}") from problem


class _DisagreementError(ValueError):
    """A key of a sweep that does not go with the runs and experiments that it names, as "key: problem"."""


class _Resolver:
    """Resolves the runs and experiments that the sweeps of a scale name."""

    def __init__(self, project: "Project", scale: str, runs: dict[str, SelectedRun], params: Params | None) -> None:
        self._project, self._scale, self._runs, self._params = project, scale, runs, params

    def _run(self, key: str, name: str) -> RunConfig:
        if name not in self._runs:
            known = ", ".join(self._runs) or "none"
            raise _DisagreementError(
                f"{key}: no run {name!r} in selection.yaml, which has {known}; add it, or delete the sweep"
            )
        return self._project.run(self._scale, name, self._runs[name], self._params)[0]

    def subdivision(self, name: str, sweep: SubdivisionSweep) -> tuple[SubdivisionTask, SelectedSweep]:
        run = self._run("run", sweep.run)
        if not isinstance(run.model, InstanceModelConfig) or not run.model.has_point_head:
            raise _DisagreementError(f"run: {sweep.run!r} has no masks that PointRend subdivides")
        experiment = self._project.experiment(self._scale, run.experiment, self._params)
        best = rendering({"steps": sweep.steps[-1], "num_points": sweep.num_points[-1]})
        task = SubdivisionTask(
            name=name,
            run=run,
            experiment=_swept(experiment, name, run.seed, {"best": best}),
            **sweep.model_dump(include={"kind", "steps", "num_points", "metric", "timed_images"}),
        )
        return task, SelectedSweep(task=run.model.task, dataset=run.dataset, starts_from=f"train/{sweep.run}")

    def training(self, name: str, sweep: TrainingSweep) -> tuple[TrainingTask, SelectedSweep]:
        project = self._project
        written = project.experiment(self._scale, sweep.experiment)
        experiment = project.overridden(sweep.experiment, written, self._params)
        model = project.model(experiment.model)
        if not model.has_point_head:
            raise _DisagreementError(f"experiment: {sweep.experiment!r} has no point head")
        if sweep.evaluation not in experiment.evaluations:
            raise _DisagreementError(f"evaluation: {sweep.experiment!r} has {', '.join(experiment.evaluations)}")
        if sweep.val_images is not None and not isinstance(project.dataset(experiment.dataset), CocoDataset):
            raise _DisagreementError(
                f"val_images: {experiment.dataset!r} is no COCO dataset; leave the key out to use all val images"
            )
        start = None
        if sweep.starts_from is not None:
            start = self._run("starts_from", sweep.starts_from)
            if (start.dataset, start.model) != (experiment.dataset, model):
                raise _DisagreementError(f"starts_from: {sweep.starts_from!r} has another dataset or model")
            if start.train != experiment.train:
                raise _DisagreementError(
                    f"starts_from: {sweep.starts_from!r} trains {start.train!r}, but {sweep.experiment!r} "
                    f"{experiment.train!r}; trials train what the run that they start from trained"
                )
        elif experiment.train != "all":
            untrained = "detector" if experiment.train == "mask_head" else "backbone"
            raise _DisagreementError(f"starts_from: missing; {sweep.experiment!r} trains no {untrained} of its own")
        schedule = project.schedule(sweep.schedule or experiment.schedule)
        if sweep.early_stopping is not None and sweep.early_stopping.grace >= schedule.updates:
            raise _DisagreementError(
                f"early_stopping.grace: {sweep.early_stopping.grace}, but trials end after {schedule.updates} updates"
            )
        _check_space(sweep.space, experiment)
        base = project.training(name, sweep.experiment, sweep.seed, written, experiment)
        # Trials are compared by their metrics alone, which need no resamples and no times of whole images.
        setting = experiment.evaluations[sweep.evaluation]
        unused = dict.fromkeys({"resamples", "timed_images"} & type(setting).model_fields.keys())
        setting = setting.model_copy(update=unused)
        judged_by: dict[str, EvaluationSetting] = {sweep.evaluation: setting}
        task = TrainingTask(
            kind="training",
            name=name,
            # The sweep has a schedule and a start of its own, and its trials are scored at their rungs.
            base=base.model_copy(
                update={"schedule": schedule, "starts_from": None, "starts_from_digest": None, "validation": None}
            ),
            experiment=_swept(experiment, name, sweep.seed, judged_by),
            starts_from=start,
            space=sweep.space,
            search=sweep.search,
            early_stopping=sweep.early_stopping,
            metric=sweep.metric,
            val_images=sweep.val_images,
        )
        starts_from = start_of(sweep.starts_from, experiment.dataset)
        return task, SelectedSweep(task=model.task, dataset=experiment.dataset, starts_from=starts_from)


def _swept(
    experiment: ExperimentConfig, sweep: str, seed: int, evaluations: dict[str, EvaluationSetting]
) -> ExperimentConfig:
    """The experiment that a sweep varies, with one seed and one evaluation: its best setting becomes an experiment."""
    description = f"best of the sweep {sweep}"
    return experiment.model_copy(update={"description": description, "seeds": [seed], "evaluations": evaluations})


def _check_space(space: Space, experiment: ExperimentConfig) -> None:
    """Checks every value, or both ends of a range, one parameter at a time: their domains are independent."""
    for name, values in space.given.items():
        ends = values if isinstance(values, list) else [values.low, values.high]
        for value in ends:
            point = {name: int(value) if PARAMETERS[name].is_count else value}
            try:
                varied(point, experiment.sampling, experiment.point_head)
            except ValidationError as error:
                raise _DisagreementError(f"space.{name}: {value:g}: {first_message(error)}") from error


def select_sweeps(project: "Project", scale: str, runs: dict[str, SelectedRun]) -> dict[str, SelectedSweep]:
    """All sweeps of a scale, as ``selection.yaml`` has them; see :func:`resolve_sweep`."""
    files = sorted((project.configs / "sweeps" / scale).glob("*.yaml"))
    return {path.stem: resolve_sweep(project, scale, path, runs)[1] for path in files}


def swept_experiments(project: "Project", scale: str, selection: Selection) -> set[str]:
    """The names of the experiments that the selected sweeps vary."""
    sweeps = [load_sweep(sweep_file(project, scale, name)) for name in selection.sweeps]
    return {sweep.experiment for sweep in sweeps if isinstance(sweep, TrainingSweep)}


def resolve_selected(
    project: "Project", scale: str, name: str, selection: Selection, params: Params | None = None
) -> TrainingTask | SubdivisionTask:
    """A sweep of ``selection.yaml``, with the changed settings of ``params.yaml`` if given; see :func:`resolve_sweep`.

    Raises:
        ConfigError: if its file is wrong, or does not agree with ``selection.yaml``.
    """
    task, expected = resolve_sweep(project, scale, sweep_file(project, scale, name), selection.runs, params)
    if expected != selection.sweeps[name]:
        raise ConfigError(
            f"{project.selection_file}:\n  sweeps.{name}: its file has dataset {expected.dataset!r} and starts from "
            f"{expected.starts_from!r}; `pointrend select {scale}` writes it again"
        )
    return task
