"""Reads and writes weight files: this library's own (safetensors or a state dict), torchvision's and Detectron2's.

Nothing but tensors is ever unpickled: ``.pt`` and ``.pth`` files are read with ``weights_only=True``, and ``.pkl``
files by :mod:`pointrend.unpickle`.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pointrend.backbones import freeze_stem_and_res2, set_stride_in_1x1, stride_in_1x1
from pointrend.detectron2 import (
    convention,
    detectron2_options,
    detectron2_structure,
    from_detectron2,
    from_detectron2_backbone,
    is_detectron2,
)
from pointrend.files import atomic_output
from pointrend.registry import build_model
from pointrend.unpickle import UnexpectedContent, unpickle_arrays
from pointrend.zoo import address, fetch

if TYPE_CHECKING:
    from pointrend.instance import MaskRCNN
    from pointrend.semantic import SemanticSegmenter

#: The 80 category ids that COCO uses, in order; torchvision's COCO models have an output for each of 0 to 90.
COCO_CATEGORY_IDS = tuple(i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83))

_COUNTER = "num_batches_tracked"

#: Prefixes of torchvision's names, and ours for the same weights.
_TORCHVISION_PREFIXES = {
    "backbone.body.": "backbone.body.",
    "backbone.fpn.": "backbone.fpn.",
    "rpn.head.": "rpn.head.",
    "roi_heads.box_head.": "roi_heads.box_head.",
    "roi_heads.box_predictor.": "roi_heads.box_predictor.",
    "roi_heads.mask_head.0.0.": "mask_head.head.0.",
    "roi_heads.mask_head.1.0.": "mask_head.head.2.",
    "roi_heads.mask_head.2.0.": "mask_head.head.4.",
    "roi_heads.mask_head.3.0.": "mask_head.head.6.",
    "roi_heads.mask_predictor.conv5_mask.": "mask_head.head.8.",
    "roi_heads.mask_predictor.mask_fcn_logits.": "mask_head.head.10.",
}


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` file, a ``.pt`` / ``.pth`` state dict or a ``.pkl`` of arrays, by name.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is truncated, not a weight file, or holds anything but tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such weight file")
    readers = {".safetensors": load_file, ".pkl": _read_pickle}
    try:
        state = readers.get(path.suffix, _read_torch)(path)
    except UnexpectedContent as error:
        raise ValueError(f"{path}: not a readable weight file ({error})") from error
    except Exception as error:  # damaged bytes fail in many ways: KeyError, UnicodeDecodeError, ...
        raise ValueError(f"{path}: not a readable weight file, or truncated ({type(error).__name__})") from error
    if not isinstance(state, Mapping) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()
    ):
        raise ValueError(f"{path}: expected a state dict, a mapping from names to tensors")
    return dict(state)


def _read_torch(path: Path) -> object:
    state = torch.load(path, map_location="cpu", weights_only=True)
    return state["model"] if isinstance(state, Mapping) and isinstance(state.get("model"), Mapping) else state


def _read_pickle(path: Path) -> object:
    with path.open("rb") as file:
        content = unpickle_arrays(file)
    if not isinstance(content, Mapping):
        return content
    # Detectron2 writes "model" and metadata, Caffe2 "blobs" or the weights alone.
    state = next((content[key] for key in ("model", "blobs") if isinstance(content.get(key), Mapping)), content)
    return {name: value for name, value in state.items() if name not in ("__author__", "matching_heuristics")}


def _read_metadata(path: Path) -> dict[str, str]:
    """The metadata that :func:`save_weights` stored with the tensors; empty for other kinds of files."""
    if path.suffix != ".safetensors":
        return {}
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})


def _is_torchvision(state: Mapping[str, Tensor]) -> bool:
    return any(name.startswith("roi_heads.mask_predictor.") for name in state)


def _from_torchvision(state: Mapping[str, Tensor], num_classes: int) -> dict[str, Tensor]:
    """torchvision's ``maskrcnn_resnet50_fpn`` in our names, with its 91 COCO outputs reduced to the 80 in use."""
    renamed = {}
    for name, value in state.items():
        theirs = next((prefix for prefix in _TORCHVISION_PREFIXES if name.startswith(prefix)), "")
        renamed[_TORCHVISION_PREFIXES.get(theirs, "") + name.removeprefix(theirs)] = value
    boxes, masks = "roi_heads.box_predictor.", "mask_head.head.10."
    needed = [f"{boxes}cls_score.", f"{boxes}bbox_pred.", masks]
    if not all(name + kind in renamed for name in needed for kind in ("weight", "bias")):
        return renamed
    outputs = len(renamed[f"{boxes}cls_score.bias"])
    kept = [i for i in COCO_CATEGORY_IDS if outputs == 91 and num_classes == len(COCO_CATEGORY_IDS)]
    foreground = torch.tensor(kept or range(1, outputs))
    classes = torch.cat((torch.tensor([0]), foreground))
    box_rows = (classes[:, None] * 4 + torch.arange(4)).flatten()
    for kind in ("weight", "bias"):
        # torchvision's mask head has an output for the background, ours does not.
        for name, rows in zip(needed, (classes, box_rows, foreground), strict=True):
            renamed[name + kind] = renamed[name + kind][rows]
    return renamed


def _problems(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    problems = [f"missing: {name}" for name in sorted(own.keys() - state.keys())]
    problems += [f"left over: {name}" for name in sorted(state.keys() - own.keys())]
    return problems + [
        f"shape of {name}: {tuple(state[name].shape)} in the file, {tuple(own[name].shape)} in the model"
        for name in sorted(own.keys() & state.keys())
        if state[name].shape != own[name].shape
    ]


def _structure(model: nn.Module) -> dict[str, Any]:
    """What weights assume about a model beyond names and shapes: where its strides are, and DeepLabV3's pool window."""
    found: dict[str, Any] = {"stride_in_1x1": stride_in_1x1(model)}
    for module in _pooling_modules(model):
        found["pool_window"] = module.pool_window
    return {name: value for name, value in found.items() if value is not None}


def _pooling_modules(model: nn.Module) -> Iterator[Any]:
    """The ASPP modules of a model, found by their attribute: their class would bring in the semantic models' code."""
    return (module for module in model.modules() if hasattr(module, "pool_window"))


def _set_structure(model: nn.Module, structure: Mapping[str, Any]) -> None:
    if "stride_in_1x1" in structure:
        set_stride_in_1x1(model, structure["stride_in_1x1"])
    if "pool_window" in structure:
        rows, columns = structure["pool_window"]
        for module in _pooling_modules(model):
            module.pool_window = (rows, columns)


@dataclass(frozen=True)
class _Checkpoint:
    path: Path
    state: Mapping[str, Tensor]
    metadata: Mapping[str, str]

    def options(self, name: str) -> dict[str, Any]:
        """The options of :func:`build_model` that these weights need in a model of that name."""
        if is_detectron2(self.state):
            return detectron2_options(name)
        stored = json.loads(self.metadata.get("options", "{}")) if name == self.metadata.get("model") else {}
        return {option: tuple(value) if isinstance(value, list) else value for option, value in stored.items()}


def _read(source: str | os.PathLike[str]) -> _Checkpoint:
    url = address(str(source))
    path = Path(source) if url is None else fetch(url)
    return _Checkpoint(path, read_state_dict(path), _read_metadata(path))


def _load(model: nn.Module, checkpoint: _Checkpoint, given: Mapping[str, Any] | None = None) -> None:
    """Loads a checkpoint into a model; options that the caller gave override the structure that it assumes."""
    own = model.state_dict()
    state = checkpoint.state
    structure: dict[str, Any] = json.loads(checkpoint.metadata.get("structure", "{}"))
    if is_detectron2(state) and "backbone.body.layer1.0.conv3.weight" in own:
        state, problems = from_detectron2(state, own)
        structure = detectron2_structure(own)
    else:
        if _is_torchvision(state) and "roi_heads.box_predictor.cls_score.bias" in own:
            state = _from_torchvision(state, len(own["roi_heads.box_predictor.cls_score.bias"]) - 1)
            structure = {"stride_in_1x1": False}
        # torchvision's batch norm counts its batches; the models here have no such counters.
        state = {name: value for name, value in state.items() if name in own or not name.endswith(_COUNTER)}
        problems = _problems(state, own)
    if problems:
        raise ValueError(f"{checkpoint.path}: not a checkpoint of this model:\n  " + "\n  ".join(problems))
    model.load_state_dict(state, strict=False)
    _set_structure(model, {name: (given or {}).get(name, value) for name, value in structure.items()})


def _build(checkpoint: _Checkpoint, name: str, options: Mapping[str, Any]) -> "MaskRCNN | SemanticSegmenter":
    """Builds the model of that name and loads a checkpoint into it. Options override those of the checkpoint."""
    model = build_model(name, **{**checkpoint.options(name), **options})
    _load(model, checkpoint, options)
    return model


def load_weights(model: nn.Module, source: str | os.PathLike[str]) -> None:
    """Loads a whole model's weights in place.

    The structure that weights were trained with is restored too: whether the ResNet has its strides in the 1x1
    convolutions, and whether DeepLabV3 averages the image in windows, as Detectron2's weights assume.

    Args:
        model: from :func:`pointrend.build_model`.
        source: a file written by :func:`save_weights`, any state dict of the model, a checkpoint of Detectron2, or
            one of torchvision's ``maskrcnn_resnet50_fpn`` for the models with the 4xconv head; or what
            :func:`pointrend.zoo.fetch` downloads: a URL, or a name of :data:`pointrend.zoo.ZOO` such as
            ``"pointrend_rcnn_R_50_FPN_3x_coco"``.

    Raises:
        FileNotFoundError: if there is no such file.
        OSError: if a download fails.
        ValueError: if the file is damaged, or is not for this model; then the model is unchanged and the message
            lists every name that is missing, left over or of another shape.
    """
    _load(model, _read(source))


def load_model(
    source: str | os.PathLike[str], name: str | None = None, **options: Any
) -> "MaskRCNN | SemanticSegmenter":
    """Builds the model that a weight file is for and loads the weights, in evaluation mode.

    Args:
        source: as for :func:`load_weights`.
        name: see :func:`pointrend.list_models`; by default the name stored in the file.
        options: as for :func:`pointrend.build_model`; they override those stored in the file.

    Raises:
        FileNotFoundError, OSError, ValueError: as :func:`load_weights` and :func:`pointrend.build_model`, or if neither
            the file nor ``name`` says what to build.
    """
    checkpoint = _read(source)
    name = name or checkpoint.metadata.get("model")
    if name is None:
        raise ValueError(f"{checkpoint.path}: does not say which model it is for; give the model's name")
    return _build(checkpoint, name, options).eval()


def load_detectron2(name: str, source: str | os.PathLike[str], **options: Any) -> "MaskRCNN | SemanticSegmenter":
    """A model with the weights of a Detectron2 checkpoint, which predicts what Detectron2 predicts.

    Its input is RGB images in [0, 1]. Images are resized in float, with anti-aliasing; Detectron2's own predictor
    resizes 8-bit images with Pillow, which differs by the rounding to whole grey levels.

    Args:
        name: see :func:`pointrend.list_models`.
        source: as for :func:`load_weights`.
        options: as for :func:`pointrend.build_model`, such as ``num_classes`` of a model trained on other data.

    Returns:
        the model in evaluation mode.

    Raises:
        FileNotFoundError, OSError, ValueError: as :func:`load_model`, or if it is no checkpoint of Detectron2.
    """
    checkpoint = _read(source)
    if not is_detectron2(checkpoint.state):
        raise ValueError(f"{checkpoint.path}: not a checkpoint of Detectron2, whose names begin with 'backbone.'")
    return _build(checkpoint, name, options).eval()


def load_backbone(model: nn.Module, source: str | os.PathLike[str]) -> None:
    """Loads one of Detectron2's ImageNet backbones into a model to be trained, in place, with its strides.

    Instance models keep the stem and res2 frozen from then on (Appendix A).

    Args:
        model: from :func:`pointrend.build_model`, with a backbone of bottleneck blocks.
        source: ``R-50.pkl``, ``R-101.pkl``, ``X-101-32x8d.pkl`` or ``R-103.pkl``; or a URL or name of one, such as
            ``"R-50"``.

    Raises:
        FileNotFoundError, OSError, ValueError: as :func:`load_weights`.
    """
    checkpoint = _read(source)
    own = model.state_dict()
    if "backbone.body.layer1.0.conv3.weight" not in own:
        raise ValueError(f"{checkpoint.path}: the model has no backbone of bottleneck blocks to load it into")
    values, problems = from_detectron2_backbone(checkpoint.state, own)
    if problems:
        raise ValueError(f"{checkpoint.path}: not a backbone of this model:\n  " + "\n  ".join(problems))
    model.load_state_dict(values, strict=False)
    set_stride_in_1x1(model, convention(own).stride_in_1x1)
    if any(name.startswith("roi_heads.") for name in own):  # an instance model
        freeze_stem_and_res2(model.get_submodule("backbone.body"))


def convert_weights(source: str | os.PathLike[str], output: Path, name: str, **options: Any) -> None:
    """Rewrites any weights that :func:`load_weights` reads as safetensors, with the model's name and options.

    Args:
        source: as for :func:`load_weights`.
        output: the ``.safetensors`` file.
        name: see :func:`pointrend.list_models`.
        options: as for :func:`pointrend.build_model`.

    Raises:
        FileNotFoundError, OSError, ValueError: as :func:`load_weights` and :func:`save_weights`.
    """
    checkpoint = _read(source)
    model = _build(checkpoint, name, options)
    stored = {**checkpoint.options(name), **options}
    save_weights(model, output, {"model": name, "options": json.dumps(stored)})


def save_weights(model: nn.Module, path: str | os.PathLike[str], metadata: Mapping[str, str] | None = None) -> None:
    """Writes a model's weights as safetensors, whole or not at all.

    Args:
        model: any module.
        path: the ``.safetensors`` file.
        metadata: strings to store beside the tensors, such as the model's name. The structure that
            :func:`load_weights` restores is added.

    Raises:
        ValueError: if the name does not end in ``.safetensors``.
        OSError: if the file cannot be written.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: expected a name that ends in .safetensors")
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    stored = dict(metadata or {})
    if structure := _structure(model):
        stored["structure"] = json.dumps(structure)
    with atomic_output(path) as fresh:
        try:
            save_file(state, fresh, metadata=stored)
        except SafetensorError as error:
            raise OSError(f"{path}: {error}") from error
        fresh.chmod(0o644)  # safetensors writes files that only their owner can read
