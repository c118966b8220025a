"""The schema of ``selection.yaml``: what `dvc repro` runs."""

from pydantic import Field, NonNegativeInt

from pipeline.config.reader import Name, Strict
from pointrend.specs import Task


class SelectedDataset(Strict):
    """A dataset's raw annotations, which DVC watches.

    ``lvis`` is the file of AP*: LVIS's, or that of ``finer_val``. DVC needs the same number of dependencies for every
    dataset, so a dataset with neither has its val annotations twice. For raw files behind a URI, DVC watches the
    dataset's configuration file instead.
    """

    task: Task
    train: str
    val: str
    lvis: str


class SelectedRun(Strict):
    """A run, and the output below ``outputs/<scale>`` that it starts from.

    DVC needs the same number of dependencies for every run, so a run that starts from no other has its dataset twice.
    """

    task: Task
    dataset: Name
    experiment: Name
    seed: NonNegativeInt
    starts_from: str = Field(description="train/<run>, whose weights it starts from, or else data/<dataset>")


class SelectedSweep(Strict):
    """The outputs below ``outputs/<scale>`` that a sweep reads.

    DVC needs the same number of dependencies for every sweep, so a sweep that starts from no run has its dataset twice.
    """

    task: Task
    dataset: Name
    starts_from: str = Field(description="train/<run>, whose weights it starts from, or else data/<dataset>")


class Selection(Strict):
    """``selection.yaml``, written by ``pointrend select``; lines may be deleted to run less."""

    synthetic: list[Name] = Field(description="files of configs/synthetic that are drawn")
    datasets: dict[Name, SelectedDataset]
    runs: dict[str, SelectedRun]
    sweeps: dict[Name, SelectedSweep]
    excluded: list[Name] = Field(
        default_factory=list,
        exclude_if=lambda names: not names,
        description="experiments and sweeps of the scale that `pointrend select --without` left out; tables name them",
    )

    @property
    def experiments(self) -> list[str]:
        """The names of the runs' experiments, each once."""
        return list(dict.fromkeys(run.experiment for run in self.runs.values()))
