"""A scale to check: the distinct trainings among its runs, what they need, and what became of each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.check.task import Found, Kind, distinct_trainings
from pipeline.cluster.needs import workers_for_batch
from pipeline.config.batch_norm import check_batch_norm
from pipeline.config.exclusions import command_text, exclude, near_names, select_command
from pipeline.config.experiments import RunConfig, is_weights_file
from pipeline.config.locations import is_remote, join
from pipeline.config.reader import ConfigError
from pipeline.data.coco import DatasetError
from pipeline.data.manifest import read_prepared
from pipeline.data.samplers import BatchShareError
from pipeline.errors import UserError
from pipeline.stage import Outputs, Stage
from pipeline.training.record import weights_to_use
from pointrend.specs import MODELS


class CheckError(UserError):
    """Something is missing that the trainings need; nothing was submitted."""


@dataclass
class Outcome:
    """What the check of a distinct training ended with.

    Attributes:
        kind: the runs that it speaks for.
        found: what it found; None if it failed.
        failure: why it failed, and the remedy; None if it did not.
    """

    kind: Kind
    found: Found | None = None
    failure: str | None = None


@dataclass
class Report:
    """The outcome of a whole check.

    Attributes:
        scale: the scale.
        cluster: the name of the cluster configuration; None if shrunk.
        outcomes: one for each distinct training.
        runs_at_a_time: how many runs the cluster has room for; None if shrunk.
        notes: how the trainings that were checked differ from the real ones.
    """

    scale: str
    cluster: str | None
    outcomes: list[Outcome] = field(default_factory=list)
    runs_at_a_time: int | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return all(outcome.failure is None for outcome in self.outcomes)


class CheckedScale:
    """A scale and its distinct trainings.

    Args:
        stage: the project. Its selection, parameters and outputs become those of the scale.
        scale: a folder of ``configs/experiments``; None for what is selected.
        cluster: a file of ``configs/clusters``; None for the selected one.
        names: runs or experiments to check alone; all if empty.
        without: experiments to leave out, see :func:`pipeline.config.exclusions.exclude`.

    Raises:
        ConfigError: if a configuration is wrong.
        ExclusionError: if what ``without`` names cannot be left out.
        CheckError: if there is no run or experiment of a name.
    """

    def __init__(
        self,
        stage: Stage,
        scale: str | None,
        cluster: str | None,
        names: Sequence[str] = (),
        without: Sequence[str] = (),
    ) -> None:
        self.stage, params = stage, stage.params
        self.is_selected, self.cluster_option = scale in (None, params.scale), cluster is not None
        self._command, self._without = command_text("check", scale, {"cluster": cluster}, without), tuple(without)
        if scale is not None:
            stage.selection = stage.project.select(scale, params.data_root)
            if scale != params.scale:
                params = stage.project.initial_params(scale, params.data_root, params.cluster)
        stage.selection = exclude(stage.project, stage.selection, without)
        stage.params = params.model_copy(update={"cluster": cluster} if cluster else {})
        stage.outputs = Outputs(stage.root, params.scale)
        resolved = [
            stage.project.run(params.scale, name, run, stage.params) for name, run in stage.selection.runs.items()
        ]
        self.configs = {config.run: config for config, _ in resolved}
        known = {*self.configs, *(config.experiment for config, _ in resolved)}
        if unknown := [name for name in names if name not in known]:
            near = near_names(unknown[0], sorted(known))
            hint = f"; near it: {', '.join(near)}" if near else ""
            raise CheckError(f"{', '.join(unknown)}: no run or experiment of scale {params.scale}{hint}")
        kinds = distinct_trainings(resolved)
        self.kinds = [kind for kind in kinds if not names or _names(kind).intersection(names)]

    def start(self, config: RunConfig) -> tuple[str | None, RunConfig | None]:
        """The file of the weights that a run starts from, or the run that will have them; neither if there is none."""
        name = config.starts_from
        if name is None:
            return None, None
        if is_weights_file(name):
            return str(self.stage.project.weights_file(name).resolve()), None
        weights = weights_to_use(self.stage.outputs.trained(name))
        return (str(weights.resolve()), None) if weights.is_file() else (None, self.configs[name])

    def check_resources(self) -> None:
        """Checks that everything is there that the trainings need.

        Raises:
            CheckError: listing all that is missing.
        """
        problems = [*self._data(), *self._batches()]
        if not problems:  # it may download
            problems += self._pretrained()
        if problems:
            raise CheckError("\n  ".join(["nothing was submitted:", *problems]))

    def _data(self) -> Iterator[str]:
        stage = self.stage
        for name in sorted({kind.first.dataset for kind in self.kinds}):
            dataset, folder = stage.project.dataset(name), stage.outputs.prepared(name)
            remedy = f"run `dvc repro prepare@{name}`"
            if not self.is_selected:
                remedy = f"run `{select_command(stage.params, self._without)}`, then `dvc repro prepare@{name}`"
            written = stage.outputs.config("datasets", name)
            try:
                read_prepared(folder)
            except DatasetError:
                root = join(stage.data_root(dataset), dataset.root)
                missing = not dataset.synthetic and not is_remote(root) and not Path(root).is_dir()
                yield f"dataset {name} is not prepared" + (
                    f", and {root} is not there: {dataset.obtain or 'see data_root in params.yaml'}; then {remedy}"
                    if missing
                    else f": {remedy}"
                )
            else:
                if not written.is_file() or written.read_text("utf-8") != dataset.model_dump_json(indent=1):
                    yield f"dataset {name} was prepared with another configuration: {remedy}"

    def _batches(self) -> Iterator[str]:
        stage, checked = self.stage, {config.run for kind in self.kinds for config in kind.configs}
        runs = {name: run for name, run in stage.selection.runs.items() if name in checked}
        trained = stage.selection.model_copy(update={"runs": runs, "sweeps": {}})  # sweeps are not checked
        params = stage.params
        try:
            check_batch_norm(stage.project, params.scale, trained, params.cluster, params, self._command)
        except ConfigError as error:
            yield str(error)
        for kind in self.kinds:
            try:
                workers_for_batch(self.stage.cluster, kind.first.schedule.batch_size)
            except BatchShareError as error:
                yield f"{kind.first.run}: {error}"

    def _pretrained(self) -> Iterator[str]:
        """Loads each backbone's pretrained weights once, as the trainings will."""
        from pipeline.training.model import build_run_model  # imports torch

        loaded = set()
        for config in (kind.first for kind in self.kinds):
            source = config.model.pretrained_backbone
            key = MODELS[config.model.name].backbone, source
            if not source or config.fine_tune or key in loaded:
                continue
            loaded.add(key)
            try:
                build_run_model(config, 1, pretrained=True)
            except (OSError, RuntimeError, ValueError, UserError) as error:
                yield (
                    f"{config.run}: the pretrained weights of its backbone {key[0]} cannot be loaded ({error}); put "
                    "them where they are downloaded to, or let this machine reach them"
                )


def _names(kind: Kind) -> set[str]:
    return {name for config in kind.configs for name in (config.run, config.experiment)}
