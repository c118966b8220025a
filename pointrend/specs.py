"""What the models and their options are, in plain numbers: no torch, so that configuration loads at once."""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

Norm = Literal["frozen_batch", "batch", "group"]
Task = Literal["instance", "semantic"]

#: Rows and columns of the masks of Mask R-CNN's default head.
FOUR_CONV_SIDE = 28

#: Rows and columns of PointRend's coarse masks, which each subdivision step doubles.
COARSE_SIDE = 7

#: The pyramid levels that SemanticFPN merges; it can leave out the first (Table 7).
SEMANTIC_FPN_LEVELS = ("p2", "p3", "p4", "p5")

#: The label of a pixel whose class is unknown: it counts nowhere.
IGNORE_LABEL = 255


@dataclass(frozen=True)
class PointSampling:
    """How training points are chosen (Section 3.1, Table 4).

    ``strategy="biased"`` draws ``oversample_ratio * num_points`` uniform candidates (the paper's k), keeps the
    ``importance_sample_ratio * num_points`` most uncertain of them (its beta) and adds uniform points up to
    ``num_points``. Ratios of 1 and 0 are plain uniform sampling. ``strategy="grid"`` is a regular grid, which ignores
    both.

    Raises:
        ValueError: for values outside their domain.
    """

    strategy: Literal["biased", "grid"] = "biased"
    num_points: int = 14 * 14
    oversample_ratio: float = 3.0
    importance_sample_ratio: float = 0.75

    def __post_init__(self) -> None:
        if self.strategy not in ("biased", "grid"):
            raise ValueError(f"strategy is {self.strategy!r}, expected 'biased' or 'grid'")
        if self.num_points < 1:
            raise ValueError(f"num_points is {self.num_points}, expected at least 1")
        if not 1 <= self.oversample_ratio < math.inf:
            raise ValueError(f"oversample_ratio (k) is {self.oversample_ratio}, expected a finite number from 1")
        if not 0 <= self.importance_sample_ratio <= 1:
            raise ValueError(
                f"importance_sample_ratio (beta) is {self.importance_sample_ratio}, expected a number in [0, 1]"
            )
        if self.strategy == "grid" and math.isqrt(self.num_points) ** 2 != self.num_points:
            raise ValueError(f"num_points is {self.num_points}, expected a square number: strategy is 'grid'")


@dataclass(frozen=True)
class Rendering:
    """How PointRend renders a mask at inference (Table 3): output resolution and points per subdivision step."""

    resolution: int = 224
    num_points: int = 28 * 28

    def __post_init__(self) -> None:
        for name, value in (("resolution", self.resolution), ("num_points", self.num_points)):
            if value < 1:
                raise ValueError(f"{name} is {value}, expected at least 1")


@dataclass(frozen=True)
class InstanceSpec:
    """A Mask R-CNN by numbers: what a model's name stands for."""

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
    point_channels: int | None = None  # of the point head, if others than ``mask_channels``
    proposals_per_level: tuple[int, int] = (2000, 1000)  # before NMS, in training and at inference
    proposals_per_image: int = 1000
    rois_per_image: int = 512
    detections_per_image: int = 100  # the most that are kept at inference
    roi_sampling_ratio: int = 0
    class_agnostic: bool = False  # one mask per region, whatever its class
    stride_in_1x1: bool = False  # as the original ResNets, unlike torchvision's

    def __post_init__(self) -> None:
        _check_at_least_one(
            self, "num_classes", "min_size", "max_size", "rois_per_image", "detections_per_image", "point_layers"
        )
        if self.point_channels is not None:
            _check_at_least_one(self, "point_channels")

    @property
    def has_pointrend(self) -> bool:
        return self.mask_head == "pointrend"


@dataclass(frozen=True)
class SemanticSpec:
    """What the semantic models have in common, by numbers."""

    backbone: str
    num_classes: int
    norm: Norm
    has_pointrend: bool
    head_channels: int
    point_channels: int = 256
    point_layers: int = 3
    points_per_step: int = 8096
    coarse_each_layer: bool = True

    def __post_init__(self) -> None:
        _check_at_least_one(self, "num_classes", "points_per_step", "point_layers", "point_channels")
        if self.num_classes > IGNORE_LABEL:
            raise ValueError(f"num_classes is {self.num_classes}, expected at most {IGNORE_LABEL}, the ignored label")


@dataclass(frozen=True)
class DeepLabV3Spec(SemanticSpec):
    """A DeepLabV3, alone or with PointRend."""

    output_stride: int = 16
    pool_window: tuple[int, int] | None = None  # rows and columns in pixels; the whole image


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
        if getattr(spec, name) < 1:
            raise ValueError(f"{name} is {getattr(spec, name)}, expected at least 1")


def _pair(suffix: str, backbone: str, numbers: dict[str, Any]) -> dict[str, InstanceSpec]:
    """The two models, one per mask head, that share a detector."""
    return {
        f"maskrcnn_{suffix}": InstanceSpec("4xconv", backbone, **numbers),
        f"pointrend_rcnn_{suffix}": InstanceSpec("pointrend", backbone, **numbers),
    }


def _semantic(name: str, spec: SemanticSpec) -> dict[str, SemanticSpec]:
    """The model and the same with PointRend over it."""
    return {name: spec, f"pointrend_{name}": replace(spec, has_pointrend=True)}


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
    **_pair("r50_fpn_coco", "r50", _COCO),
    **_pair("r101_fpn_coco", "r101", _COCO),
    **_pair("x101_fpn_coco", "x101", _COCO),
    **_pair("r50_fpn_cityscapes", "r50", _CITYSCAPES),
    **_pair("tiny_fpn", "tiny", _TINY),
    **_pair("tiny18_fpn", "tiny18", _TINY),
    **_pair("tiny26_fpn", "tiny26", _TINY),
    **_semantic("deeplabv3_r103_cityscapes", DeepLabV3Spec("r103", 19, "batch", False, head_channels=256)),
    **_semantic("semantic_fpn_r101_cityscapes", SemanticFPNSpec("r101", 19, "frozen_batch", False, head_channels=128)),
    **_semantic("deeplabv3_tiny", DeepLabV3Spec("tiny", 19, "group", False, head_channels=64, point_channels=64)),
    **_semantic(
        "semantic_fpn_tiny",
        SemanticFPNSpec("tiny", 19, "group", False, head_channels=64, point_channels=64, fpn_channels=64),
    ),
}


def list_models(task: Task | None = None) -> list[str]:
    """The names that :func:`pointrend.build_model` knows, of one task or of both."""
    return sorted(name for name, spec in MODELS.items() if task is None or task == task_of(spec))


def task_of(spec: InstanceSpec | SemanticSpec) -> Task:
    """What a model is for."""
    return "instance" if isinstance(spec, InstanceSpec) else "semantic"
