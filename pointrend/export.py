"""Exports models as graphs that run without this library: ONNX files, and programs of ``torch.export``.

A graph takes one image, float (3, H, W), RGB in [0, 1], and resizes it as the model does. It computes what the model
computes, for images of any size and any number of regions.
"""

import os
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pointrend.agreement import compare_instances, compare_semantics
from pointrend.files import atomic_output
from pointrend.instance import MaskRCNN
from pointrend.paste import paste_masks_densely
from pointrend.points import Size
from pointrend.semantic import SemanticSegmenter
from pointrend.semantic_heads import ASPP

#: (H, W) of the image that the graph is recorded with. No multiple of a stride, so that padding is recorded too.
_EXAMPLE_SIZE = (471, 643)
_OPSET = 20
_MIN_MASK_IOU = 0.99
_MIN_LABELS_EQUAL = 0.995

INSTANCE_OUTPUTS = ("boxes", "labels", "scores")


class _InstanceGraph(nn.Module):
    def __init__(self, model: MaskRCNN, paste: bool) -> None:
        super().__init__()
        self.model, self.paste = model, paste

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        found = self.model.detect([image])
        (masks,), (boxes,) = self.model.region_masks(found), found.original_boxes()
        if self.paste:
            masks = paste_masks_densely(masks, boxes, (image.shape[-2], image.shape[-1]))
        return boxes, found.labels[0], found.scores[0], masks


class _SemanticGraph(nn.Module):
    def __init__(self, model: SemanticSegmenter) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor]:
        return (self.model([image])[0],)


def _example_size(model: nn.Module) -> Size:
    windows = [module.pool_window for module in model.modules() if isinstance(module, ASPP) and module.pool_window]
    height, width = _EXAMPLE_SIZE
    # Larger than any pooling window: recorded with a smaller image, the graph would only hold for smaller ones.
    return height + max((window[0] for window in windows), default=0), width + max(
        (window[1] for window in windows), default=0
    )


def output_names(model: MaskRCNN | SemanticSegmenter, paste: bool) -> tuple[str, ...]:
    """The names of a graph's outputs, in order."""
    if isinstance(model, SemanticSegmenter):
        return ("logits",)
    return (*INSTANCE_OUTPUTS, "masks" if paste else "region_masks")


def export_program(model: MaskRCNN | SemanticSegmenter, *, paste: bool = False) -> torch.export.ExportedProgram:
    """A model as a program of ``torch.export``.

    The program of a DeepLabV3 with a pooling window takes images that are larger than the window; an ONNX file made of
    it takes any size.

    Args:
        model: it is put into evaluation mode.
        paste: instance models return ``masks`` (R, 1, H, W) on the image's pixels instead of ``region_masks``
            (R, 1, M, M) inside the boxes.

    Returns:
        a program from one image (3, H, W) to the tuple of :func:`output_names`: boxes (R, 4) in pixels of the image,
        labels (R,), scores (R,) and masks; or logits (K, H, W).

    Raises:
        ValueError: if ``paste`` is given for a semantic model.
    """
    graph: nn.Module
    if isinstance(model, MaskRCNN):
        graph = _InstanceGraph(model.eval(), paste)
    elif paste:
        raise ValueError("a semantic model has no regions to paste")
    else:
        graph = _SemanticGraph(model.eval())
    example = torch.zeros(3, *_example_size(model), device=next(model.parameters()).device)
    size = {1: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from inside torch
        return torch.export.export(graph, (example,), dynamic_shapes=(size,), strict=False)


def _require(*modules: str) -> None:
    for module in modules:
        try:
            import_module(module)
        except ImportError as error:
            raise ValueError(f"ONNX needs {module}: pip install 'pointrend[export]'") from error


def _save_onnx(program: torch.export.ExportedProgram, names: Sequence[str], path: Path) -> None:
    import onnx_ir

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        converted = torch.onnx.export(
            program, (), dynamo=True, opset_version=_OPSET, verbose=False, input_names=["image"], output_names=names
        )
    assert converted is not None
    (image,) = converted.model.graph.inputs
    image.shape = onnx_ir.Shape([3, "height", "width"])
    converted.save(path)


def _save_program(program: torch.export.ExportedProgram, names: Sequence[str], path: Path) -> None:
    torch.export.save(program, path)


#: The function that writes a graph, by the suffix of the file.
WRITERS: dict[str, Callable[[torch.export.ExportedProgram, Sequence[str], Path], None]] = {
    ".onnx": _save_onnx,
    ".pt2": _save_program,
}


def export_model(
    model: MaskRCNN | SemanticSegmenter,
    path: str | os.PathLike[str],
    *,
    paste: bool = False,
    images: Sequence[Tensor] = (),
) -> list[dict[str, float]]:
    """Writes a model as a graph, ``.onnx`` or ``.pt2``, and checks the graph against the model on images.

    Args:
        model: it is put into evaluation mode.
        path: the file.
        paste: as for :func:`export_program`.
        images: float (3, H, W), RGB in [0, 1], of any sizes.

    Returns:
        how far the two agree on each image, see :mod:`pointrend.agreement`.

    Raises:
        ValueError: for another suffix, if the packages that ONNX needs are not installed, or if graph and model
            disagree: another number of detections, a mask IoU of 0.99 or less, or more than 0.5 % of labels unequal.
            Then no file is written.
        OSError: if the file cannot be written.
    """
    path = Path(path)
    if path.suffix not in WRITERS:
        raise ValueError(f"{path}: expected a name that ends in {' or '.join(WRITERS)}")
    if path.suffix == ".onnx":
        _require("onnx_ir", "onnxscript", *(["onnxruntime"] if images else []))
    program = export_program(model, paste=paste)
    names = output_names(model, paste)
    with atomic_output(path) as fresh:
        WRITERS[path.suffix](program, names, fresh)
        if not images:
            return []
        run = load_graph(fresh, names)
        found = [_compare(model, run, image) for image in images]
        for index, agreement in enumerate(found):
            if not _agrees(agreement):
                figures = ", ".join(f"{name} {value:g}" for name, value in agreement.items())
                raise ValueError(f"{path}: not written, the graph differs from the model on image {index}: {figures}")
    return found


def load_graph(path: str | os.PathLike[str], names: Sequence[str]) -> Callable[[Tensor], dict[str, Tensor]]:
    """A graph from a file as a function of one image, run by onnxruntime or by torch.

    Args:
        path: written by :func:`export_model`.
        names: of its outputs, see :func:`output_names`.

    Raises:
        ValueError: if it is an ONNX file and onnxruntime is not installed. The returned function raises it for an
            image of a size that the program does not accept.
    """
    if Path(path).suffix == ".pt2":
        module = torch.export.load(path).module()

        def run_program(image: Tensor) -> dict[str, Tensor]:
            try:
                return dict(zip(names, module(image), strict=True))
            except AssertionError as error:
                size = f"{image.shape[-2]}x{image.shape[-1]}"
                raise ValueError(f"{path}: does not accept images of {size} pixels ({error})") from error

        return run_program
    _require("onnxruntime")
    import onnxruntime

    session = onnxruntime.InferenceSession(os.fspath(path), providers=["CPUExecutionProvider"])

    def run_session(image: Tensor) -> dict[str, Tensor]:
        outputs = session.run(list(names), {"image": image.cpu().numpy()})
        return {name: torch.from_numpy(output) for name, output in zip(names, outputs, strict=True)}

    return run_session


@torch.no_grad()
def _compare(model: nn.Module, run: Callable[[Tensor], dict[str, Tensor]], image: Tensor) -> dict[str, float]:
    expected: Any = model([image])[0]
    found = run(image)
    if isinstance(expected, Tensor):
        return compare_semantics(expected.cpu(), found["logits"].cpu())
    return compare_instances(
        {name: value.cpu() for name, value in expected.items()}, {name: value.cpu() for name, value in found.items()}
    )


def _agrees(agreement: dict[str, float]) -> bool:
    if "labels_equal" in agreement:
        return agreement["labels_equal"] >= _MIN_LABELS_EQUAL
    same_number = agreement["detections"] == agreement["other_detections"]
    ious = [value for name, value in agreement.items() if name.endswith("_iou")]
    return same_number and all(iou > _MIN_MASK_IOU for iou in ious)
