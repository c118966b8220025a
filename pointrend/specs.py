"""What the models and their options are, in plain numbers: no torch, so that configuration loads at once."""

import math
from dataclasses import dataclass
from typing import Any, Literal

Norm = Literal["frozen_batch", "group"]

#: Rows and columns of the masks of Mask R-CNN's default head.
FOUR_CONV_SIDE = 28


@dataclass(frozen=True)
class PointSampling:
    """How training points are chosen (Section 3.1, Table 4).

    ``strategy="biased"`` over-generates ``oversample * num_points`` uniform candidates (the paper's k), keeps the
    ``importance * num_points`` most uncertain (its beta) and fills up with uniform points. ``oversample=1,
    importance=0`` is plain uniform sampling. ``strategy="grid"`` takes a regular grid instead and reads neither.

    Raises:
        ValueError: for values outside their domain.
    """

    strategy: Literal["biased", "grid"] = "biased"
    num_points: int = 14 * 14
    oversample: float = 3.0
    importance: float = 0.75

    def __post_init__(self) -> None:
        if self.strategy not in ("biased", "grid"):
            raise ValueError(f"strategy is {self.strategy!r}, expected 'biased' or 'grid'")
        if self.num_points < 1:
            raise ValueError(f"num_points is {self.num_points}, expected at least 1")
        if not 1 <= self.oversample < math.inf:
            raise ValueError(f"oversample (k) is {self.oversample}, expected at least 1")
        if not 0 <= self.importance <= 1:
            raise ValueError(f"importance (beta) is {self.importance}, expected a value in [0, 1]")
        if self.strategy == "grid" and math.isqrt(self.num_points) ** 2 != self.num_points:
            raise ValueError(f"num_points is {self.num_points}; a regular grid needs a square number")


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
    proposals_per_level: tuple[int, int] = (2000, 1000)  # before NMS, in training and at inference
    proposals_per_image: int = 1000
    rois_per_image: int = 512
    roi_sampling_ratio: int = 0


def _pair(suffix: str, backbone: str, numbers: dict[str, Any]) -> dict[str, InstanceSpec]:
    """The two models, one per mask head, that share a detector."""
    return {
        f"maskrcnn_{suffix}": InstanceSpec("4xconv", backbone, **numbers),
        f"pointrend_rcnn_{suffix}": InstanceSpec("pointrend", backbone, **numbers),
    }


_COCO = {"num_classes": 80, "min_size": 800, "max_size": 1333, "norm": "frozen_batch"}
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
MODELS: dict[str, InstanceSpec] = {
    **_pair("r50_fpn_coco", "r50", _COCO),
    **_pair("tiny_fpn", "tiny", _TINY),
}


def list_models() -> list[str]:
    """The names that :func:`pointrend.build_model` knows."""
    return sorted(MODELS)
