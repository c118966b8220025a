"""The schema of ``configs/experiments``, and a run: an experiment with one of its seeds, resolved."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, TypeAdapter

from pipeline.config.evaluations import EvaluationSetting, SemanticRenderingConfig
from pipeline.config.models import ModelConfig, PointHeadConfig, SamplingConfig
from pipeline.config.reader import Name, Strict, load_derived
from pipeline.config.schedules import ScheduleConfig
from pointrend.specs import MODELS, InstanceSpec

Trained = Annotated[
    Literal["all", "mask_head", "head"],
    Field(
        description="mask_head, for instance models, or head, for semantic ones: the detector or the backbone stays as "
        "it was in the weights that the run starts from"
    ),
]


class ExperimentConfig(Strict):
    """An experiment, which rows of tables name: one training, repeated for each seed. Each repetition is a run."""

    description: str
    dataset: Name
    model: Name
    schedule: Name
    seeds: Annotated[list[NonNegativeInt], Field(min_length=1)]
    starts_from: str | None = Field(
        None,
        description="a run of the same scale, or a file of weights, whose weights this one starts from, except those "
        "that predict masks",
    )
    fine_tune: bool = Field(
        False,
        description="keep all of the weights of a file that starts_from names, of this library or of Detectron2, and "
        "draw only the layers anew that predict other classes",
    )
    train: Trained = "all"
    negatives: bool = Field(False, description="train on images without objects as well, for instance models")
    sampling: SamplingConfig | None = None
    point_head: PointHeadConfig | None = Field(None, description="null for the model's own")
    evaluations: dict[str, EvaluationSetting] = Field(description="by name; empty if other runs only start from it")


class ValidationConfig(Strict):
    """How a run is validated while it trains: under its main evaluation setting, the last one."""

    setting: EvaluationSetting
    code: str = Field(description="a hash of the code that validates, on which the run's result depends as well")

    @classmethod
    def of(cls, setting: EvaluationSetting, code: str) -> Self:
        """The validation under a setting: without what only final scores need: resamples, trimap widths and times."""
        unused: dict[str, None] = {
            key: None for key in ("resamples", "trimap_widths", "timed_images") if key in type(setting).model_fields
        }
        return cls(setting=setting.model_copy(update=unused), code=code)

    @property
    def metric(self) -> str:
        """The metric that decides which weights are the best."""
        return "mIoU" if isinstance(self.setting, SemanticRenderingConfig) else "AP"

    @property
    def label(self) -> str:
        """The metric's name for people."""
        return "mask AP" if self.metric == "AP" else self.metric


class RunConfig(Strict):
    """One training run: everything that it depends on, resolved from the files that its experiment names."""

    run: str
    experiment: str
    dataset: str
    seed: int
    starts_from: str | None = None
    starts_from_digest: str | None = Field(None, description="SHA-256 of that file, if it starts from a file")
    fine_tune: bool = False
    train: Trained = "all"
    negatives: bool = False
    model: ModelConfig
    sampling: SamplingConfig | None
    point_head: PointHeadConfig | None = None
    schedule: ScheduleConfig
    validation: ValidationConfig | None = Field(
        None, exclude_if=lambda value: value is None, description="null unless the schedule validates"
    )
    changes: dict[str, str | int | float] = Field(
        default_factory=dict, description="settings that params.yaml changes from what the experiment's file has"
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


def load_experiment(path: Path) -> ExperimentConfig:
    """Reads an experiment's file and its bases, see :func:`pipeline.config.reader.load_derived`.

    ``evaluations`` replaces that of the base as a whole.
    """
    return load_derived(TypeAdapter(ExperimentConfig), path, replaced=("evaluations",))


def is_weights_file(starts_from: str | None) -> bool:
    """Whether a run starts from a file, and not from another run."""
    return starts_from is not None and starts_from.endswith((".safetensors", ".pth", ".pt", ".pkl"))


def start_of(starts_from: str | None, dataset: str) -> str:
    """The output that a run or sweep starts from, as in ``selection.yaml``: a run's weights, or else its dataset."""
    return f"data/{dataset}" if starts_from is None or is_weights_file(starts_from) else f"train/{starts_from}"
