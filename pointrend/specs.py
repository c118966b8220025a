"""The models and their options as plain data, without torch, so that configuration loads fast."""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

Norm = Literal["frozen_batch", "batch", "group"]
Task = Literal["instance", "semantic"]
#: Images as their files store them, or turned as EXIF data say.
Orientation = Literal["stored", "exif"]
BackboneSource = Literal["torchvision", "detectron2"]

#: The backbones that have ImageNet weights, by who published them: torchvision's models, and the names of Detectron2's
#: files in :data:`pointrend.zoo.ZOO`.
IMAGENET_WEIGHTS: dict[BackboneSource, dict[str, str]] = {
    "torchvision": {"r50": "resnet50", "r101": "resnet101", "x101": "resnext101_32x8d"},
    "detectron2": {"r50": "R-50", "r101": "R-101", "x101": "X-101-32x8d", "r103": "R-103"},
}

#: Side of the masks of Mask R-CNN's default head, unless a model says otherwise.
FOUR_CONV_SIDE = 28

#: Side of PointRend's coarse masks, which each subdivision step doubles.
COARSE_SIDE = 7

#: The pyramid levels that SemanticFPN merges; it can leave out the first (Table 7).
SEMANTIC_FPN_LEVELS = ("p2", "p3", "p4", "p5")

#: The label of a pixel whose class is unknown, which losses and metrics ignore.
IGNORE_LABEL = 255


@dataclass(frozen=True)
class PointSampling:
    """How training points are chosen (Section 3.1, Table 4).

    ``strategy="biased"`` draws ``oversample_ratio * num_points`` uniform candidates, keeps the
    ``importance_sample_ratio * num_points`` most uncertain of them and adds uniform points up to ``num_points``.
    Ratios of 1 and 0 are plain uniform sampling. ``strategy="grid"`` is a regular grid, which ignores both ratios.

    Args:
        strategy: "biased" or "grid".
        num_points: N, points per region or image. None, for semantic models only: as many as a stride-16 map of the
            training batch has cells (Section 5).
        oversample_ratio: the paper's k, at least 1.
        importance_sample_ratio: the paper's beta, in [0, 1].

    Raises:
        ValueError: for a value outside its domain; the message names the field.
    """

    strategy: Literal["biased", "grid"]
    num_points: int | None
    oversample_ratio: float
    importance_sample_ratio: float

    def __post_init__(self) -> None:
        if self.strategy not in ("biased", "grid"):
            raise ValueError(f"strategy is {self.strategy!r}, expected 'biased' or 'grid'")
        if self.num_points is not None and self.num_points < 1:
            raise ValueError(f"num_points is {self.num_points}, expected at least 1")
        if not 1 <= self.oversample_ratio < math.inf:
            raise ValueError(f"oversample_ratio (k) is {self.oversample_ratio}, expected a finite number from 1")
        if not 0 <= self.importance_sample_ratio <= 1:
            raise ValueError(
                f"importance_sample_ratio (beta) is {self.importance_sample_ratio}, expected a number in [0, 1]"
            )
        if self.strategy == "grid" and math.isqrt(self.num_points or 0) ** 2 != self.num_points:
            raise ValueError(f"num_points is {self.num_points}, expected a square number: strategy is 'grid'")


@dataclass(frozen=True)
class Rendering:
    """How PointRend renders a mask at inference (Section 3.1, Table 3).

    Args:
        resolution: M, the side of the square mask.
        num_points: N, the most points that a subdivision step predicts.

    Raises:
        ValueError: for a value below 1; the message names the field.
    """

    resolution: int = 224
    num_points: int = 28 * 28

    def __post_init__(self) -> None:
        _check_at_least_one(self, "resolution", "num_points")


@dataclass(frozen=True)
class InstanceSpec:
    """The numbers that define a Mask R-CNN.

    ``mask_side`` belongs to the 4xconv head alone; ``sampling``, ``rendering`` and ``cascade`` belong to the PointRend
    head.
    """

    mask_head: Literal["4xconv", "pointrend"]
    backbone: str
    num_classes: int
    min_size: int
    max_size: int
    norm: Norm
    anchor_sizes: tuple[int, int, int, int, int] = (32, 64, 128, 256, 512)
    fpn_channels: int = 256
    box_hidden: int = 1024
    mask_channels: int = 256  # of the 4xconv, coarse and point heads alike
    coarse_hidden: int = 1024
    point_layers: int = 3  # hidden layers of the point head
    point_channels: int | None = None  # of the point head; None for ``mask_channels``
    proposals_per_level: tuple[int, int] = (2000, 1000)  # before NMS, in training and at inference
    proposals_per_image: int = 1000
    rois_per_image: int = 512
    detections_per_image: int = 100  # kept at inference, by score
    roi_sampling_ratio: int = 0
    class_agnostic: bool = False  # one mask per region, whatever its class
    stride_in_1x1: bool = False  # True as in the original ResNets, False as in torchvision's
    sampling: PointSampling | None = None
    rendering: Rendering | None = None
    mask_side: int = FOUR_CONV_SIDE  # of the 4xconv head's masks, twice that of its pooled features
    cascade: bool | None = None  # whether PointRend trains on the boxes that the box head predicts

    def __post_init__(self) -> None:
        if self.mask_side < 2 or self.mask_side % 2:
            raise ValueError(f"mask_side is {self.mask_side}, expected an even number")
        if self.has_pointrend and self.mask_side != FOUR_CONV_SIDE:
            raise ValueError("mask_side is for the 4xconv head; PointRend renders at any resolution, see rendering")
        _check_at_least_one(
            self,
            "num_classes",
            "min_size",
            "max_size",
            "rois_per_image",
            "detections_per_image",
            "point_layers",
            "point_channels",
        )
        if self.sampling is not None and self.sampling.num_points is None:
            raise ValueError("sampling.num_points is None, expected a number: instance models sample N points a region")

    @property
    def has_pointrend(self) -> bool:
        return self.mask_head == "pointrend"


@dataclass(frozen=True)
class SemanticSpec:
    """The numbers that both semantic models have. ``sampling`` and ``points_per_step`` belong to PointRend alone."""

    backbone: str
    num_classes: int
    norm: Norm
    head_channels: int
    point_channels: int = 256
    point_layers: int = 3
    coarse_each_layer: bool = True
    sampling: PointSampling | None = None
    points_per_step: int | None = None

    @property
    def has_pointrend(self) -> bool:
        return self.sampling is not None

    def __post_init__(self) -> None:
        _check_at_least_one(self, "num_classes", "points_per_step", "point_layers", "point_channels")
        if self.num_classes > IGNORE_LABEL:
            raise ValueError(f"num_classes is {self.num_classes}, expected at most {IGNORE_LABEL}, the ignored label")


@dataclass(frozen=True)
class DeepLabV3Spec(SemanticSpec):
    """A DeepLabV3, alone or with PointRend."""

    output_stride: int = 16
    pool_window: tuple[int, int] | None = None  # rows and columns in pixels; None for the whole image


@dataclass(frozen=True)
class SemanticFPNSpec(SemanticSpec):
    """A SemanticFPN, alone or with PointRend."""

    levels: tuple[str, ...] = SEMANTIC_FPN_LEVELS
    fpn_channels: int = 256
    stride_in_1x1: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.levels not in (SEMANTIC_FPN_LEVELS, SEMANTIC_FPN_LEVELS[1:]):
            raise ValueError(f"levels is {self.levels}, expected {SEMANTIC_FPN_LEVELS} or {SEMANTIC_FPN_LEVELS[1:]}")


def _check_at_least_one(spec: object, *names: str) -> None:
    for name in names:
        value = getattr(spec, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}, expected at least 1")


#: The paper's settings of PointRend: training points of Section 4, rendering of Section 3.1, and those of Section 5 for
#: semantic models. Every model below starts from them; all can be overridden.
PAPER_SAMPLING = PointSampling("biased", num_points=14 * 14, oversample_ratio=3.0, importance_sample_ratio=0.75)
PAPER_RENDERING = Rendering()
PAPER_SEMANTIC_SAMPLING = replace(PAPER_SAMPLING, num_points=None)
PAPER_POINTS_PER_STEP = 8096


def _instance_pair(suffix: str, backbone: str, numbers: dict[str, Any]) -> dict[str, InstanceSpec]:
    """The 4xconv and the PointRend model over the same detector."""
    return {
        f"maskrcnn_{suffix}": InstanceSpec("4xconv", backbone, **numbers),
        f"pointrend_rcnn_{suffix}": InstanceSpec(
            "pointrend", backbone, **numbers, sampling=PAPER_SAMPLING, rendering=PAPER_RENDERING, cascade=True
        ),
    }


def _semantic_pair(name: str, spec: SemanticSpec) -> dict[str, SemanticSpec]:
    """A semantic model, and the same with PointRend."""
    with_pointrend = replace(spec, sampling=PAPER_SEMANTIC_SAMPLING, points_per_step=PAPER_POINTS_PER_STEP)
    return {name: spec, f"pointrend_{name}": with_pointrend}


_COCO = {"num_classes": 80, "min_size": 800, "max_size": 1333, "norm": "frozen_batch"}
_CITYSCAPES = {"num_classes": 8, "min_size": 1024, "max_size": 2048, "norm": "frozen_batch"}
_TINY = {
    "num_classes": 80,
    "min_size": 256,
    "max_size": 512,
    "norm": "group",
    "anchor_sizes": (16, 32, 64, 128, 256),
    "fpn_channels": 64,
    "box_hidden": 256,
    "mask_channels": 64,
    "coarse_hidden": 256,
    "proposals_per_level": (500, 500),
    "proposals_per_image": 500,
    "rois_per_image": 64,
    "roi_sampling_ratio": 2,
}

#: Every model of the library by name.
MODELS: dict[str, InstanceSpec | SemanticSpec] = {
    **_instance_pair("r50_fpn_coco", "r50", _COCO),
    **_instance_pair("r101_fpn_coco", "r101", _COCO),
    **_instance_pair("x101_fpn_coco", "x101", _COCO),
    **_instance_pair("r50_fpn_cityscapes", "r50", _CITYSCAPES),
    **_instance_pair("tiny_fpn", "tiny", _TINY),
    **_instance_pair("tiny18_fpn", "tiny18", _TINY),
    **_instance_pair("tiny26_fpn", "tiny26", _TINY),
    **_semantic_pair("deeplabv3_r103_cityscapes", DeepLabV3Spec("r103", 19, "batch", head_channels=256)),
    **_semantic_pair("semantic_fpn_r101_cityscapes", SemanticFPNSpec("r101", 19, "frozen_batch", head_channels=128)),
    **_semantic_pair("deeplabv3_tiny", DeepLabV3Spec("tiny", 19, "group", head_channels=64, point_channels=64)),
    **_semantic_pair(
        "semantic_fpn_tiny",
        SemanticFPNSpec("tiny", 19, "group", head_channels=64, point_channels=64, fpn_channels=64),
    ),
}


def list_models(task: Task | None = None) -> list[str]:
    """The names that :func:`pointrend.build_model` knows, of one task or of both."""
    return sorted(name for name, spec in MODELS.items() if task is None or task == task_of(spec))


def task_of(spec: InstanceSpec | SemanticSpec) -> Task:
    """The task of a model."""
    return "instance" if isinstance(spec, InstanceSpec) else "semantic"
