"""The schema of ``params.yaml``: the scale, where it runs, and changed settings of its experiments."""

from typing import Literal

from pydantic import Field

from pipeline.config.reader import Name, Strict

DATA_ROOT = "data"  # unless `pointrend select` is given another one

Setting = str | int | float


class SamplingOverrides(Strict):
    """Changed settings of the training points; null leaves a setting as the experiment's file has it."""

    strategy: Literal["biased", "grid"] | None = None
    num_points: int | None = Field(None, description="N")
    oversample_ratio: float | None = Field(None, description="k")
    importance_sample_ratio: float | None = Field(None, description="beta")


class ExperimentOverrides(Strict):
    """Changed settings of one experiment; null leaves a setting as the experiment's file has it."""

    sampling: SamplingOverrides | None = None
    schedule: Name | None = None

    @property
    def points(self) -> dict[str, Setting]:
        """The settings of ``sampling`` that are not null."""
        return self.sampling.model_dump(exclude_none=True) if self.sampling else {}

    @property
    def given(self) -> dict[str, Setting]:
        """All settings that are not null, by their keys: ``sampling.num_points``, ``schedule``."""
        found: dict[str, Setting] = {f"sampling.{key}": value for key, value in self.points.items()}
        return found | ({"schedule": self.schedule} if self.schedule is not None else {})


class Params(Strict):
    """``params.yaml``, written by ``pointrend select``; `dvc exp run -S KEY=VALUE` changes it.

    ``sampling`` and ``schedule`` change all selected experiments that have the setting; ``experiments`` changes one.
    """

    scale: Name = Field(description="a folder of configs/experiments")
    data_root: str = Field(description="folder or URI that the datasets lie in")
    cluster: Name = Field(description="a file of configs/clusters")
    sampling: SamplingOverrides = SamplingOverrides()
    schedule: Name | None = None
    experiments: dict[Name, ExperimentOverrides] = Field(default_factory=dict)

    @property
    def of_all(self) -> ExperimentOverrides:
        """The changes to all experiments."""
        return ExperimentOverrides(sampling=self.sampling, schedule=self.schedule)

    def of(self, experiment: str) -> ExperimentOverrides:
        """The changes to one experiment alone; they go before those to all."""
        return self.experiments.get(experiment, ExperimentOverrides())
