"""Weights from files: this library's own (safetensors or a plain state dict) and torchvision's Mask R-CNN.

Nothing is ever unpickled beyond tensors: ``.pt`` and ``.pth`` files are read with ``weights_only=True``.
"""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

#: The 80 COCO category ids in use, in order; torchvision's COCO models have an output for each of 0..90.
COCO_CATEGORY_IDS = tuple(i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83))

#: torchvision's names of what it has in common with ours.
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
    """The tensors of a ``.safetensors`` file or of a ``.pt`` / ``.pth`` state dict, by name.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is truncated, is no weight file, or holds anything but tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such weight file")
    try:
        state = load_file(path) if path.suffix == ".safetensors" else _read_torch(path)
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


def _is_torchvision(state: Mapping[str, Tensor]) -> bool:
    return any(name.startswith("roi_heads.mask_predictor.") for name in state)


def _from_torchvision(state: Mapping[str, Tensor], num_classes: int) -> dict[str, Tensor]:
    """torchvision's ``maskrcnn_resnet50_fpn`` in our names, its 91 COCO outputs reduced to the 80 in use."""
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
        # Its mask head has an output for the background, which ours has not.
        for name, rows in zip(needed, (classes, box_rows, foreground), strict=True):
            renamed[name + kind] = renamed[name + kind][rows]
    return renamed


def load_weights(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Loads a whole model's weights in place.

    Args:
        model: from :func:`pointrend.build_model`.
        path: a file written by :func:`save_weights`, any state dict of the model, or a checkpoint of torchvision's
            ``maskrcnn_resnet50_fpn`` for the models with the 4xconv head.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged, or is not for this model; then the model is unchanged and the message
            lists every name that is missing, left over or of another shape.
    """
    own = model.state_dict()
    state = read_state_dict(path)
    if _is_torchvision(state) and "roi_heads.box_predictor.cls_score.bias" in own:
        state = _from_torchvision(state, len(own["roi_heads.box_predictor.cls_score.bias"]) - 1)
    # torchvision's batch norm counts its batches, which only training needs.
    state = {name: value for name, value in state.items() if name in own or not name.endswith("num_batches_tracked")}
    problems = [f"missing: {name}" for name in sorted(own.keys() - state.keys())]
    problems += [f"left over: {name}" for name in sorted(state.keys() - own.keys())]
    problems += [
        f"shape of {name}: {tuple(state[name].shape)} in the file, {tuple(own[name].shape)} in the model"
        for name in sorted(own.keys() & state.keys())
        if state[name].shape != own[name].shape
    ]
    if problems:
        raise ValueError(f"{path}: not a checkpoint of this model:\n  " + "\n  ".join(problems))
    model.load_state_dict(state)


def save_weights(model: nn.Module, path: str | os.PathLike[str], metadata: Mapping[str, str] | None = None) -> None:
    """Writes a model's weights as safetensors, whole or not at all.

    Args:
        model: any module.
        path: the ``.safetensors`` file.
        metadata: strings to store beside the tensors, such as the model's name.

    Raises:
        ValueError: if the name does not end in ``.safetensors``.
        OSError: if the file cannot be written.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: expected a name that ends in .safetensors")
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as staging:
        fresh = Path(staging) / path.name
        try:
            save_file(state, fresh, metadata=dict(metadata or {}))
        except SafetensorError as error:
            raise OSError(f"{path}: {error}") from error
        fresh.replace(path)
