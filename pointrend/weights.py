"""Reads and writes weight files: this library's own (safetensors or a state dict), torchvision's and Detectron2's.

Nothing but tensors is ever unpickled: ``.pt`` and ``.pth`` files are read with ``weights_only=True``, and ``.pkl``
files by :mod:`pointrend.unpickle`.
"""

import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pointrend.backbones import freeze_stem_and_res2, set_stride_in_1x1, stride_in_1x1, unused_p2
from pointrend.classes import CITYSCAPES_INSTANCES, CITYSCAPES_LABELS, COCO
from pointrend.detectron2 import (
    convention,
    detectron2_options,
    detectron2_structure,
    from_detectron2,
    from_detectron2_backbone,
    is_detectron2,
)
from pointrend.files import atomic_output
from pointrend.metadata import KEY, METADATA, ClassInfo, MetadataError, ModelMetadata, current_metadata, parse_metadata
from pointrend.registry import build_from_metadata, spec_of, with_options
from pointrend.specs import MODELS, task_of
from pointrend.torchvision import from_torchvision, is_torchvision
from pointrend.unpickle import UnexpectedContent, unpickle_arrays
from pointrend.zoo import ZOO_MODELS, address, fetch

if TYPE_CHECKING:
    from pointrend.instance import MaskRCNN
    from pointrend.semantic import SemanticSegmenter

_COUNTER = "num_batches_tracked"


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


def stored_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file; empty for other kinds of files."""
    if path.suffix != ".safetensors":
        return {}
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})


def _problems(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    problems = [f"missing: {name}" for name in sorted(own.keys() - state.keys())]
    problems += [f"left over: {name}" for name in sorted(state.keys() - own.keys())]
    problems += [
        f"shape of {name}: {tuple(state[name].shape)} in the file, {tuple(own[name].shape)} in the model"
        for name in sorted(own.keys() & state.keys())
        if state[name].shape != own[name].shape
    ]
    for name, background in (("roi_heads.box_predictor.cls_score.bias", 1), ("head.predictor.bias", 0)):
        if name in state and name in own and state[name].shape != own[name].shape:
            problems.append(f"its classes are {len(state[name]) - background}: pass that as num_classes")
    return problems


def _pooling_modules(model: nn.Module) -> Iterator[Any]:
    """The ASPP modules of a model, found by their attribute: their class would bring in the semantic models' code."""
    return (module for module in model.modules() if hasattr(module, "pool_window"))


def _set_structure(model: nn.Module, structure: Mapping[str, Any]) -> None:
    """Sets what weights assume beyond names and shapes: where strides are, and DeepLabV3's pool window."""
    if structure.get("stride_in_1x1") is not None and stride_in_1x1(model) is not None:
        set_stride_in_1x1(model, structure["stride_in_1x1"])
    if "pool_window" in structure:
        window = structure["pool_window"]
        for module in _pooling_modules(model):
            module.pool_window = None if window is None else tuple(window)


@dataclass(frozen=True)
class _Checkpoint:
    source: str
    path: Path
    state: Mapping[str, Tensor]
    metadata: ModelMetadata | None
    #: The metadata of files from before :mod:`pointrend.metadata`: a model's name, and the structure of its weights.
    earlier: Mapping[str, str]

    def structure(self) -> dict[str, Any]:
        """The structure that the weights assume, as far as the file says it."""
        if self.metadata is None:
            return dict(json.loads(self.earlier.get("structure", "{}")))
        spec = self.metadata.spec
        return {name: getattr(spec, name) for name in ("stride_in_1x1", "pool_window") if hasattr(spec, name)}

    def describe(self, name: str | None, options: Mapping[str, Any]) -> ModelMetadata:
        """What to build for these weights, from the file and from what the caller gave.

        Raises:
            ValueError: if together they do not say it, or contradict each other.
        """
        if name is not None:
            spec_of(name, {})  # raises for an unknown name
        if self.metadata is not None:
            stored = self.metadata
            if name not in (None, stored.model):
                raise ValueError(f"{self.path}: is of model {stored.model!r}, not {name!r}; leave out the name")
            return replace(stored, spec=with_options(stored.model, stored.spec, options))
        published = ZOO_MODELS.get(self.source)
        name = name or published
        if name is None:
            raise ValueError(self._what_to_pass())
        defaults = detectron2_options(name) if is_detectron2(self.state) else {}
        spec = spec_of(name, {**defaults, **options})
        classes = _published_classes(name) if published == name else None
        if classes is not None and len(classes) != spec.num_classes:
            classes = None
        return ModelMetadata(name, spec, classes, {"source": self.source if published else self.path.name})

    def _what_to_pass(self) -> str:
        said = f" (the file names {self.earlier['model']})" if "model" in self.earlier else ""
        return (
            f"{self.path}: does not say which model it is for: it is a bare state dict, another program's checkpoint, "
            f"or from an earlier version of this library. Pass the model's name{said}, see `pointrend models`, and "
            "what differs from that model's defaults, such as num_classes, norm, min_size and max_size: --model NAME "
            "--num-classes K --norm NORM --min-size PIXELS --max-size PIXELS"
        )


def _published_classes(name: str) -> tuple[ClassInfo, ...]:
    """The classes of the zoo's weights for a model."""
    if name.endswith("_coco"):
        return COCO
    return CITYSCAPES_INSTANCES if task_of(MODELS[name]) == "instance" else CITYSCAPES_LABELS


def _read(source: str | os.PathLike[str]) -> _Checkpoint:
    url = address(str(source))
    path = Path(source) if url is None else fetch(url)
    state, stored = read_state_dict(path), stored_metadata(path)
    try:
        metadata = parse_metadata(stored[KEY]) if KEY in stored else None
    except MetadataError as error:
        raise MetadataError(f"{path}: {error}") from error
    return _Checkpoint(str(source), path, state, metadata, {} if metadata else stored)


def _load(model: nn.Module, checkpoint: _Checkpoint, given: Mapping[str, Any] | None = None) -> None:
    """Loads a checkpoint into a model; options that the caller gave override the structure that it assumes."""
    own = model.state_dict()
    unused = unused_p2(checkpoint.state, own)
    state: Mapping[str, Tensor] = {name: value for name, value in checkpoint.state.items() if name not in unused}
    structure = checkpoint.structure()
    if is_detectron2(state) and "backbone.body.layer1.0.conv3.weight" in own:
        state, problems = from_detectron2(state, own)
        structure = detectron2_structure(own)
    else:
        if is_torchvision(state) and "roi_heads.box_predictor.cls_score.bias" in own:
            state = from_torchvision(state, len(own["roi_heads.box_predictor.cls_score.bias"]) - 1)
            structure = {"stride_in_1x1": False}
        # torchvision's batch norm counts its batches; the models here have no such counters.
        state = {name: value for name, value in state.items() if name in own or not name.endswith(_COUNTER)}
        problems = _problems(state, own)
    if problems:
        raise ValueError(f"{checkpoint.path}: not a checkpoint of this model:\n  " + "\n  ".join(problems))
    if unused:
        warnings.warn(
            f"{checkpoint.path}: left out {', '.join(unused)}: this SemanticFPN merges P3 to P5 and has no P2",
            stacklevel=3,
        )
    model.load_state_dict(state, strict=False)
    overrides = {name: value for name, value in (given or {}).items() if name in structure and value is not None}
    _set_structure(model, structure | overrides)


def _build(checkpoint: _Checkpoint, name: str | None, options: Mapping[str, Any]) -> "MaskRCNN | SemanticSegmenter":
    """Builds the model of a checkpoint and loads it. Options override those of the checkpoint."""
    model = build_from_metadata(checkpoint.describe(name, options))
    _load(model, checkpoint, options)
    model.metadata = current_metadata(model, stride_in_1x1(model))
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

    Warns:
        UserWarning: if the file has a whole pyramid and the model, a SemanticFPN from P3 on, has no use for its P2.
    """
    checkpoint = _read(source)
    _load(model, checkpoint)
    current = current_metadata(model, stride_in_1x1(model))
    if current is not None and (stored := checkpoint.metadata) is not None:
        current = replace(current, classes=stored.classes, origin=stored.origin)
    if current is not None:
        setattr(model, METADATA, current)


def load_model(
    source: str | os.PathLike[str], name: str | None = None, **options: Any
) -> "MaskRCNN | SemanticSegmenter":
    """Builds the model that a weight file is for and loads the weights, in evaluation mode.

    Args:
        source: as for :func:`load_weights`.
        name: see :func:`pointrend.list_models`. Files of :func:`save_weights` and the zoo's names say it themselves.
        options: as for :func:`pointrend.build_model`; they override those stored in the file.

    Returns:
        the model, whose attribute ``metadata`` has its classes and where its weights are from
        (:class:`pointrend.metadata.ModelMetadata`).

    Raises:
        FileNotFoundError, OSError, ValueError: as :func:`load_weights` and :func:`pointrend.build_model`, or if neither
            the file nor ``name`` says what to build, or they contradict each other.
    """
    return _build(_read(source), name, options).eval()


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


def convert_weights(
    source: str | os.PathLike[str], output: Path, name: str | None = None, **options: Any
) -> ModelMetadata:
    """Rewrites any weights that :func:`load_model` reads as safetensors that say what they are.

    Args:
        source: as for :func:`load_weights`.
        output: the ``.safetensors`` file.
        name: as for :func:`load_model`.
        options: as for :func:`pointrend.build_model`.

    Returns:
        the metadata that were written.

    Raises:
        FileNotFoundError, OSError, ValueError: as :func:`load_model` and :func:`save_weights`.
    """
    model = _build(_read(source), name, options)
    assert model.metadata is not None
    save_weights(model, output, origin=model.metadata.origin)
    return model.metadata


def save_weights(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    classes: Sequence[ClassInfo] | None = None,
    origin: Mapping[str, str] | None = None,
    pixel_range: tuple[float, float] | None = None,
) -> None:
    """Writes a model's weights as safetensors, whole or not at all.

    The weights of a model that :func:`pointrend.build_model` built say what they are (:mod:`pointrend.metadata`), so
    that :func:`load_model` needs nothing but the file. Those of any other module are written without.

    Args:
        model: any module.
        path: the ``.safetensors`` file.
        classes: the K classes, in the order of the outputs; by default those of ``model.metadata``.
        origin: where the weights are from, see :data:`pointrend.metadata.ORIGIN_KEYS`.
        pixel_range: see :class:`pointrend.metadata.ModelMetadata`; by default that of ``model.metadata``.

    Raises:
        TypeError: if a class is no :class:`pointrend.metadata.ClassInfo`.
        ValueError: if the name does not end in ``.safetensors``, or the classes do not fit the model.
        OSError: if the file cannot be written.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: expected a name that ends in .safetensors")
    stored = {}
    if (metadata := current_metadata(model, stride_in_1x1(model))) is not None:
        known = metadata.classes if classes is None else tuple(classes)
        values = metadata.pixel_range if pixel_range is None else pixel_range
        stored[KEY] = replace(metadata, classes=known, origin=origin or {}, pixel_range=values).to_json()
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    with atomic_output(path) as fresh:
        try:
            save_file(state, fresh, metadata=stored)
        except SafetensorError as error:
            raise OSError(f"{path}: {error}") from error
        fresh.chmod(0o644)  # safetensors writes files that only their owner can read
