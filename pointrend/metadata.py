"""What a weight file says about itself: the model, its structure, its classes, and where it is from.

It is one JSON object in the file's safetensors metadata, under the key ``pointrend``:

.. code-block:: json

    {"version": 1,
     "model": "pointrend_rcnn_r50_fpn_coco",
     "spec": {"kind": "instance", "backbone": "r50", "num_classes": 2, "...": "every field of InstanceSpec"},
     "classes": [{"id": 1, "name": "nucleus"}, {"id": 4, "name": "cell"}],
     "origin": {"dataset": "nuclei", "run": "pointrend_r50-0", "data": "<hash>", "code": "<hash>"}}

``spec`` has all fields of the model's spec (:mod:`pointrend.specs`), so that a later change of a name's defaults
changes no stored model. ``classes`` are in the order of the model's outputs, with the ids of the dataset's annotations;
null where nobody said. ``origin`` has any of the keys of ``ORIGIN_KEYS``. A model of pictures of more than 8 bits has
``"pixel_range": [BLACK, WHITE]``, the values that were black and white in training. There is no date and no score: the
same training writes the same bytes, and scores come after the weights. Records of trainings and evaluations have both.
"""

import json
import types
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from operator import attrgetter
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pointrend.specs import FOUR_CONV_SIDE, DeepLabV3Spec, InstanceSpec, SemanticFPNSpec, SemanticSpec

#: The key in a safetensors file's metadata.
KEY = "pointrend"
VERSION = 1
#: The attribute in which a model has its :class:`ModelMetadata`.
METADATA = "metadata"

#: What ``origin`` may say: names of the dataset and the run, hashes of the data and of the code that trained, and for
#: converted weights the file or the name that they were converted from.
ORIGIN_KEYS = ("dataset", "run", "data", "code", "source")

_KINDS: dict[str, type[InstanceSpec | SemanticSpec]] = {
    "instance": InstanceSpec,
    "deeplabv3": DeepLabV3Spec,
    "semantic_fpn": SemanticFPNSpec,
}

#: Fields of specs that can change after a model was built, and the attributes that have them then.
_CURRENT = {
    "min_size": "transform.min_size",
    "max_size": "transform.max_size",
    "rendering": "mask_head.rendering",
    "detections_per_image": "roi_heads.detections_per_img",
    "output_stride": "head.aspp.output_stride",
    "pool_window": "head.aspp.pool_window",
    "points_per_step": "pointrend.points_per_step",
}


class MetadataError(ValueError):
    """A weight file's metadata cannot be used."""


@dataclass(frozen=True)
class ClassInfo:
    """A class: its id in the dataset's annotations, and its name."""

    id: int
    name: str


@dataclass(frozen=True)
class ModelMetadata:
    """What a model is. Models of :func:`pointrend.build_model` have it as their attribute ``metadata``.

    Args:
        model: the name that the model was built by.
        spec: its structure.
        classes: K, in the order of the outputs; None if unknown.
        origin: where its weights are from, by the keys of ``ORIGIN_KEYS``.
        pixel_range: the values that were black and white in pictures of more than 8 bits; None if all had 8.

    Raises:
        TypeError: if a class is no :class:`ClassInfo`.
        ValueError: if there are not K classes, two have the same id, a key of ``origin`` is unknown, or black is not
            below white.
    """

    model: str
    spec: InstanceSpec | SemanticSpec
    classes: tuple[ClassInfo, ...] | None = None
    origin: Mapping[str, str] = field(default_factory=dict)
    pixel_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.classes is not None:
            if (other := next((each for each in self.classes if not isinstance(each, ClassInfo)), None)) is not None:
                raise TypeError(
                    f"classes has {other!r}, expected pointrend.metadata.ClassInfo(id, name) for each class"
                )
            if len(self.classes) != self.spec.num_classes:
                raise ValueError(f"there are {len(self.classes)} classes, expected {self.spec.num_classes}")
            ids = [known.id for known in self.classes]
            if len(set(ids)) != len(ids) or min(ids) < 0:
                raise ValueError(f"the ids of the classes are {ids}, expected different ones from 0")
        if unknown := sorted(self.origin.keys() - set(ORIGIN_KEYS)):
            raise ValueError(f"origin has {', '.join(unknown)}, expected {', '.join(ORIGIN_KEYS)}")
        if self.pixel_range is not None and not self.pixel_range[0] < self.pixel_range[1]:
            raise ValueError(f"pixel_range is {list(self.pixel_range)}, expected black below white")

    def to_json(self) -> str:
        """The JSON object of the module's docstring; the same text for the same content."""
        kind = next(kind for kind, cls in _KINDS.items() if type(self.spec) is cls)
        content = {
            "version": VERSION,
            "model": self.model,
            "spec": {"kind": kind, **asdict(self.spec)},
            "classes": None if self.classes is None else [asdict(known) for known in self.classes],
            "origin": dict(self.origin),
        }
        if self.pixel_range is not None:
            content["pixel_range"] = self.pixel_range
        return json.dumps(content, sort_keys=True, ensure_ascii=False)


def parse_metadata(text: str) -> ModelMetadata:
    """Reads and validates what :meth:`ModelMetadata.to_json` wrote.

    Raises:
        MetadataError: if it is of another version, or a field is missing, unknown or has a value of another type.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MetadataError(f"its metadata are no JSON ({error})") from error
    if not isinstance(content, dict) or type(content.get("version")) is not int:
        raise MetadataError("its metadata are no object with a version")
    if content["version"] != VERSION:
        raise MetadataError(
            f"its metadata are of version {content['version']}, this library reads version {VERSION}; install the "
            "version of pointrend that wrote them, or a newer one"
        )
    spec = content.get("spec")
    kind = spec.get("kind") if isinstance(spec, dict) else None
    if not isinstance(kind, str) or kind not in _KINDS:
        raise MetadataError(f"spec.kind in its metadata is {kind!r}, expected one of {', '.join(_KINDS)}")
    assert isinstance(spec, dict)
    if kind == "instance":  # files from before these fields have what all models had then
        spec = {"mask_side": FOUR_CONV_SIDE, "cascade": True if spec.get("mask_head") == "pointrend" else None, **spec}
    try:
        return ModelMetadata(
            model=_value(str, content.get("model"), "model"),
            spec=_value(_KINDS[kind], {name: value for name, value in spec.items() if name != "kind"}, "spec"),
            classes=_value(tuple[ClassInfo, ...] | None, content.get("classes"), "classes"),
            origin={
                name: _value(str, value, f"origin.{name}")
                for name, value in _value(dict, content.get("origin"), "origin").items()
            },
            pixel_range=_value(tuple[float, float] | None, content.get("pixel_range"), "pixel_range"),
        )
    except MetadataError:
        raise
    except ValueError as error:
        raise MetadataError(f"its metadata: {error}") from error


def _value(expected: Any, value: Any, where: str) -> Any:
    """A value read from JSON as the type that an annotation names, without any coercion but of lists to tuples."""
    origin, arguments = get_origin(expected), get_args(expected)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        (expected,) = (argument for argument in arguments if argument is not type(None))
        return _value(expected, value, where)
    if origin is Literal and isinstance(value, str) and value in arguments:
        return value
    if origin is tuple and isinstance(value, list):
        item_types = [arguments[0]] * len(value) if arguments[-1] is ... else arguments
        if len(item_types) == len(value):
            pairs = enumerate(zip(item_types, value, strict=True))
            return tuple(_value(item_type, item, f"{where}.{index}") for index, (item_type, item) in pairs)
    if is_dataclass(expected) and isinstance(value, dict):
        assert isinstance(expected, type)
        names = [f.name for f in fields(expected)]
        if problems := [f"no {name}" for name in names if name not in value] + [
            f"{name}, which this version does not know" for name in value if name not in names
        ]:
            raise MetadataError(f"{where} in its metadata has {', '.join(problems)}")
        hints = get_type_hints(expected)
        return expected(**{name: _value(hints[name], value[name], f"{where}.{name}") for name in names})
    if expected is float and type(value) in (int, float):
        return float(value)
    if expected in (int, str, bool, dict) and type(value) is expected:
        return value
    wanted = expected.__name__ if isinstance(expected, type) else str(expected).replace("typing.", "")
    raise MetadataError(f"{where} in its metadata is {value!r}, expected {wanted}")


def current_metadata(model: Any, stride_in_1x1: bool | None) -> ModelMetadata | None:
    """A model's metadata, with what has changed since it was built; None if :func:`build_model` did not build it.

    Args:
        model: any module.
        stride_in_1x1: where its ResNet has its strides; None if it has no bottleneck blocks.
    """
    metadata = getattr(model, METADATA, None)
    if not isinstance(metadata, ModelMetadata):
        return None
    known = {f.name for f in fields(metadata.spec)}
    changed: dict[str, Any] = {}
    if "stride_in_1x1" in known and stride_in_1x1 is not None:
        changed["stride_in_1x1"] = stride_in_1x1
    for name, attribute in _CURRENT.items():
        # None stands for a part that the model does not have, except for the window, where it is the whole image.
        if name in known and (name == "pool_window" or getattr(metadata.spec, name) is not None):
            changed[name] = attrgetter(attribute)(model)
    return replace(metadata, spec=replace(metadata.spec, **changed))
