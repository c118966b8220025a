"""The schema of ``configs/clusters``: where runs train and are evaluated."""

from typing import Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from pipeline.config.reader import Strict


class ClusterConfig(Strict):
    """What a run asks a Ray cluster for.

    The workers share each batch, in micro-batches, whose losses and gradients are averaged. A training depends on how
    many images a micro-batch has, not on how many workers there are for them (``docs/fidelity.md``).
    """

    workers: NonNegativeInt = Field(description="Ray Train workers of a run; 0 trains in the driver's own process")
    min_workers: PositiveInt | None = Field(
        None, description="train with this many if no more fit, and with more as soon as they do"
    )
    images_per_worker: PositiveInt | None = Field(
        None,
        description="images per forward pass of a worker, as GPU memory allows; a larger share of the batch takes "
        "several passes. null for the whole share at once",
    )
    cpus_per_worker: PositiveInt = 1
    gpus_per_worker: NonNegativeFloat = 0
    loader_processes: NonNegativeInt = Field(0, description="image-loading processes of each worker")
    driver_memory_gb: PositiveFloat = Field(
        2.0,
        description="memory in 10^9 bytes that Ray reserves for a run's driver, the process that starts its workers",
    )
    runs_at_once: PositiveInt | None = Field(
        None,
        description="the number of runs that run at a time on a cluster that grows on demand, whatever fits now; null "
        "for as many as fit into the cluster as it is",
    )
    max_failures: int = Field(0, ge=-1, description="restarts after a lost worker or job; -1 for no limit")
    storage: str | None = Field(
        None, description="folder that all nodes share, for checkpoints; null for one in the project"
    )
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
            raise ValueError(
                "min_workers needs images_per_worker, so that the batch can be shared by any number of workers"
            )
        return self
