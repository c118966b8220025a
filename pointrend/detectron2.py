"""Converts Detectron2's checkpoints to this library's names and conventions.

Differences other than names:

- Its images are BGR in [0, 255], divided by a standard deviation that depends on who trained the backbone. The mean is
  the same as here, so channel order and scale go into the first convolution, and padding stays exactly zero.
- MSRA's backbones halve the resolution in a 1x1 convolution, where torchvision has a 3x3 one.
- Its background class is the last; here it is the first, and has (unused) rows of box regression.
- Its DeepLabV3 averages the image in windows as large as the training crops, and its semantic PointRend gives the
  coarse prediction to the first layer of the point head only.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pointrend.specs import MODELS, DeepLabV3Spec, SemanticFPNSpec
from pointrend.transform import IMAGENET_MEAN, IMAGENET_STD

State = Mapping[str, Tensor]

#: Rows and columns of the crops that the semantic models train on.
CITYSCAPES_CROP = (512, 1024)


@dataclass(frozen=True)
class Convention:
    """What a backbone was trained with: how its input is normalised, and where its strides are."""

    pixel_std: tuple[float, float, float]  # in RGB order, of pixels in [0, 255]
    bgr: bool
    stride_in_1x1: bool


_IMAGENET_STD = (58.395, 57.120, 57.375)
MSRA = Convention((1.0, 1.0, 1.0), bgr=True, stride_in_1x1=True)
FAIR_RESNEXT = Convention(_IMAGENET_STD, bgr=True, stride_in_1x1=False)
DEEPLAB = Convention(_IMAGENET_STD, bgr=False, stride_in_1x1=False)


def convention(own: State) -> Convention:
    """The convention of the backbone in Detectron2's zoo that has the structure of this model's state dict."""
    if any(name.startswith("backbone.body.conv1.0.") for name in own):
        return DEEPLAB
    grouped = own["backbone.body.layer1.0.conv2.weight"]
    return FAIR_RESNEXT if grouped.shape[0] != grouped.shape[1] else MSRA


def detectron2_structure(own: State) -> dict[str, Any]:
    """The structure that Detectron2's weights assume in a model with this state dict."""
    pixels = convention(own)
    structure: dict[str, Any] = {"stride_in_1x1": pixels.stride_in_1x1}
    return structure | ({"pool_window": CITYSCAPES_CROP} if pixels is DEEPLAB else {})


def detectron2_options(name: str) -> dict[str, Any]:
    """The options of :func:`pointrend.build_model` that make a model what Detectron2 trained under that name.

    Raises:
        ValueError: for an unknown name.
    """
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}, expected one of {', '.join(sorted(MODELS))}")
    spec = MODELS[name]
    options: dict[str, Any] = {}
    if isinstance(spec, DeepLabV3Spec):
        options["pool_window"] = CITYSCAPES_CROP
    elif spec.backbone in ("r50", "r101"):
        options["stride_in_1x1"] = True
    if isinstance(spec, SemanticFPNSpec) and spec.has_pointrend:
        options |= {"coarse_each_layer": False, "points_per_step": 8192}
    return options


def _renames() -> list[tuple[re.Pattern[str], str]]:
    """Our names and Detectron2's, in which "body." and "semantic." stand for prefixes that depend on the model."""
    names = {
        r"backbone\.body\.conv1\.0\.": "body.stem.conv1.",
        r"backbone\.body\.conv1\.1\.": "body.stem.conv1.norm.",
        r"backbone\.body\.conv1\.3\.": "body.stem.conv2.",
        r"backbone\.body\.conv1\.4\.": "body.stem.conv2.norm.",
        r"backbone\.body\.conv1\.6\.": "body.stem.conv3.",
        r"backbone\.body\.conv1\.": "body.stem.conv1.",
        r"rpn\.head\.conv\.0\.0\.": "proposal_generator.rpn_head.conv.",
        r"rpn\.head\.cls_logits\.": "proposal_generator.rpn_head.objectness_logits.",
        r"rpn\.head\.bbox_pred\.": "proposal_generator.rpn_head.anchor_deltas.",
        r"roi_heads\.box_head\.fc6\.": "roi_heads.box_head.fc1.",
        r"roi_heads\.box_head\.fc7\.": "roi_heads.box_head.fc2.",
        r"mask_head\.head\.8\.": "roi_heads.mask_head.deconv.",
        r"mask_head\.head\.10\.": "roi_heads.mask_head.predictor.",
        r"mask_head\.coarse_head\.reduce\.": "roi_heads.mask_head.coarse_head.reduce_spatial_dim_conv.",
        r"mask_head\.coarse_head\.fc(\d)\.": r"roi_heads.mask_head.coarse_head.fc\1.",
        r"mask_head\.coarse_head\.predictor\.": "roi_heads.mask_head.coarse_head.prediction.",
        r"mask_head\.point_head\.predictor\.": "roi_heads.mask_head.point_head.predictor.",
        r"pointrend\.point_head\.predictor\.": "sem_seg_head.point_head.predictor.",
        r"head\.aspp\.branches\.(\d)\.0\.": r"semantic.aspp.convs.\1.",
        r"head\.aspp\.branches\.(\d)\.1\.": r"semantic.aspp.convs.\1.norm.",
        r"head\.aspp\.pool\.": "semantic.aspp.convs.4.1.",
        r"head\.aspp\.project\.0\.": "semantic.aspp.project.",
        r"head\.aspp\.project\.1\.": "semantic.aspp.project.norm.",
        r"head\.predictor\.": "semantic.predictor.",
    }
    for stage in (1, 2, 3, 4):
        ours, theirs = rf"backbone\.body\.layer{stage}\.(\d+)\.", rf"body.res{stage + 1}.\1."
        names |= {
            ours + r"conv(\d)\.": theirs + r"conv\2.",
            ours + r"bn(\d)\.": theirs + r"conv\2.norm.",
            ours + r"downsample\.0\.": theirs + "shortcut.",
            ours + r"downsample\.1\.": theirs + "shortcut.norm.",
            rf"backbone\.fpn\.inner_blocks\.{stage - 1}\.0\.": f"backbone.fpn_lateral{stage + 1}.",
            rf"backbone\.fpn\.layer_blocks\.{stage - 1}\.0\.": f"backbone.fpn_output{stage + 1}.",
            rf"mask_head\.head\.{2 * (stage - 1)}\.": f"roi_heads.mask_head.mask_fcn{stage}.",
        }
    for index in (0, 1, 2):
        names |= {
            rf"mask_head\.point_head\.layers\.{index}\.": f"roi_heads.mask_head.point_head.fc{index + 1}.",
            rf"pointrend\.point_head\.layers\.{index}\.": f"sem_seg_head.point_head.fc{index + 1}.",
            # Ours counts convolution, norm, ReLU and upsampling; Detectron2's convolution includes two of them.
            rf"head\.levels\.(p\d)\.{4 * index}\.": rf"semantic.\1.{2 * index}.",
            rf"head\.levels\.(p\d)\.{4 * index + 1}\.": rf"semantic.\1.{2 * index}.norm.",
        }
    return [(re.compile(ours), theirs) for ours, theirs in names.items()]


_RENAMES = _renames()

#: Entries of new and old checkpoints that are no weights: cell anchors, which are computed, and counts of batches.
_NO_WEIGHTS = re.compile(r"(.*\.)?(cell_anchors\.\d+|num_batches_tracked)")

#: Names from before PointRend's heads moved into one mask head.
_OLD_NAMES = (
    ("roi_heads.mask_point_head.", "roi_heads.mask_head.point_head."),
    ("roi_heads.mask_coarse_head.", "roi_heads.mask_head.coarse_head."),
    ("coarse_head.coarse_mask_fc", "coarse_head.fc"),
)


def _their_names(own: State) -> dict[str, str]:
    """Detectron2's names of a model's weights, each with ours."""
    pyramid = any(name.startswith("backbone.fpn.") for name in own)
    deep_stem = any(name.startswith("backbone.body.conv1.0.") for name in own)
    pointrend = any(name.startswith("pointrend.") for name in own)
    prefixes = {
        "body": "backbone.bottom_up." if pyramid else "backbone.",
        "semantic": "sem_seg_head.coarse_sem_seg_head." if pointrend else "sem_seg_head.",
    }
    names = {}
    for name in own:
        if name.endswith("num_batches_tracked"):
            continue
        renamed = name
        if name.startswith("backbone.body.bn1."):
            renamed = f"body.stem.conv{3 if deep_stem else 1}.norm." + name.removeprefix("backbone.body.bn1.")
        else:
            for ours, theirs in _RENAMES:
                if ours.match(name):
                    renamed = ours.sub(theirs, name, count=1)
                    break
        first, rest = renamed.split(".", 1)
        names[prefixes[first] + rest if first in prefixes else renamed] = name
    return names


def _current_name(name: str) -> str:
    for old, new in _OLD_NAMES:
        name = name.replace(old, new)
    return name


def is_detectron2(state: State) -> bool:
    """Whether a state dict is in Detectron2's names."""
    return any(name.startswith(("backbone.bottom_up.", "backbone.stem.")) for name in state)


def _first_convolution(weight: Tensor, pixels: Convention) -> Tensor:
    """Weights (C, 3, k, k) for Detectron2's images to weights for RGB images with this library's normalisation."""
    rgb = weight.flip(1) if pixels.bgr else weight
    scale = rgb.new_tensor(
        [255 * own / theirs for own, theirs in zip(IMAGENET_STD, pixels.pixel_std, strict=True)], dtype=torch.float64
    )
    return (rgb.double() * scale.view(1, 3, 1, 1)).to(weight.dtype)


def _converted_value(name: str, value: Tensor, pixels: Convention) -> Tensor:
    if name in ("backbone.body.conv1.weight", "backbone.body.conv1.0.weight"):
        return _first_convolution(value, pixels)
    if name.startswith("roi_heads.box_predictor.cls_score."):
        return value.roll(1, dims=0)
    if name.startswith("roi_heads.box_predictor.bbox_pred."):
        return torch.cat((value.new_zeros(4, *value.shape[1:]), value))
    return value


def _expected_shape(name: str, shape: torch.Size) -> tuple[int, ...]:
    if name.startswith("roi_heads.box_predictor.bbox_pred."):
        return (shape[0] - 4, *shape[1:])
    return tuple(shape)


def _normalisation_problems(state: State, pixels: Convention) -> list[str]:
    """Problems with the pixel mean and deviation that old checkpoints hold."""
    mean = torch.tensor(IMAGENET_MEAN) * 255
    conventions = {"pixel_mean": mean, "pixel_std": torch.tensor(pixels.pixel_std)}
    problems = []
    for name, rgb in conventions.items():
        wanted = rgb.flip(0) if pixels.bgr else rgb
        if name in state and not torch.allclose(state[name].flatten().float(), wanted, atol=1e-2):
            found, expected = (
                ", ".join(f"{value:g}" for value in values.flatten().tolist()) for values in (state[name], wanted)
            )
            problems.append(f"{name}: {found} in the file, expected {expected}")
    return problems


def _match(theirs: Mapping[str, str], own: State, state: State, pixels: Convention) -> tuple[State, list[str]]:
    """Converted values by our names, and all problems, in Detectron2's names.

    Args:
        theirs: the names in the file, by their current form.
        own: the model's state dict.
        state: the file's.
        pixels: what the backbone was trained with.
    """
    expected = _their_names(own)
    problems = [f"missing: {name}" for name in sorted(expected.keys() - theirs.keys())]
    problems += [f"left over: {theirs[name]}" for name in sorted(theirs.keys() - expected.keys())]
    values = {}
    for name in sorted(expected.keys() & theirs.keys()):
        ours, value = expected[name], state[theirs[name]]
        shape = _expected_shape(ours, own[ours].shape)
        if tuple(value.shape) == shape:
            values[ours] = _converted_value(ours, value, pixels)
        else:
            problems.append(f"shape of {theirs[name]}: {tuple(value.shape)} in the file, {shape} in the model")
    return values, problems


def from_detectron2(state: State, own: State) -> tuple[State, list[str]]:
    """Converts a whole model's checkpoint.

    Args:
        state: in Detectron2's names, current ones or those of old PointRend models.
        own: the model's state dict.

    Returns:
        the converted values by our names, and a list of everything that is missing, left over or of another shape.
    """
    pixels = convention(own)
    theirs = {
        _current_name(name): name
        for name in state
        if name not in ("pixel_mean", "pixel_std") and not _NO_WEIGHTS.fullmatch(name)
    }
    values, problems = _match(theirs, own, state, pixels)
    return values, problems + _normalisation_problems(state, pixels)


#: Replacements that turn Caffe2's names of a ResNet's parts into Detectron2's, in the order in which they apply.
_CAFFE2 = (
    (r"^res_conv1_bn_", "stem.conv1.norm."),
    (r"^conv1_bn_", "stem.conv1.norm."),
    (r"^conv1_gn_", "stem.conv1.norm."),
    (r"^conv1_", "stem.conv1."),
    (r"^res(\d)_(\d+)_branch1_[bg]n_", r"res\1.\2.shortcut.norm."),
    (r"^res(\d)_(\d+)_branch1_", r"res\1.\2.shortcut."),
    (r"^res(\d)_(\d+)_branch2a_[bg]n_", r"res\1.\2.conv1.norm."),
    (r"^res(\d)_(\d+)_branch2a_", r"res\1.\2.conv1."),
    (r"^res(\d)_(\d+)_branch2b_[bg]n_", r"res\1.\2.conv2.norm."),
    (r"^res(\d)_(\d+)_branch2b_", r"res\1.\2.conv2."),
    (r"^res(\d)_(\d+)_branch2c_[bg]n_", r"res\1.\2.conv3.norm."),
    (r"^res(\d)_(\d+)_branch2c_", r"res\1.\2.conv3."),
    (r"\.w$", ".weight"),
    (r"\.(s|gamma)$", ".weight"),
    (r"\.(b|beta)$", ".bias"),
    (r"\.rm$", ".running_mean"),
    (r"\.riv$", ".running_var"),
)
_CLASSIFIER = re.compile(r"(stem\.)?(fc|linear)\..*|(fc1000|pred)_[wb]")


def _backbone_name(name: str) -> str:
    for caffe2, current in _CAFFE2:
        name = re.sub(caffe2, current, name)
    return "backbone." + name.removeprefix("backbone.").removeprefix("bottom_up.")


def from_detectron2_backbone(state: State, own: State) -> tuple[State, list[str]]:
    """Converts an ImageNet backbone (``R-50.pkl``, ...) for the ResNet in a model.

    Args:
        state: in Detectron2's or Caffe2's names. Batch norm that is fused into scale and shift has no running
            statistics; they become 0 and 1.
        own: the model's state dict.

    Returns:
        as :func:`from_detectron2`; the classifier is left out.
    """
    body = {name: value for name, value in own.items() if name.startswith("backbone.body.")}
    theirs = {
        _backbone_name(name): name
        for name in state
        if not (_NO_WEIGHTS.fullmatch(name) or _CLASSIFIER.fullmatch(name) or name.endswith("_momentum"))
    }
    if not any(".running_" in name for name in theirs):
        statistics = {
            name: torch.zeros_like(body[ours]) if ours.endswith("mean") else torch.ones_like(body[ours])
            for name, ours in _their_names(body).items()
            if ".running_" in name
        }
        state = {**state, **statistics}
        theirs |= {name: name for name in statistics}
    return _match(theirs, body, state, convention(own))
