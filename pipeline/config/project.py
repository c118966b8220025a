"""The configuration tree of one checkout, and what is selected from it."""

from pathlib import Path

from pipeline.config.clusters import ClusterConfig
from pipeline.config.datasets import CocoDataset, DatasetConfig, dataset_task, load_dataset
from pipeline.config.evaluations import EvaluationConfig
from pipeline.config.experiments import ExperimentConfig, RunConfig, start_of
from pipeline.config.locations import is_remote, join
from pipeline.config.models import InstanceModelConfig, SemanticModelConfig, load_model, setting_problem
from pipeline.config.params import DatasetParams, Params, RunParams
from pipeline.config.reader import ConfigError, load
from pipeline.config.schedules import ScheduleConfig
from pipeline.config.sweep_tasks import select_sweeps
from pipeline.config.synthetic import SyntheticConfig, load_synthetic
from pipeline.config.tables import TableConfig


class Project:
    """The configuration tree of one checkout: ``params.yaml`` and ``configs/``.

    Args:
        root: the folder that holds both.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.configs = root / "configs"

    def params(self) -> Params:
        path = self.root / "params.yaml"
        if not path.is_file():
            raise ConfigError(f"{path}: no such file; `pointrend select demo` writes one")
        return load(Params, path)

    def dataset(self, name: str) -> DatasetConfig:
        return load_dataset(self._dataset_file(name))

    def _dataset_file(self, name: str) -> Path:
        return self.configs / "datasets" / f"{name}.yaml"

    def synthetic(self, name: str) -> SyntheticConfig:
        return load_synthetic(self.configs / "synthetic" / f"{name}.yaml")

    def model(self, name: str) -> InstanceModelConfig | SemanticModelConfig:
        return load_model(self.configs / "models" / f"{name}.yaml")

    def schedule(self, name: str) -> ScheduleConfig:
        return load(ScheduleConfig, self.configs / "schedules" / f"{name}.yaml")

    def cluster(self, name: str) -> ClusterConfig:
        return load(ClusterConfig, self.configs / "clusters" / f"{name}.yaml")

    def table(self, name: str) -> TableConfig:
        return load(TableConfig, self.configs / "tables" / f"{name}.yaml")

    def table_names(self) -> list[str]:
        return sorted(path.stem for path in (self.configs / "tables").glob("*.yaml"))

    def scales(self) -> list[str]:
        return sorted(path.name for path in (self.configs / "experiments").iterdir() if path.is_dir())

    def experiment_names(self, scale: str) -> list[str]:
        return sorted(path.stem for path in (self.configs / "experiments" / scale).glob("*.yaml"))

    def experiment(self, scale: str, name: str) -> ExperimentConfig:
        path = self.configs / "experiments" / scale / f"{name}.yaml"
        experiment = load(ExperimentConfig, path)
        if problem := self._disagreement(experiment):
            raise ConfigError(f"{path}:\n  {problem}")
        return experiment

    def _disagreement(self, experiment: ExperimentConfig) -> str | None:
        """What in an experiment does not go with its model, as "key: problem"."""
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
        if model.task == "instance" and self.schedule(experiment.schedule).head_multiplier != 1:
            return f"schedule: {experiment.schedule!r} has a head_multiplier, which is for semantic models"
        for name, setting in experiment.evaluations.items():
            if problem := setting_problem(setting, model):
                return f"evaluations.{name}: {network} {problem}"
        return None

    def run(self, scale: str, name: str, params: RunParams) -> tuple[RunConfig, EvaluationConfig]:
        """One run of ``params.yaml``, resolved: what its training depends on, and how it is evaluated.

        Raises:
            ConfigError: if the run does not agree with its experiment.
        """
        experiment = self.experiment(scale, params.experiment)
        where = f"{self.root / 'params.yaml'}:\n  runs.{name}"
        if params.dataset != experiment.dataset:
            raise ConfigError(f"{where}.dataset: {params.dataset!r}, but its experiment has {experiment.dataset!r}")
        if params.seed not in experiment.seeds:
            raise ConfigError(f"{where}.seed: {params.seed}, but its experiment has seeds {experiment.seeds}")
        if params.starts_from != start_of(experiment):
            raise ConfigError(
                f"{where}.starts_from: {params.starts_from!r}, but its experiment has {start_of(experiment)!r}"
            )
        run = RunConfig(
            run=name,
            experiment=params.experiment,
            dataset=experiment.dataset,
            seed=params.seed,
            starts_from=experiment.starts_from,
            model=self.model(experiment.model),
            sampling=experiment.sampling,
            point_head=experiment.point_head,
            schedule=self.schedule(experiment.schedule),
        )
        return run, EvaluationConfig(experiment.evaluations)

    def select(self, scale: str, data_root: str, cluster: str) -> Params:
        """The parameters that run everything of a scale, sweeps included.

        Args:
            scale: a folder of ``configs/experiments``.
            data_root: where the datasets lie.
            cluster: a file of ``configs/clusters``.

        Raises:
            ConfigError: if there is no such scale or cluster, or one of its files is wrong.
        """
        if scale not in self.scales():
            raise ConfigError(f"{self.configs / 'experiments'}: no scale {scale!r}; it has {', '.join(self.scales())}")
        self.cluster(cluster)
        experiments = {name: self.experiment(scale, name) for name in self.experiment_names(scale)}
        datasets = {e.dataset: self.dataset(e.dataset) for e in experiments.values()}
        first = {f"{n}-{seed}" for n, e in experiments.items() if e.starts_from is None for seed in e.seeds}
        for name, experiment in experiments.items():
            if experiment.starts_from not in (None, *first):
                file = self.configs / "experiments" / scale / f"{name}.yaml"
                raise ConfigError(
                    f"{file}:\n  starts_from: {experiment.starts_from!r} is no run of this scale that begins with "
                    f"nothing; those are {', '.join(sorted(first))}"
                )
        runs = {
            f"{name}-{seed}": RunParams(
                dataset=experiment.dataset, experiment=name, seed=seed, starts_from=start_of(experiment)
            )
            for name, experiment in self._in_order(experiments).items()
            for seed in experiment.seeds
        }
        return Params(
            scale=scale,
            data_root=data_root,
            cluster=cluster,
            synthetic=sorted({dataset.root for dataset in datasets.values() if dataset.synthetic}),
            datasets={name: self._watched(name, dataset, data_root) for name, dataset in sorted(datasets.items())},
            runs=runs,
            sweeps=select_sweeps(self, scale, runs),
        )

    def _in_order(self, experiments: dict[str, ExperimentConfig]) -> dict[str, ExperimentConfig]:
        """Experiments in the order in which DVC comes to them: first what others begin with, the shortest first."""
        first = {experiment.starts_from for experiment in experiments.values()}

        def place(name: str) -> tuple[bool, int]:
            if first.isdisjoint(f"{name}-{seed}" for seed in experiments[name].seeds):
                return True, 0
            return False, self.schedule(experiments[name].schedule).updates

        return {name: experiments[name] for name in sorted(experiments, key=place)}

    def _watched(self, name: str, dataset: DatasetConfig, data_root: str) -> DatasetParams:
        file = str(self._dataset_file(name).relative_to(self.root))
        if is_remote(join(data_root, dataset.root)):
            if dataset.synthetic:
                raise ConfigError(
                    f"{self._dataset_file(name)}: is drawn here; {data_root} is no folder of this machine"
                )
            return DatasetParams(train=file, val=file, lvis=file)
        root = Path(join(data_root, dataset.root))
        if not isinstance(dataset, CocoDataset):
            val = str(root / dataset.val.labels)
            return DatasetParams(train=str(root / dataset.train.labels), val=val, lvis=val)
        val = str(root / dataset.val.annotations)
        lvis = join(join(data_root, dataset.lvis.root), dataset.lvis.annotations) if dataset.lvis else val
        lvis = file if is_remote(lvis) else lvis
        return DatasetParams(train=str(root / dataset.train.annotations), val=val, lvis=lvis)
