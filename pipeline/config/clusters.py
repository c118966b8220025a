"""The schema of ``configs/clusters``: where trainings run."""

from typing import Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from pipeline.config.reader import Strict


class ClusterConfig(Strict):
    """Where training runs. It never changes what is learned: the batch is split over the workers there are."""

    workers: NonNegativeInt = Field(description="Ray Train workers of a run; 0 trains in the process of its job")
    min_workers: PositiveInt | None = Field(
        None, description="train with as few where there is room for no more, and with more once there is"
    )
    images_per_worker: PositiveInt | None = Field(
        None, description="the most images of one pass of a worker; a larger share of the batch takes several"
    )
    cpus_per_worker: PositiveInt = 1
    gpus_per_worker: NonNegativeFloat = 0
    driver_memory_gb: PositiveFloat = Field(
        2.0, description="memory that the process of a job asks for where it has workers, in 10^9 bytes"
    )
    runs_at_once: PositiveInt | None = Field(
        None, description="how many runs a cluster that grows is given at a time; else what its nodes have room for"
    )
    loader_processes: NonNegativeInt = Field(0, description="image-loading processes of each worker")
    max_failures: int = Field(0, ge=-1, description="restarts after a lost worker or job; -1 for no limit")
    storage: str | None = Field(None, description="folder that all nodes share, for the trainings; else the project's")
    tracking_patience: NonNegativeFloat = Field(
        300.0, description="seconds that a finished training waits for an MLflow server that does not answer"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.min_workers is None:
            return self
        if self.min_workers > self.workers:
            raise ValueError(f"min_workers is {self.min_workers}, more than the {self.workers} workers")
        if self.images_per_worker is None:
            raise ValueError("min_workers needs images_per_worker, which any number of workers can share out")
        return self
