"""The schema of ``params.yaml``: what is selected to run."""

from pydantic import (
    Field,
    NonNegativeInt,
)

from pipeline.config.reader import Name, Strict


class DatasetParams(Strict):
    """A dataset's raw annotations, which DVC watches.

    A stage has the same number of dependencies for every dataset, so what a dataset does not have is another of its
    files again; of raw files behind a URI, the dataset's configuration stands in.
    """

    train: str
    val: str
    lvis: str


class RunParams(Strict):
    """What a run is, and what it begins with, below ``outputs/<scale>``.

    A stage has the same number of dependencies for every run: one that begins with nothing has its dataset again.
    """

    dataset: Name
    experiment: Name
    seed: NonNegativeInt
    starts_from: str = Field(description="train/<run> of the weights that it begins with, or data/<dataset>")


class SweepParams(Strict):
    """What a sweep reads, below ``outputs/<scale>``.

    A stage has the same number of dependencies for every sweep: one that trains from nothing has its dataset again.
    """

    dataset: Name
    starts_from: str = Field(description="train/<run> of the weights that it takes, or data/<dataset>")


class Params(Strict):
    """``params.yaml``: the scale and what to run. Written by ``pointrend select``; lines may be deleted."""

    scale: Name
    data_root: str
    cluster: Name
    synthetic: list[Name]
    datasets: dict[Name, DatasetParams]
    runs: dict[str, RunParams]
    sweeps: dict[Name, SweepParams] = Field(default_factory=dict)
