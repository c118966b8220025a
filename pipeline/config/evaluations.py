"""How a trained run is evaluated: output resolution, stride and points per subdivision step."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Discriminator, Field, NonNegativeInt, PositiveInt, RootModel, Tag

from pipeline.config.metrics import MetricsConfig
from pipeline.config.reader import ConfigError, Strict
from pointrend.specs import Rendering, Task


class RenderingConfig(Strict):
    """One way to evaluate an instance model (Table 3). The 4xconv head has a single resolution and no subdivision."""

    resolution: PositiveInt
    num_points: PositiveInt | None = Field(
        None, description="N, the most points per subdivision step; null for the 4xconv head"
    )
    resamples: NonNegativeInt | None = Field(
        None, description="bootstrap resamples of the val images; null for the number in configs/metrics.yaml"
    )

    # Left out where it is not set, so that what depends on a setting does not depend on it.
    timed_images: PositiveInt | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="val images to time, one at a time, after the predictions; null for none",
    )

    def build(self) -> Rendering | None:
        """How PointRend renders; None for the 4xconv head."""
        return None if self.num_points is None else Rendering(self.resolution, self.num_points)


class SemanticRenderingConfig(Strict):
    """One way to evaluate a semantic model (Tables 6 and 7), which predicts at the image's resolution."""

    output_stride: Literal[8, 16] | None = Field(None, description="of DeepLabV3, which must have one")
    num_points: PositiveInt | None = Field(None, description="N of PointRend, the most points per subdivision step")
    trimap_widths: Annotated[list[PositiveInt], Field(min_length=1)] | None = Field(
        None, description="of trimap mIoU, in pixels; null for those of configs/metrics.yaml"
    )
    resamples: NonNegativeInt | None = Field(
        None, description="bootstrap resamples of the val images; null for the number in configs/metrics.yaml"
    )


def _setting_task(value: Any) -> Task | None:
    """The task of a setting: only those of instance models have a resolution."""
    if isinstance(value, dict):
        return "instance" if "resolution" in value else "semantic"
    if isinstance(value, RenderingConfig):
        return "instance"
    return "semantic" if isinstance(value, SemanticRenderingConfig) else None


EvaluationSetting = Annotated[
    Annotated[RenderingConfig, Tag("instance")] | Annotated[SemanticRenderingConfig, Tag("semantic")],
    Discriminator(_setting_task),
]


def with_metrics(
    settings: Mapping[str, EvaluationSetting], metrics: MetricsConfig
) -> dict[str, RenderingConfig | SemanticRenderingConfig]:
    """Evaluation settings, completed with those of ``configs/metrics.yaml``."""
    shared = metrics.model_dump()
    return {
        name: setting.model_copy(
            update={
                key: value
                for key, value in shared.items()
                if key in type(setting).model_fields and getattr(setting, key) is None
            }
        )
        for name, setting in settings.items()
    }


S = TypeVar("S", RenderingConfig, SemanticRenderingConfig)


class EvaluationConfig(RootModel[dict[str, EvaluationSetting]]):
    """The evaluation settings of one run, by name."""

    def all_of(self, kind: type[S]) -> dict[str, S]:
        """The settings, all of which must be of one kind; raises ConfigError if one is not."""
        settings = {name: setting for name, setting in self.root.items() if isinstance(setting, kind)}
        if others := self.root.keys() - settings.keys():
            raise ConfigError(f"evaluations {', '.join(sorted(others))} are not of {kind.__name__}")
        return settings
