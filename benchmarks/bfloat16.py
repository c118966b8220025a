"""What bfloat16 autocast changes in a training step of an instance model with frozen batch norm, and what it saves.

    python benchmarks/bfloat16.py --threads 2

For COCO's and Cityscapes' sizes it prints, against float32:

- how far features pooled by RoIAlign are off, beside the rounding of the features themselves to bfloat16;
- how far losses and gradients are off with float32's proposals, beside what another draw of RoIs and points changes;
- the bytes that the forward pass saves for the backward pass, with the bfloat16 copies of the weights.

On a CPU without instructions for bfloat16, sums are in float32 and rounded once, as tensor cores compute them.

A third row is bfloat16 as it was with torchvision's own frozen batch norm, which promotes features to float32, and with
RoIs and proposals rounded to bfloat16.
"""

import argparse
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
import torchvision.ops
from float32_sums import Float32Sums, emulates_bfloat16
from mask_head import random_boxes
from measure import parser, positive
from rcnn_pair import CONFIGS, rcnn_pair
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from train_step import batch

from pointrend import pooling
from pointrend.frozen_norm import FoldedConv2d, FrozenBatchNorm2d
from pointrend.points import Size
from pointrend.pooling import pool_regions, roi_align

SIZES = [[800, 1216], [1024, 2048]]  # rows and columns of COCO's and Cityscapes' images
MIB = 2**20


@contextmanager
def rounding_boxes() -> Iterator[None]:
    """Promotes features in a batch norm of its own, and rounds RoIs, as before."""

    def rounded(feature: Tensor, rois: Tensor, *arguments: Any) -> Tensor:
        return roi_align(feature, rois.bfloat16().float(), *arguments)

    with (
        mock.patch.object(FoldedConv2d, "forward", nn.Conv2d.forward),
        mock.patch.object(FrozenBatchNorm2d, "forward", torchvision.ops.FrozenBatchNorm2d.forward),
        mock.patch.object(pooling, "roi_align", rounded),
    ):
        yield


class SavedBytes:
    """Counts the bytes that autograd saves, each storage once, without parameters and buffers."""

    def __init__(self, model: nn.Module) -> None:
        self._known = {value.untyped_storage().data_ptr() for value in model.state_dict().values()}
        self._storages: dict[int, Any] = {}

    def __enter__(self) -> "SavedBytes":
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._known:
            self._storages[storage.data_ptr()] = storage  # kept, so that no later tensor has its address
        return tensor

    @property
    def total(self) -> int:
        return sum(storage.nbytes() for storage in self._storages.values())


def step(model: Any, images: list[Tensor], targets: list[dict[str, Tensor]], proposals: Any, **how: Any) -> Any:
    """The losses, all gradients as one vector on the CPU, and the bytes saved, of one training step.

    Args:
        model, images, targets: as they are trained.
        proposals: what the RPN's ``select_proposals`` returns.
        how: ``bfloat16`` or not, and the ``seed``.
    """
    torch.manual_seed(how["seed"])
    model.zero_grad()
    device = images[0].device
    with Float32Sums() if emulates_bfloat16(device) else nullcontext():
        with (
            mock.patch.object(model.rpn, "select_proposals", return_value=proposals),
            SavedBytes(model) as saved,
            torch.autocast(device.type, torch.bfloat16, enabled=how["bfloat16"]),
        ):
            losses = model(images, targets)
            total = sum(losses.values())
        size = saved.total
        total.backward()
    gradients = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).cpu()
    return {name: loss.item() for name, loss in losses.items()}, gradients, size


def off(found: Tensor, exact: Tensor) -> float:
    """The distance of a vector from another, as a share of the other's length."""
    return ((found.double() - exact.double()).norm() / exact.double().norm()).item()


@torch.no_grad()
def pooled_errors(model: Any, images: list[Tensor], size: Size) -> dict[str, float]:
    """Relative errors: of features rounded to bfloat16, of what is pooled from them, and with rounded boxes."""
    features = model.backbone(model.transform(images).tensors)
    rounded = {name: feature.bfloat16() for name, feature in features.items()}
    boxes = [random_boxes(256, size).to(images[0].device) for _ in images]
    exact = pool_regions(features, boxes, 7)
    inexact_boxes = [image_boxes.bfloat16().float() for image_boxes in boxes]
    moved = torch.cat(inexact_boxes) - torch.cat(boxes)
    return {
        "features": off(rounded["p2"].flatten(), features["p2"].flatten()),
        "pooled": off(pool_regions(rounded, boxes, 7), exact),
        "pooled, rounded boxes": off(pool_regions(rounded, inexact_boxes, 7), exact),
        "mean px": moved.abs().mean().item(),
        "max px": moved.abs().max().item(),
    }


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--model", choices=sorted(CONFIGS), default="pointrend_rcnn_r50_fpn_coco")
    options.add_argument(
        "--size", type=int, nargs=2, action="append", metavar=("HEIGHT", "WIDTH"), help="instead of both, in pixels"
    )
    options.add_argument("--images", type=positive, default=1)
    options.add_argument("--objects", type=int, default=16, help="in each image")
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    model = rcnn_pair(arguments.model, device)[0].train()
    results = {}
    for height, width in arguments.size or SIZES:
        size, name = (height, width), f"{height}x{width}"
        images, targets = batch(
            argparse.Namespace(images=arguments.images, objects=arguments.objects, height=height, width=width), device
        )
        with torch.no_grad():
            transformed = model.transform(images)
            boxes = model.rpn.propose(transformed, model.backbone(transformed.tensors))
        proposals, rounded = ((list(of), None) for of in (boxes, [each.bfloat16() for each in boxes]))
        exact, gradients, full = step(model, images, targets, proposals, bfloat16=False, seed=0)
        rows = {"float32": {"loss": sum(exact.values()), "MiB saved": full / MIB}}
        for row, bfloat16, seed in (
            ("float32, another draw", False, 1),
            ("bfloat16", True, 0),
            ("bfloat16 before", True, 0),
        ):
            with ExitStack() as stack:
                before = row.endswith("before")
                if before:
                    stack.enter_context(rounding_boxes())
                regions = rounded if before else proposals
                losses, found, saved = step(model, images, targets, regions, bfloat16=bfloat16, seed=seed)
            rows[row] = {
                "loss": sum(losses.values()),
                "largest loss off": max(abs(losses[key] - value) / abs(value) for key, value in exact.items()),
                "gradient off": off(found, gradients),
                "cosine": torch.nn.functional.cosine_similarity(found.double(), gradients.double(), dim=0).item(),
                "MiB saved": saved / MIB,
            }
        results[name] = {"pooled": pooled_errors(model, images, size), "steps": rows}
    if arguments.json:
        print(json.dumps(results))
        return
    console = Console(width=130)
    for name, found in results.items():
        errors = found["pooled"]
        title = f"{arguments.model}, {arguments.images} x {name}, {device}"
        table = Table(title=title)
        table.add_column("")
        columns = ("loss", "largest loss off", "gradient off", "cosine", "MiB saved")
        for column in columns:
            table.add_column(column, justify="right")
        for step_name, row in found["steps"].items():
            table.add_row(step_name, *(f"{row[column]:.4g}" if column in row else "" for column in columns))
        console.print(table)
        console.print(
            f"Relative errors: P2 rounded to bfloat16 {errors['features']:.5f}; pooled from rounded features "
            f"{errors['pooled']:.5f}; with boxes rounded too (by {errors['mean px']:.2f} px on average, "
            f"{errors['max px']:.2f} at most) {errors['pooled, rounded boxes']:.5f}"
        )


if __name__ == "__main__":
    main()
