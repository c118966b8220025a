"""The configuration of one project, and what ``pointrend select`` chooses from it."""

import hashlib
from pathlib import Path

from pipeline.config.clusters import ClusterConfig
from pipeline.config.code import code_folder, code_of, digest
from pipeline.config.datasets import CocoDataset, DatasetConfig, HeldOut, dataset_task, load_dataset
from pipeline.config.evaluations import EvaluationConfig, with_metrics
from pipeline.config.experiments import (
    ExperimentConfig,
    RunConfig,
    ValidationConfig,
    is_weights_file,
    load_experiment,
    start_of,
)
from pipeline.config.figures import FiguresConfig
from pipeline.config.findings import FindingsConfig
from pipeline.config.locations import drawn_folder, is_remote, join
from pipeline.config.metrics import MetricsConfig
from pipeline.config.models import InstanceModelConfig, SemanticModelConfig, load_model, setting_problem
from pipeline.config.overrides import OverrideError, apply_overrides, changed_settings, check_overrides
from pipeline.config.params import ExperimentOverrides, Params, SamplingOverrides
from pipeline.config.reader import ConfigError, load
from pipeline.config.scales import ScaleConfig, ScalesConfig
from pipeline.config.schedules import ScheduleConfig, load_schedule
from pipeline.config.selection import SelectedDataset, SelectedRun, Selection
from pipeline.config.sweep_tasks import select_sweeps, swept_experiments
from pipeline.config.synthetic import SyntheticConfig, load_synthetic
from pipeline.config.tables import TableConfig
from pipeline.config.tracking import TrackingConfig
from pointrend.specs import IMAGENET_WEIGHTS


class Project:
    """The configuration of one project: ``params.yaml``, ``selection.yaml`` and ``configs/``, all in ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.configs = root / "configs"

    @property
    def params_file(self) -> Path:
        return self.root / "params.yaml"

    @property
    def selection_file(self) -> Path:
        return self.root / "selection.yaml"

    def params(self) -> Params:
        return load(Params, self._check_written(self.params_file))

    def selection(self) -> Selection:
        return load(Selection, self._check_written(self.selection_file))

    def _check_written(self, path: Path) -> Path:
        if not path.is_file():
            raise ConfigError(f"{path}: no such file; `pointrend select demo` writes it")
        return path

    def dataset(self, name: str) -> DatasetConfig:
        return load_dataset(self._dataset_file(name))

    def _dataset_file(self, name: str) -> Path:
        return self.configs / "datasets" / f"{name}.yaml"

    def synthetic(self, name: str) -> SyntheticConfig:
        return load_synthetic(self.configs / "synthetic" / f"{name}.yaml")

    def model(self, name: str) -> InstanceModelConfig | SemanticModelConfig:
        return load_model(self.configs / "models" / f"{name}.yaml")

    def schedule(self, name: str) -> ScheduleConfig:
        return load_schedule(self.configs / "schedules" / f"{name}.yaml")

    def cluster(self, name: str) -> ClusterConfig:
        return load(ClusterConfig, self.configs / "clusters" / f"{name}.yaml")

    def default_cluster(self, scale: str) -> str:
        """The cluster of a scale that is not told another one: that of its name, or else ``laptop``."""
        return scale if scale in self.cluster_names() else "laptop"

    def cluster_names(self) -> list[str]:
        return sorted(path.stem for path in (self.configs / "clusters").glob("*.yaml"))

    def table(self, name: str) -> TableConfig:
        return load(TableConfig, self.configs / "tables" / f"{name}.yaml")

    def metrics(self) -> MetricsConfig:
        return load(MetricsConfig, self.configs / "metrics.yaml")

    def tracking(self) -> TrackingConfig:
        return load(TrackingConfig, self.configs / "tracking.yaml")

    def figures(self) -> FiguresConfig:
        path = self.configs / "figures.yaml"
        figures = load(FiguresConfig, path)
        if problem := figures.headline.problem(self.table(figures.headline.table)):
            raise ConfigError(f"{path}:\n  headline.{problem}")
        return figures

    def findings(self) -> FindingsConfig:
        return load(FindingsConfig, self.configs / "findings.yaml")

    def scale(self, name: str) -> ScaleConfig:
        """What the report of a scale is about.

        Raises:
            ConfigError: if the file is wrong, or names a table that there is not.
        """
        path = self.configs / "scales.yaml"
        scales = load(ScalesConfig, path).root
        for scale, config in scales.items():
            if unknown := [table for table in config.tables if table not in self.table_names()]:
                known = ", ".join(self.table_names())
                raise ConfigError(f"{path}:\n  {scale}.tables: {unknown[0]!r}, expected one of {known}")
        return scales.get(name, ScaleConfig())

    def table_names(self) -> list[str]:
        return sorted(path.stem for path in (self.configs / "tables").glob("*.yaml"))

    def scales(self) -> list[str]:
        return sorted(path.name for path in (self.configs / "experiments").iterdir() if path.is_dir())

    def experiment_names(self, scale: str) -> list[str]:
        return sorted(path.stem for path in (self.configs / "experiments" / scale).glob("*.yaml"))

    def experiment(self, scale: str, name: str, params: Params | None = None) -> ExperimentConfig:
        """An experiment of a scale, with the changed settings of ``params.yaml``, if any are given.

        Raises:
            ConfigError: if its file or a changed setting is wrong or does not go with the model.
        """
        path = self._experiment_file(scale, name)
        experiment = load_experiment(path)
        if problem := self._disagreement(experiment):
            raise ConfigError(f"{path}:\n  {problem}")
        evaluations = with_metrics(experiment.evaluations, self.metrics())
        return self.overridden(name, experiment.model_copy(update={"evaluations": evaluations}), params)

    def overridden(self, name: str, experiment: ExperimentConfig, params: Params | None) -> ExperimentConfig:
        """An experiment with the changed settings of ``params.yaml``, if any are given.

        Raises:
            ConfigError: if a changed setting is wrong or does not go with the model.
        """
        if params is None:
            return experiment
        try:
            changed = apply_overrides(name, experiment, params)
        except OverrideError as error:
            raise ConfigError(f"{self.params_file}:\n  {error}") from error
        if changed.schedule != experiment.schedule and (problem := self._disagreement(changed)):
            raise ConfigError(f"{self.params_file}:\n  {problem} (experiment {name!r})")
        return changed

    def _experiment_file(self, scale: str, name: str) -> Path:
        return self.configs / "experiments" / scale / f"{name}.yaml"

    def _disagreement(self, experiment: ExperimentConfig) -> str | None:
        """The first setting of an experiment that does not go with its model, as "key: problem"; None if all do."""
        model, network = self.model(experiment.model), f"model {experiment.model!r}"
        if model.has_point_head and experiment.sampling is None:
            return f"sampling: missing; {network} has a point head"
        if not model.has_point_head and experiment.sampling is not None:
            return f"sampling: {network} has no point head to sample for"
        if not model.has_point_head and experiment.point_head is not None:
            return f"point_head: {network} has none"
        task = dataset_task(self.dataset(experiment.dataset))
        if model.task != task:
            return f"dataset: {experiment.dataset!r} is for {task} models, which {network} is not"
        if experiment.train == "mask_head" and (model.task != "instance" or experiment.starts_from is None):
            return "train: 'mask_head' needs an instance model and the weights of a detector, see starts_from"
        if experiment.train == "head" and (model.task != "semantic" or experiment.starts_from is None):
            return "train: 'head' needs a semantic model and the weights of a backbone, see starts_from"
        if experiment.train == "head" and model.norm == "batch":
            return f"train: 'head' leaves the backbone as it is, but the batch norm of {network} would go on learning"
        if experiment.fine_tune and not is_weights_file(experiment.starts_from):
            return "fine_tune: needs a file of weights, see starts_from"
        source = model.pretrained_backbone
        if source is not None and not experiment.fine_tune and model.backbone not in IMAGENET_WEIGHTS[source]:
            others = [name for name, weights in IMAGENET_WEIGHTS.items() if model.backbone in weights]
            return (
                f"model: {source} has no ImageNet weights for the backbone of {network}; expected pretrained_backbone "
                f"{' or '.join([*others, 'null'])}"
            )
        if experiment.negatives and model.task != "instance":
            return f"negatives: {network} trains on every image"
        if is_weights_file(experiment.starts_from) and not self.weights_file(str(experiment.starts_from)).is_file():
            return f"starts_from: there is no file {self.root / str(experiment.starts_from)}"
        if model.task == "instance" and self.schedule(experiment.schedule).head_multiplier != 1:
            return f"schedule: {experiment.schedule!r} has a head_multiplier, which is for semantic models"
        if self.schedule(experiment.schedule).validate_every and not experiment.evaluations:
            return f"evaluations: empty, but schedule {experiment.schedule!r} validates under the last one"
        for name, setting in experiment.evaluations.items():
            if problem := setting_problem(setting, model):
                return f"evaluations.{name}: {network} {problem}"
        return None

    def run(
        self, scale: str, name: str, selected: SelectedRun, params: Params | None = None
    ) -> tuple[RunConfig, EvaluationConfig]:
        """A selected run, resolved: the training, and how it is evaluated.

        Args:
            scale: a folder of ``configs/experiments``.
            name: the run's name.
            selected: its entry in ``selection.yaml``.
            params: the changed settings to apply, if any.

        Raises:
            ConfigError: if the entry does not agree with the experiment's file, or a file or changed setting is wrong.
        """
        written = self.experiment(scale, selected.experiment)
        model = self.model(written.model)
        starts_from = start_of(written.starts_from, written.dataset)
        expected = {"task": model.task, "dataset": written.dataset, "starts_from": starts_from}
        for key, value in expected.items():
            if (found := getattr(selected, key)) != value:
                raise ConfigError(
                    f"{self.selection_file}:\n  runs.{name}.{key}: {found!r}, but its experiment has {value!r}; "
                    f"`pointrend select {scale}` writes it again"
                )
        if name != (expected_name := f"{selected.experiment}-{selected.seed}"):
            raise ConfigError(f"{self.selection_file}:\n  runs.{name}: expected the name {expected_name!r}")
        experiment = self.overridden(selected.experiment, written, params)
        run = self.training(name, selected.experiment, selected.seed, written, experiment)
        return run, EvaluationConfig(experiment.evaluations)

    def training(
        self, run: str, name: str, seed: int, written: ExperimentConfig, experiment: ExperimentConfig
    ) -> RunConfig:
        """The training ``run`` of an experiment, given as its file has it and with the changes of ``params.yaml``."""
        return RunConfig(
            run=run,
            experiment=name,
            dataset=experiment.dataset,
            seed=seed,
            starts_from=experiment.starts_from,
            starts_from_digest=self._weights_digest(experiment.starts_from),
            fine_tune=experiment.fine_tune,
            train=experiment.train,
            negatives=experiment.negatives,
            model=self.model(experiment.model),
            sampling=experiment.sampling,
            point_head=experiment.point_head,
            schedule=self.schedule(experiment.schedule),
            validation=self._validation(experiment),
            changes=changed_settings(written, experiment),
        )

    def _validation(self, experiment: ExperimentConfig) -> ValidationConfig | None:
        if self.schedule(experiment.schedule).validate_every is None:
            return None
        code = digest(code_of(self.root, "validate", self.model(experiment.model).task))
        return ValidationConfig.of(list(experiment.evaluations.values())[-1], code)

    def _weights_digest(self, starts_from: str | None) -> str | None:
        if starts_from is None or not is_weights_file(starts_from):
            return None
        with self.weights_file(starts_from).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    def weights_file(self, name: str) -> Path:
        """The file that ``starts_from`` names: of the project, or one of those that the package ships."""
        return file if (file := self.root / name).is_file() else code_folder(self.root) / name

    def check(self, params: Params, selection: Selection) -> None:
        """Checks that ``params.yaml`` and ``selection.yaml`` go together, and what the report will be made from.

        Raises:
            ConfigError: if there is no such scale or cluster, if a changed setting applies to nothing that is selected,
                if DVC watches other raw files than those of the data root, or if a file of the report is wrong.
        """
        # Now, and not after the last training.
        self.figures()
        self.findings()
        self.scale(params.scale)
        for name in self.table_names():
            self.table(name)
        known = {"scale": (params.scale, self.scales()), "cluster": (params.cluster, self.cluster_names())}
        for key, (value, there) in known.items():
            if value not in there:
                raise ConfigError(f"{self.params_file}:\n  {key}: {value!r}, expected one of {', '.join(there)}")
        try:
            names = {*selection.experiments, *swept_experiments(self, params.scale, selection)}
            check_overrides(params, {name: self.experiment(params.scale, name) for name in sorted(names)})
        except OverrideError as error:
            raise ConfigError(f"{self.params_file}:\n  {error}") from error
        for name, selected in selection.datasets.items():
            if selected != self._watched(params.scale, name, self.dataset(name), params.data_root):
                raise ConfigError(
                    f"{self.selection_file}:\n  datasets.{name}: not the files of data root {params.data_root!r}; "
                    f"`pointrend select {params.scale} --data-root {params.data_root}` writes it again"
                )

    def select(self, scale: str, data_root: str, seeds: int | None = None) -> Selection:
        """Everything of a scale: its experiments with all seeds, their datasets, and its sweeps.

        Args:
            scale: a folder of ``configs/experiments``.
            data_root: the folder or URI that the datasets lie in.
            seeds: how many seeds each experiment is run with, 0 and up; None for the experiments' own.

        Raises:
            ConfigError: if there is no such scale, or one of its files is wrong.
        """
        if scale not in self.scales():
            raise ConfigError(f"{self.configs / 'experiments'}: no scale {scale!r}; it has {', '.join(self.scales())}")
        experiments = {name: self.experiment(scale, name) for name in self.experiment_names(scale)}
        if seeds is not None:
            more = {"seeds": list(range(seeds))}
            experiments = {name: experiment.model_copy(update=more) for name, experiment in experiments.items()}
        datasets = {e.dataset: self.dataset(e.dataset) for e in experiments.values()}
        self._check_starts(scale, experiments)
        runs = {
            f"{name}-{seed}": SelectedRun(
                task=dataset_task(datasets[experiment.dataset]),
                dataset=experiment.dataset,
                experiment=name,
                seed=seed,
                starts_from=start_of(experiment.starts_from, experiment.dataset),
            )
            for name, experiment in self._in_order(experiments).items()
            for seed in experiment.seeds
        }
        return Selection(
            synthetic=sorted({dataset.root for dataset in datasets.values() if dataset.synthetic}),
            datasets={name: self._watched(scale, name, found, data_root) for name, found in sorted(datasets.items())},
            runs=runs,
            sweeps=select_sweeps(self, scale, runs),
        )

    def _check_starts(self, scale: str, experiments: dict[str, ExperimentConfig]) -> None:
        """Checks that experiments start from runs that start from no other run themselves, and have the same norm."""
        first = {
            f"{name}-{seed}": self.model(experiment.model).norm
            for name, experiment in experiments.items()
            if start_of(experiment.starts_from, experiment.dataset) == f"data/{experiment.dataset}"
            for seed in experiment.seeds
        }
        for name, experiment in experiments.items():
            if experiment.starts_from is None or is_weights_file(experiment.starts_from):
                continue
            norm = self.model(experiment.model).norm
            if experiment.starts_from in first and norm != first[experiment.starts_from]:
                raise ConfigError(
                    f"{self._experiment_file(scale, name)}:\n  starts_from: {experiment.starts_from!r} has norm "
                    f"{first[experiment.starts_from]!r}, model {experiment.model!r} has {norm!r}; expected the same"
                )
            if experiment.starts_from not in first:
                raise ConfigError(
                    f"{self._experiment_file(scale, name)}:\n  starts_from: {experiment.starts_from!r} is not a run of "
                    f"this scale that starts from no other run; those are {', '.join(sorted(first))}"
                )

    def initial_params(self, scale: str, data_root: str, cluster: str) -> Params:
        """``params.yaml`` without any changed setting.

        It has a null for each setting that can be changed, because `dvc exp run -S` can only change existing keys.

        Raises:
            ConfigError: if there is no such cluster, or a file is wrong.
        """
        self.cluster(cluster)
        experiments = {
            name: ExperimentOverrides(sampling=SamplingOverrides() if self.experiment(scale, name).sampling else None)
            for name in self.experiment_names(scale)
        }
        return Params(scale=scale, data_root=data_root, cluster=cluster, experiments=experiments)

    def _in_order(self, experiments: dict[str, ExperimentConfig]) -> dict[str, ExperimentConfig]:
        """Experiments in the order in which DVC runs them: those that others start from, shortest schedule first."""
        started_from = {experiment.starts_from for experiment in experiments.values()}

        def place(name: str) -> tuple[bool, int]:
            if started_from.isdisjoint(f"{name}-{seed}" for seed in experiments[name].seeds):
                return True, 0
            return False, self.schedule(experiments[name].schedule).updates

        return {name: experiments[name] for name in sorted(experiments, key=place)}

    def _watched(self, scale: str, name: str, dataset: DatasetConfig, data_root: str) -> SelectedDataset:
        """The raw annotations of a dataset. Drawn datasets lie in the project, whatever the data root is."""
        file = str(self._dataset_file(name).relative_to(self.root))
        base = drawn_folder(scale) if dataset.synthetic else data_root

        def watched(root: str, annotations: str) -> str:
            path = join(join(base, root), annotations)
            return file if is_remote(path) else path

        if isinstance(dataset, CocoDataset):
            given = dataset.train if isinstance(dataset.val, HeldOut) else dataset.val
            train, val = (watched(dataset.root, split.annotations) for split in (dataset.train, given))
            lvis = val
            if dataset.lvis:
                lvis = watched(dataset.lvis.root, dataset.lvis.annotations)
            elif dataset.finer_val:
                lvis = watched(dataset.root, dataset.finer_val)
        else:
            labelled = dataset.train if isinstance(dataset.val, HeldOut) else dataset.val
            train, val = (watched(dataset.root, split.labels) for split in (dataset.train, labelled))
            lvis = val
        return SelectedDataset(task=dataset_task(dataset), train=train, val=val, lvis=lvis)
