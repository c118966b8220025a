"""Operators that a GPU would launch, and reads that make the host wait for it, of every model: counted on the CPU.

    python benchmarks/operators.py

An operator of torch is about one kernel launch. Views and allocations launch none and are left out. The GPU's paths are
taken: its kernel of RoIAlign, its number of points at once, and its way of pasting masks.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest import mock

import torch
from acceptance.random_weights import randomise
from measure import parser, positive
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.ops import boxes as torchvision_boxes
from torchvision.ops import roi_align
from train_step import batch

import pointrend
from pointrend import pooling, rendering, subdivision
from pointrend.backbones import freeze_stem_and_res2
from pointrend.instance import MaskRCNN
from pointrend.paste import paste_masks_at_once

#: Operators that launch nothing, although their schema names no alias of an input.
NO_LAUNCH = (
    "aten::empty", "aten::new_empty", "aten::_unsafe_view", "aten::_reshape_alias", "aten::lift_fresh",
    "aten::promote_types",
)  # fmt: skip
#: Operators whose result, or its shape, the host has to know.
READS = (
    "aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::_unique", "aten::unique",
    "aten::bincount", "torchvision::nms",
)  # fmt: skip


class Counts(NamedTuple):
    """What one pass does on a GPU."""

    operators: int
    reads: int


class OperatorCounter(TorchDispatchMode):
    """Counts the operators and host reads within its context."""

    def __init__(self) -> None:
        super().__init__()
        self.operators: Counter[str] = Counter()
        self.reads = 0  # as operators, and by Tensor.tolist

    def __enter__(self) -> "OperatorCounter":
        # No operator, on a CPU.
        def tolist(tensor: Tensor, of_tensor: Callable[[Tensor], Any] = Tensor.tolist) -> Any:
            self.reads += 1
            return of_tensor(tensor)

        self._tolist = mock.patch.object(Tensor, "tolist", tolist)
        self._tolist.start()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._tolist.stop()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        by_mask = name in ("aten::index", "aten::index_put", "aten::index_put_") and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        self.reads += name.startswith(READS) or by_mask
        if not func.is_view and not name.startswith(NO_LAUNCH) and name not in ("aten::detach", "aten::split"):
            self.operators[name] += 1
        return func(*args, **(kwargs or {}))


def count(run: Callable[[], Any]) -> Counts:
    """Counts one run."""
    with gpu_paths(), OperatorCounter() as counter:
        run()
    return Counts(counter.operators.total(), counter.reads)


def _kernel_roi_align(feature: Tensor, rois: Tensor, side: int, scale: float, sampling_ratio: int = 0) -> Tensor:
    return roi_align(feature, rois, side, scale, sampling_ratio, aligned=True)


@contextmanager
def gpu_paths() -> Iterator[None]:
    """Takes the paths of a GPU on the CPU."""
    with (
        mock.patch.object(pooling, "roi_align", _kernel_roi_align),
        mock.patch.dict(rendering.POINTS_AT_ONCE, cpu=rendering.POINTS_AT_ONCE["cuda"]),
        mock.patch.object(rendering, "SUM_TABLE_ROWS", frozenset()),
        mock.patch.object(subdivision, "SORT_POINTS", frozenset()),
        mock.patch("pointrend.instance_inference.paste_masks", paste_masks_at_once),
        # torchvision shifts up to 5,000 boxes apart on a GPU, and 1,000 on a CPU.
        mock.patch.object(torchvision_boxes, "_batched_nms_vanilla", torchvision_boxes._batched_nms_coordinate_trick),
    ):
        yield


def inference(name: str, picture: Tensor) -> dict[str, Counts]:
    """The counts of one image (3, H, W) in [0, 1]: of an instance model also of its detector and mask head alone."""
    model = pointrend.build_model(name)
    randomise(model, 0)
    model.eval()
    model.transform.min_size, model.transform.max_size = min(picture.shape[1:]), max(picture.shape[1:])
    with torch.no_grad():
        model([picture])  # what is computed once and kept
        found = {"image": count(lambda: model([picture]))}
        if isinstance(model, MaskRCNN):
            detections = model.detect([picture])
            found["detector"] = count(lambda: model.detect([picture]))
            found["mask head"] = count(lambda: model.region_masks(detections))
    return found


def training(name: str, images: list[Tensor], targets: list[dict[str, Tensor]]) -> Counts:
    """The counts of the losses of an instance model and their backward pass."""
    model = pointrend.build_model(name)
    # The objects' classes are COCO's; a model may know fewer.
    classes = model.roi_heads.box_predictor.cls_score.out_features - 1
    targets = [target | {"labels": (target["labels"] - 1) % classes + 1} for target in targets]
    randomise(model, 0)
    freeze_stem_and_res2(model.backbone.get_submodule("body"))
    model.train()
    model(images[:1], targets[:1])  # what is computed once and kept
    return count(lambda: torch.stack(list(model(images, targets).values())).sum().backward())


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--model", nargs="+", choices=pointrend.list_models(), default=pointrend.list_models())
    options.add_argument(
        "--images", type=positive, default=2, help="in a training step; twice as many are counted as well"
    )
    options.add_argument("--objects", type=int, default=8, help="in each image")
    options.add_argument("--height", type=positive, default=256, help="of an image, in pixels")
    options.add_argument("--width", type=positive, default=320)
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    fewer = arguments.images
    arguments.images *= 2
    images, targets = batch(arguments, torch.device("cpu"))
    rows: list[dict[str, Any]] = []
    for name in arguments.model:
        found = inference(name, images[0])
        if "detector" in found:
            found |= {
                f"training step, {number} images": training(name, images[:number], targets[:number])
                for number in (fewer, 2 * fewer)
            }
        rows += [{"model": name, "of": part, **counts._asdict()} for part, counts in found.items()]
    if arguments.json:
        print(json.dumps({"title": "operators and host reads", "rows": rows}))
        return
    for row in rows:
        print(f"{row['model']:40} {row['of']:26} {row['operators']:6} operators {row['reads']:4} host reads")


if __name__ == "__main__":
    main()
