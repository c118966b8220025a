"""The schema of ``configs/experiments``, and a run: an experiment with one of its seeds, resolved."""

from typing import Annotated

from pydantic import (
    Field,
    NonNegativeInt,
)

from pipeline.config.evaluations import EvaluationSetting
from pipeline.config.models import ModelConfig, PointHeadConfig, SamplingConfig
from pipeline.config.reader import Name, Strict
from pipeline.config.schedules import ScheduleConfig
from pointrend.specs import (
    MODELS,
    InstanceSpec,
)


class ExperimentConfig(Strict):
    """A training of the paper: what a row of a table names. Runs are its seeds."""

    description: str
    dataset: Name
    model: Name
    schedule: Name
    seeds: Annotated[list[NonNegativeInt], Field(min_length=1)]
    starts_from: str | None = Field(
        None, description="a run of the same scale, whose weights this one begins with, but for what predicts masks"
    )
    sampling: SamplingConfig | None = None
    point_head: PointHeadConfig | None = Field(None, description="if another than the model's own")
    evaluations: dict[str, EvaluationSetting] = Field(description="by name; none where others only begin with it")


class RunConfig(Strict):
    """Everything that a training depends on, resolved from the files above: one training run."""

    run: str
    experiment: str
    dataset: str
    seed: int
    starts_from: str | None = None
    model: ModelConfig
    sampling: SamplingConfig | None
    point_head: PointHeadConfig | None = None
    schedule: ScheduleConfig
    changes: dict[str, float | int | str] = Field(
        default_factory=dict, description="the settings that params.yaml overrides, by name"
    )

    @property
    def point_head_size(self) -> tuple[int, int] | None:
        """Hidden layers and channels of the point head, where there is one."""
        spec = MODELS[self.model.name]
        if not spec.has_pointrend:
            return None
        own = self.point_head or PointHeadConfig(layers=spec.point_layers)
        default = spec.point_channels
        if default is None:
            assert isinstance(spec, InstanceSpec)
            default = spec.mask_channels
        return own.layers, own.channels or default


def start_of(experiment: ExperimentConfig) -> str:
    """What a run begins with, as ``params.yaml`` has it."""
    return f"train/{experiment.starts_from}" if experiment.starts_from else f"data/{experiment.dataset}"
