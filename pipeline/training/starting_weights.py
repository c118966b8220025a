"""Loads the weights that a training starts from: of another run, or of a model with other classes to fine-tune.

Shape letters: C channels, K classes.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from pipeline.errors import UserError
from pointrend.backbones import set_stride_in_1x1, stride_in_1x1
from pointrend.detectron2 import convention, from_detectron2, is_detectron2
from pointrend.metadata import KEY, MetadataError, parse_metadata
from pointrend.registry import build_model
from pointrend.specs import BackboneSource
from pointrend.weights import read_state_dict, stored_metadata

if TYPE_CHECKING:
    from pointrend.instance import MaskRCNN
    from pointrend.semantic import SemanticSegmenter

#: Prefixes of the weights that a run never takes from another one: mask heads and a semantic model's heads. Runs are
#: compared by these heads, so each run trains its own from scratch.
RETRAINED_HEADS = ("mask_head.", "head.", "pointrend.")

#: Prefixes of the layers whose outputs are classes, or the masks of classes.
PREDICTORS = (
    "roi_heads.box_predictor.",
    "mask_head.head.10.",
    "mask_head.coarse_head.predictor.",
    "mask_head.point_head.predictor.",
    "head.predictor.",
    "pointrend.point_head.predictor.",
)
#: The inputs of these layers are features, followed by the coarse prediction of each class.
_POINT_LAYER = re.compile(r"(mask_head|pointrend)\.point_head\.layers\.\d+\.weight")


def load_shared_weights(model: "MaskRCNN | SemanticSegmenter", weights: Path) -> set[str]:
    """Loads the weights of another run into a model, in place: every tensor of the same name and shape, but no head.

    For instance models these are the weights of the detector, for semantic models those of the backbone. Every tensor
    of the other run's ResNet must be among them; the model's own ResNet may have more blocks. Runs without ImageNet
    weights start this way.

    Args:
        model: the network of a run.
        weights: the file with the other run's weights.

    Returns:
        the names of the tensors that were loaded.

    Raises:
        UserError: if the other run has no ResNet, or a tensor of its ResNet does not fit.
    """
    own, state = model.state_dict(), read_state_dict(weights)
    shared = {
        name: tensor
        for name, tensor in state.items()
        if not name.startswith(RETRAINED_HEADS) and name in own and own[name].shape == tensor.shape
    }
    _check_backbone(weights, own, state, shared)
    model.load_state_dict(shared, strict=False)
    restore_strides(model, weights)
    return set(shared)


def restore_strides(model: nn.Module, weights: Path) -> None:
    """Puts the strides of a model's ResNet where the weights that it has from a file expect them, if the file says so.

    Weights that start from Detectron2's have them in other layers than torchvision's, with the same names and shapes.

    Raises:
        UserError: if the file's metadata cannot be read.
    """
    _set_strides(model, stored_strides(weights))


def _set_strides(model: nn.Module, in_1x1: bool | None) -> None:
    if in_1x1 is not None and stride_in_1x1(model) is not None:
        set_stride_in_1x1(model, in_1x1)


def _check_backbone(
    weights: Path, own: Mapping[str, Tensor], state: Mapping[str, Tensor], loaded: Mapping[str, Tensor]
) -> None:
    # A check for any shared tensor would not do: two different ResNets share the stem and many 3x3 convolutions.
    body = [name for name in state if name.startswith("backbone.body.") and not name.endswith("num_batches_tracked")]
    wrong = next((f"{name} does not fit" for name in body if name not in loaded), "" if body else "it has no ResNet")
    if wrong:
        raise UserError(
            f"{weights}: of another backbone than the network of the run that starts from it: {wrong}; set starts_from "
            "to a run with the same backbone"
        )
    # Group norm's weights have the names and shapes of batch norm's, but no statistics.
    statistics = (name for name in own if name.startswith("backbone.body.") and name.endswith("running_mean"))
    absent = (name for name in statistics if name not in loaded and name.replace("running_mean", "weight") in loaded)
    if name := next(absent, None):
        raise UserError(
            f"{weights}: of another norm than the network of the run that starts from it: it has no {name}; set norm "
            "of the model to that of the weights, such as 'group'"
        )


class FineTuned(NamedTuple):
    """What a model has of the weights that it starts from, by the names of its tensors.

    Attributes:
        kept: tensors that are as in the file.
        adapted: layers of a point head that are as in the file for the features, and new for the coarse prediction.
        redrawn: layers that predict classes, which are new.
        absent: other tensors that the file does not have in this shape, which are new.
    """

    kept: set[str]
    adapted: list[str]
    redrawn: list[str]
    absent: list[str]

    @property
    def summary(self) -> str:
        parts = [f"{len(self.kept)} tensors kept"]
        for names, what in (
            (self.redrawn, "redrawn, because they predict classes"),
            (self.adapted, "redrawn in part, for the coarse prediction of the classes"),
            (self.absent, "new, because the file does not have them in this shape"),
        ):
            if names:
                parts.append(f"{len(names)} {what}: {', '.join(names)}")
        return "\n  ".join(parts)


class _Source(NamedTuple):
    """Weights in this library's names.

    Attributes:
        state: the tensors.
        classes: the names of their classes, if the file says them.
        stride_in_1x1: where the ResNet has its strides, if the file says it.
    """

    state: Mapping[str, Tensor]
    classes: tuple[str, ...] | None
    stride_in_1x1: bool | None


def fine_tune(model: "MaskRCNN | SemanticSegmenter", weights: Path, name: str, classes: Sequence[str]) -> FineTuned:
    """Loads all that a file has for a model, in place, but for the layers that predict classes.

    These keep their new values, unless the file says that it is of the same classes in the same order. Every tensor of
    the file's ResNet must fit.

    Args:
        model: a network, newly initialised.
        weights: a file of this library or of Detectron2.
        name: the model's name, see :func:`pointrend.list_models`.
        classes: the names of its classes, (K,).

    Raises:
        UserError: if the file has no ResNet, or a tensor of its ResNet does not fit.
    """
    source, own = _read(weights, name), model.state_dict()
    same_classes = source.classes == tuple(classes)
    loaded: dict[str, Tensor] = {}
    found = FineTuned(set(), [], [], [])
    for key, value in own.items():
        theirs = source.state.get(key)
        if theirs is None:
            if not key.endswith("num_batches_tracked"):
                (found.redrawn if key.startswith(PREDICTORS) else found.absent).append(key)
        elif same_classes and theirs.shape == value.shape:
            loaded[key] = theirs
            found.kept.add(key)
        elif key.startswith(PREDICTORS):
            found.redrawn.append(key)
        elif _POINT_LAYER.fullmatch(key):
            features = value.shape[1] - _point_classes(own, key)
            if theirs.shape[1] in (features, features + _point_classes(source.state, key)):
                loaded[key] = torch.cat((theirs[:, :features].to(value.dtype), value[:, features:]), dim=1)
                found.adapted.append(key)
            else:
                found.absent.append(key)
        elif theirs.shape == value.shape:
            loaded[key] = theirs
            found.kept.add(key)
        else:
            found.absent.append(key)
    _check_backbone(weights, own, source.state, loaded)
    model.load_state_dict(loaded, strict=False)
    _set_strides(model, source.stride_in_1x1)
    return found


def _point_classes(state: Mapping[str, Tensor], layer: str) -> int:
    """K of the point head that a layer belongs to; 0 if the state has no predictor of it."""
    predictor = state.get(f"{layer.partition('.layers.')[0]}.predictor.bias")
    return 0 if predictor is None else len(predictor)


def _read(weights: Path, name: str) -> _Source:
    try:
        state = read_state_dict(weights)
    except (OSError, ValueError) as error:
        raise UserError(str(error)) from error
    if is_detectron2(state):
        # Converted as a model with as many classes as the file has, and then fitted to this one.
        with torch.device("meta"):
            own = build_model(name, num_classes=_detectron2_classes(state)).state_dict()
        if "backbone.body.layer1.0.conv3.weight" not in own:
            raise UserError(f"{weights}: a checkpoint of Detectron2, which has no model with the backbone of {name}")
        converted, _ = from_detectron2(state, own)
        return _Source(converted, None, convention(own).stride_in_1x1)
    return _Source(state, *_stored(weights))


def _stored(weights: Path) -> tuple[tuple[str, ...] | None, bool | None]:
    """What a file of this library says: the names of its classes, and whether its strides are in the 1x1 convolutions.

    Raises:
        UserError: if its metadata cannot be read.
    """
    stored = stored_metadata(weights)
    if KEY not in stored:
        return None, json.loads(stored.get("structure", "{}")).get("stride_in_1x1")
    try:
        metadata = parse_metadata(stored[KEY])
    except MetadataError as error:
        raise UserError(f"{weights}: {error}") from error
    names = None if metadata.classes is None else tuple(known.name for known in metadata.classes)
    return names, getattr(metadata.spec, "stride_in_1x1", None)


def stored_strides(weights: Path) -> bool | None:
    """Whether the weights of a file of this library expect the strides in the 1x1 convolutions; None if it is not said.

    Raises:
        UserError: if its metadata cannot be read.
    """
    return _stored(weights)[1]


def backbone_source(weights: Path) -> BackboneSource:
    """Whose ImageNet weights those of a file go back to, as far as its names and strides tell.

    Raises:
        FileNotFoundError, ValueError: if it cannot be read.
        UserError: if its metadata cannot be read.
    """
    theirs = is_detectron2(read_state_dict(weights)) or stored_strides(weights)
    return "detectron2" if theirs else "torchvision"


def _detectron2_classes(state: Mapping[str, Tensor]) -> int:
    """The number of classes of a Detectron2 checkpoint; 1 if it has no head that says it."""
    boxes = state.get("roi_heads.box_predictor.cls_score.bias")
    if boxes is not None:
        return len(boxes) - 1  # the last is the background
    labels = next(
        (value for key, value in state.items() if re.fullmatch(r"sem_seg_head\..*predictor\.bias", key)), None
    )
    return 1 if labels is None else len(labels)
