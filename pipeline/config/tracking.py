"""The schema of ``configs/tracking.yaml``: what MLflow gets of each run."""

from typing import Annotated, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, model_validator

from pipeline.config.reader import Strict


class TrackingConfig(Strict):
    """What MLflow gets of each run, beside its parameters and metrics."""

    models: bool = Field(description="log the weights as a model")
    registry: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")] | None = Field(
        description="what the names of registered models begin with; null to register none"
    )
    overlays: NonNegativeInt = Field(description="val images whose predictions are drawn")
    system_metrics: PositiveFloat | None = Field(
        description="seconds between two measurements of CPU, memory and GPU; null for none"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.registry is not None and not self.models:
            raise ValueError(f"registry is {self.registry!r}, but models is false: only logged models are registered")
        return self
