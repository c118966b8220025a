"""Times of the heads, of whole models and of a training step in every recipe, beside Detectron2 where importable."""

from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import inference
import mask_head
import semantic_head
import torch
import train_step
from detectron2_weights import random_picture
from measure import DETECTRON2
from rcnn_pair import CONFIGS, rcnn_pair
from torch import Tensor, nn

from acceptance.random_weights import randomise
from acceptance.recipes import COMPILED, PLAIN, PRECISIONS, Recipe, timed
from acceptance.rows import NotRunError, Result, Task, message
from pointrend import build_model
from pointrend.agreement import mask_ious
from pointrend.points import Size

Batch = tuple[list[Tensor], list[dict[str, Tensor]]]


@dataclass(frozen=True)
class Sizes:
    """What is timed.

    Attributes:
        instances: instance models, of which the first is also trained.
        semantic: a semantic model.
        image: (H, W) of an image of instances.
        street: (H, W) of an image of semantic labels.
        regions: of the mask heads.
        batch: images of a training step.
        repeats: timed runs of each row.
        compiles: whether backbones are compiled too.
    """

    instances: tuple[str, ...] = ("pointrend_rcnn_r50_fpn_coco", "maskrcnn_r50_fpn_coco")
    semantic: str = "pointrend_semantic_fpn_r101_cityscapes"
    image: Size = (800, 1216)
    street: Size = (1024, 2048)
    regions: int = 100
    batch: int = 16
    repeats: int = 7
    compiles: bool = True


#: For two CPU cores: a path through the same code, in seconds.
QUICK = Sizes(
    ("pointrend_rcnn_tiny_fpn", "maskrcnn_tiny_fpn"),
    "pointrend_semantic_fpn_tiny",
    image=(128, 192),
    street=(128, 256),
    regions=5,
    batch=1,
    repeats=2,
    compiles=False,
)
#: For a CPU: a batch that fits its memory and patience.
CPU = Sizes(batch=2, repeats=3)


def _rows(case: str, time: Callable[[Recipe], Result], recipes: Sequence[Recipe] = PLAIN) -> Iterator[Task]:
    """One row of a case for each recipe."""
    return ((f"{case}, {recipe.name}", partial(time, recipe)) for recipe in recipes)


def _rows_of_detectron2(case: str, time: Callable[[Recipe], Result]) -> Iterator[Task]:
    """One row for each precision: Detectron2 has one layout, and is not compiled."""
    return ((f"{case}, {precision}", partial(_theirs, time, Recipe(precision))) for precision in PRECISIONS)


def _theirs(time: Callable[[Recipe], Result], recipe: Recipe) -> Result:
    """A row of Detectron2: where it cannot, that is no failure of this library."""
    try:
        return time(recipe)
    except NotRunError:
        raise
    except Exception as error:
        raise NotRunError(f"{DETECTRON2} raises {message(error)}") from error


def _heads(
    cases: Callable[..., dict[str, Callable[[], Tensor]]],
    options: Namespace,
    device: torch.device,
    sizes: Sizes,
    agree: Callable[[Tensor, Tensor], dict[str, float]],
) -> Iterator[Task]:
    """Rows of a head alone.

    Args:
        cases: of mask_head or semantic_head.
        options: of that script.
        device: the device.
        sizes: what is timed.
        agree: compares an output with that of the first row.
    """
    first: dict[str, Tensor] = {}
    heads = cache(lambda layout: cases(options, device, layout))

    def describe(case: str, output: Tensor) -> dict[str, float]:
        # Masks of a random 4xconv head are noise, whose halves round to either side.
        return {} if "4xconv" in case else agree(output, first.setdefault("", output))

    def time(case: str, recipe: Recipe) -> Result:
        # All of a layout's heads are built at once, from the same random numbers.
        run = heads(recipe.layout)[case]
        with torch.inference_mode():
            return timed(recipe.forward(run, device), recipe, device, sizes.repeats, partial(describe, case))

    for case in heads(torch.contiguous_format):
        yield from (_rows_of_detectron2 if DETECTRON2 in case else _rows)(case, partial(time, case))
    if not any(DETECTRON2 in case for case in heads(torch.contiguous_format)):
        yield DETECTRON2, _without_detectron2


def _without_detectron2() -> Result:
    raise NotRunError("detectron2, with its project point_rend, cannot be imported")


def mask_heads(device: torch.device, sizes: Sizes) -> Iterator[Task]:
    """PointRend at 224x224 and 4xconv at 28x28 and 56x56: features and boxes in, probabilities out."""
    height, width = sizes.image
    options = Namespace(regions=sizes.regions, classes=80, resolution=224, points=784, height=height, width=width)

    def agree(masks: Tensor, first: Tensor) -> dict[str, float]:
        ious = mask_ious(masks >= 0.5, first >= 0.5)
        return {"least IoU with the first": float(ious.min()), "mean IoU": float(ious.mean())}

    yield from _heads(mask_head.cases, options, device, sizes, agree)


def semantic_heads(device: torch.device, sizes: Sizes) -> Iterator[Task]:
    """PointRend from a coarse prediction of stride 4 to the logits of every pixel."""
    options = Namespace(classes=19, points=8096, stride=4, height=sizes.street[0], width=sizes.street[1])

    def agree(logits: Tensor, first: Tensor) -> dict[str, float]:
        return {"labels equal to the first's": float((logits.argmax(1) == first.argmax(1)).float().mean())}

    yield from _heads(semantic_head.cases, options, device, sizes, agree)


@cache
def _pair(name: str, device: torch.device) -> tuple[Any, Any]:
    """This library's model of a name, and Detectron2's of the same weights: None if it has none, or is not importable.

    Stem and res2 of both are frozen.
    """
    if name in CONFIGS:
        return rcnn_pair(name, device)
    model = build_model(name)
    randomise(model, seed=0)
    return model.to(device), None


def _of_detectron2(name: str, case: str, device: torch.device, time: Callable[[Recipe], Result]) -> Iterator[Task]:
    """Rows of Detectron2's model of a name, or one that says why there are none."""
    if _pair(name, device)[1] is not None:
        yield from _rows_of_detectron2(f"{case}, {DETECTRON2}", time)
    elif name in CONFIGS:
        yield f"{case}, {DETECTRON2}", _without_detectron2
    else:
        yield f"{case}, {DETECTRON2}", _other_model


def _other_model() -> Result:
    raise NotRunError(f"--quick takes the tiny models, which {DETECTRON2} does not have")


def _time_inference(name: str, device: torch.device, sizes: Sizes, theirs: bool, recipe: Recipe) -> Result:
    """A row of an instance model's inference."""
    own, other = _pair(name, device)
    picture = random_picture(sizes.image).to(device)
    run = inference.detectron2(other, picture) if theirs else inference.own(recipe.apply(own), picture)
    with torch.inference_mode():
        return timed(recipe.forward(run, device), recipe, device, sizes.repeats, _count)


def _count(output: dict[str, Tensor]) -> dict[str, float]:
    return {"detections": len(output["boxes"])}


def whole_models(device: torch.device, sizes: Sizes) -> Iterator[Task]:
    """An image in, boxes and masks or labels on its pixels out; images are not resized."""
    for name in sizes.instances:
        yield from _of_detectron2(name, name, device, partial(_time_inference, name, device, sizes, True))
        yield from _rows(name, partial(_time_inference, name, device, sizes, False))

    street = random_picture(sizes.street).to(device) / 255

    @cache
    def segmenter() -> nn.Module:
        model = build_model(sizes.semantic)
        randomise(model, seed=0)
        return model.to(device).eval()

    def segment(recipe: Recipe) -> Result:
        model = recipe.apply(segmenter())
        run = recipe.forward(lambda: model([street])[0].argmax(0), device)
        with torch.inference_mode():
            return timed(run, recipe, device, sizes.repeats)

    yield from _rows(sizes.semantic, segment)


def _time_step(name: str, batch: Batch, device: torch.device, sizes: Sizes, theirs: bool, recipe: Recipe) -> Result:
    """A row of an update."""
    torch.manual_seed(0)
    own, other = _pair(name, device)
    model = (other if theirs else recipe.apply(own)).train()
    inputs = (train_step.detectron2_batch(*batch),) if theirs else batch
    run = partial(train_step.update, model, train_step.optimizer_of(model), inputs, recipe.precision)
    with _event_storage() if theirs else nullcontext():
        return timed(run, recipe, device, sizes.repeats, lambda loss: {"loss": float(loss)})


def _batch(device: torch.device, sizes: Sizes) -> Batch:
    options = Namespace(images=sizes.batch, objects=8, height=sizes.image[0], width=sizes.image[1])
    return train_step.batch(options, device)


def training_steps(device: torch.device, sizes: Sizes) -> Iterator[Task]:
    """An update of a whole model: losses, gradients, SGD. Stem and res2 are frozen."""
    name = sizes.instances[0]
    batch = _batch(device, sizes)
    yield from _of_detectron2(name, name, device, partial(_time_step, name, batch, device, sizes, True))
    yield from _rows(name, partial(_time_step, name, batch, device, sizes, False))


def compiled(device: torch.device, sizes: Sizes) -> Iterator[Task]:
    """The first model's inference and update with its backbone compiled, for images of any size as in a training."""
    name = sizes.instances[0]
    steps, inferences = (
        [(f"{kind}, {row}", run) for row, run in _rows(name, time, COMPILED)]
        for kind, time in (
            ("update", partial(_time_step, name, _batch(device, sizes), device, sizes, False)),
            ("inference", partial(_time_inference, name, device, sizes, False)),
        )
    )
    for row, run in (*steps, *inferences):
        yield row, run if sizes.compiles else _not_compiled


def _not_compiled() -> Result:
    raise NotRunError("--quick compiles nothing")


def _event_storage() -> Any:
    from detectron2.utils.events import EventStorage

    return EventStorage()
