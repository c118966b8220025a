"""How a trained run is evaluated: output resolution, stride and points per subdivision step."""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    Discriminator,
    Field,
    PositiveInt,
    RootModel,
    Tag,
)

from pipeline.config.reader import ConfigError, Strict
from pointrend.specs import PAPER_RENDERING, Rendering, Task


class RenderingConfig(Strict):
    """One way to evaluate an instance model (Table 3). The 4xconv head has one resolution and no subdivision."""

    resolution: PositiveInt
    num_points: PositiveInt | None = Field(None, description="N, the most points per subdivision step")

    def build(self) -> Rendering:
        return Rendering(self.resolution, self.num_points or PAPER_RENDERING.num_points)


class SemanticRenderingConfig(Strict):
    """One way to evaluate a semantic model (Tables 6 and 7); the prediction ends at the image's resolution."""

    output_stride: Literal[8, 16] | None = Field(None, description="of DeepLabV3 alone")
    num_points: PositiveInt | None = Field(None, description="N of PointRend, the most points per subdivision step")


def _setting_task(value: Any) -> Task | None:
    """Only an instance model renders at a resolution of its own."""
    if isinstance(value, dict):
        return "instance" if "resolution" in value else "semantic"
    if isinstance(value, RenderingConfig):
        return "instance"
    return "semantic" if isinstance(value, SemanticRenderingConfig) else None


EvaluationSetting = Annotated[
    Annotated[RenderingConfig, Tag("instance")] | Annotated[SemanticRenderingConfig, Tag("semantic")],
    Discriminator(_setting_task),
]


S = TypeVar("S", RenderingConfig, SemanticRenderingConfig)


class EvaluationConfig(RootModel[dict[str, EvaluationSetting]]):
    """The evaluation settings of one run, by name."""

    def all_of(self, kind: type[S]) -> dict[str, S]:
        """The settings, which are all of one kind.

        Raises:
            ConfigError: if one is not.
        """
        settings = {name: setting for name, setting in self.root.items() if isinstance(setting, kind)}
        if others := self.root.keys() - settings.keys():
            raise ConfigError(f"evaluations {', '.join(sorted(others))} are no {kind.__name__}")
        return settings
