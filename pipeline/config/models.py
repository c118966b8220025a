"""The schema of ``configs/models``: a network, the sizes of its images, its point head and training points."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Discriminator,
    Field,
    PositiveFloat,
    PositiveInt,
    Tag,
    TypeAdapter,
    field_validator,
    model_validator,
)

from pipeline.config.evaluations import RenderingConfig, SemanticRenderingConfig
from pipeline.config.reader import Strict, load_derived
from pointrend.specs import (
    FOUR_CONV_SIDE,
    MODELS,
    BackboneSource,
    DeepLabV3Spec,
    InstanceSpec,
    PointSampling,
    SemanticFPNSpec,
    Task,
    list_models,
    task_of,
)


class SamplingConfig(Strict):
    """How PointRend's training points are chosen (Section 3.1, Table 4); a regular grid ignores both ratios.

    :class:`pointrend.specs.PointSampling` has the domains of the values and checks them.
    """

    strategy: Literal["biased", "grid"]
    num_points: int = Field(description="N, points of a region, or of an image for a semantic model")
    oversample_ratio: float = Field(description="k, candidates per point")
    importance_sample_ratio: float = Field(description="beta, share of the points that are the most uncertain ones")

    def build(self) -> PointSampling:
        return PointSampling(self.strategy, self.num_points, self.oversample_ratio, self.importance_sample_ratio)

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.build()
        return self


class PointHeadConfig(Strict):
    """The size of PointRend's point head (Section 3.2)."""

    layers: PositiveInt = Field(3, description="hidden layers")
    channels: PositiveInt | None = Field(None, description="of each hidden layer; null for the model's own")


class _Network(Strict):
    """One of :func:`pointrend.list_models`, and the ImageNet weights of its backbone."""

    name: str
    pretrained_backbone: BackboneSource | None = Field(
        description="whose ImageNet weights the backbone starts from; detectron2: those of its model zoo, which the "
        "paper's models start from (MSRA's R-50 and R-101, with their strides in the 1x1 convolutions, FAIR's "
        "X-101-32x8d, and R-103); null to train from scratch"
    )

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if name not in MODELS:
            raise ValueError(f"expected one of {', '.join(list_models())}")
        return name

    @property
    def task(self) -> Task:
        return task_of(MODELS[self.name])

    @property
    def backbone(self) -> str:
        return MODELS[self.name].backbone

    @property
    def has_point_head(self) -> bool:
        return MODELS[self.name].has_pointrend


class InstanceModelConfig(_Network):
    """An instance model and the sizes that its images are resized to."""

    norm: Literal["frozen_batch", "group"]
    train_min_sizes: Annotated[list[PositiveInt], Field(min_length=1)] = Field(
        description="shorter edges in pixels, one of which is drawn for each training image"
    )
    test_min_size: PositiveInt
    max_size: PositiveInt
    rois_per_image: PositiveInt | None = None
    detections_per_image: PositiveInt | None = Field(None, description="kept at inference, by score; null for 100")
    mask_side: PositiveInt | None = Field(
        None, exclude_if=lambda value: value is None, description="of the 4xconv head's masks; null for 28"
    )
    cascade: bool | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="whether PointRend's mask branch trains on predicted boxes, null for yes, or on proposals",
    )

    @property
    def resolution(self) -> int:
        """The side of the 4xconv head's masks."""
        return self.mask_side or FOUR_CONV_SIDE

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.cascade is not None and not self.has_point_head:
            raise ValueError(f"cascade is for PointRend; model {self.name!r} trains its mask head on proposals")
        spec = MODELS[self.name]
        if self.mask_side is not None and isinstance(spec, InstanceSpec):
            replace(spec, mask_side=self.mask_side)
        if (self.pretrained_backbone is not None) != (self.norm == "frozen_batch"):
            raise ValueError(
                f"pretrained_backbone is {self.pretrained_backbone!r} and norm {self.norm!r}; ImageNet weights go with "
                "'frozen_batch', training from scratch with 'group'"
            )
        return self


class Scales(Strict):
    """The sizes that a training image is resized to: multiples of its own, in steps of pixels of the shorter edge."""

    smallest: PositiveFloat
    largest: PositiveFloat
    step: PositiveInt = Field(description="between neighbouring shorter edges, in pixels")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.smallest > self.largest:
            raise ValueError(f"smallest is {self.smallest}, above largest, which is {self.largest}")
        return self


class SemanticModelConfig(_Network):
    """A semantic model and the crops that it trains on (Appendix B). At inference, images keep their size."""

    norm: Literal["frozen_batch", "batch", "group"]
    levels: list[str] | None = Field(None, description="pyramid levels of SemanticFPN; null for P2 to P5")
    crop_size: Annotated[list[PositiveInt], Field(min_length=2, max_length=2)] = Field(description="[H, W] in pixels")
    scales: Scales
    color_augmentation: bool = Field(description="of SSD: brightness, contrast, saturation and hue")
    max_class_share: float | None = Field(
        gt=0, lt=1, description="crop bootstrapping: redraw a crop while one class covers more than this; null for none"
    )
    points_per_step: PositiveInt | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="N of PointRend at inference, which the weights carry; null for the paper's. Evaluation settings "
        "state their own: the last one should be the same, for predictions to be what was measured",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        spec = MODELS[self.name]
        if self.norm == ("frozen_batch" if self.pretrained_backbone is None else "group"):
            raise ValueError(
                f"pretrained_backbone is {self.pretrained_backbone!r} and norm {self.norm!r}; ImageNet weights go with "
                "'frozen_batch' or 'batch', training from scratch with 'group' or 'batch'"
            )
        if self.levels is not None:
            if not isinstance(spec, SemanticFPNSpec):
                raise ValueError(f"levels is for SemanticFPN; model {self.name!r} has no pyramid")
            replace(spec, levels=tuple(self.levels))
        if self.points_per_step is not None and not self.has_point_head:
            raise ValueError(f"points_per_step is for PointRend; model {self.name!r} has no point head")
        return self

    @property
    def architecture(self) -> Literal["DeepLabV3", "SemanticFPN"]:
        return "DeepLabV3" if isinstance(MODELS[self.name], DeepLabV3Spec) else "SemanticFPN"


def _model_task(value: Any) -> Task | None:
    """The task of a model. An unknown name counts as an instance model, whose schema then reports the name."""
    if isinstance(value, dict):
        name = value.get("name")
        return task_of(MODELS[name]) if isinstance(name, str) and name in MODELS else "instance"
    return value.task if isinstance(value, _Network) else None


ModelConfig = Annotated[
    Annotated[InstanceModelConfig, Tag("instance")] | Annotated[SemanticModelConfig, Tag("semantic")],
    Discriminator(_model_task),
]


def load_model(path: Path) -> InstanceModelConfig | SemanticModelConfig:
    """Reads a model's file and its bases, see :func:`pipeline.config.reader.load_derived`."""
    return load_derived(TypeAdapter(ModelConfig), path)


def setting_problem(
    setting: RenderingConfig | SemanticRenderingConfig, model: InstanceModelConfig | SemanticModelConfig
) -> str | None:
    """Why a setting does not go with a model, as the end of a sentence about the model; None if it does."""
    if isinstance(model, InstanceModelConfig):
        if not isinstance(setting, RenderingConfig):
            return "needs a resolution"
        if not model.has_point_head and (setting.resolution, setting.num_points) != (model.resolution, None):
            return f"renders at resolution {model.resolution}, without points"
        return "has a point head and needs num_points" if model.has_point_head and setting.num_points is None else None
    if not isinstance(setting, SemanticRenderingConfig):
        return "is a semantic model, which predicts at the image's resolution; leave out the resolution"
    if model.has_point_head != (setting.num_points is not None):
        return "has a point head and needs num_points" if model.has_point_head else "has no point head for num_points"
    is_deeplab = model.architecture == "DeepLabV3"
    if is_deeplab != (setting.output_stride is not None):
        return "needs an output_stride" if is_deeplab else "has no output_stride to set"
    return None
