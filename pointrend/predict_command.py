"""``pointrend predict``: from the command line's options to files, with progress and messages."""

import math
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pointrend.inputs import Input, find_inputs
from pointrend.predict import (
    FOLDERS,
    KINDS,
    MAX_PIXELS_AT_ONCE,
    TILE,
    Settings,
    Writer,
    choose_classes,
    class_infos,
    predict_files,
)
from pointrend.runs import USUAL_SCORE, find_weights, why_best
from pointrend.semantic import SemanticSegmenter
from pointrend.specs import COARSE_SIDE, InstanceSpec, Rendering
from pointrend.tiles import check_side
from pointrend.weights import load_model
from pointrend.wording import counted


@dataclass(frozen=True)
class Request:
    """The options of ``pointrend predict``; see there."""

    images: list[str]
    weights: str
    out: Path
    save: str
    classes: str | None
    score: float | None
    resolution: int | None
    points: int | None
    show_points: bool
    device: str
    batch: int
    half: bool
    bits: int | None
    tile: int | None
    overwrite: bool
    model: str | None
    options: dict[str, Any]


def choose_device(name: str) -> torch.device:
    """The device of a name; "auto" is a GPU if there is one.

    Raises:
        ValueError: if there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {name}: not a device of this machine ({str(error).splitlines()[0]})") from error
    return device


def chosen_kinds(save: str) -> list[str]:
    """The kinds of files that ``--save`` names.

    Raises:
        ValueError: for an unknown one.
    """
    kinds = [kind.strip() for kind in save.split(",")]
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise ValueError(f"--save {', '.join(unknown)}: expected some of {','.join(KINDS)}")
    return kinds


def check_folder(folder: Path, overwrite: bool) -> None:
    """Raises ValueError if a folder cannot be written, or has files and ``overwrite`` is off."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: is a file; name a folder with --out")
    above = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    try:
        with tempfile.TemporaryDirectory(dir=above):
            pass
    except OSError as error:
        raise ValueError(
            f"{folder}: cannot be written ({error.strerror}: {above}); name another one with --out"
        ) from error
    if not overwrite and folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder}: has files already; name another folder with --out, or add --overwrite")


def check_inputs(folder: Path, images: Sequence[Input]) -> None:
    """Raises ValueError if an image to read lies in one of the folders that are written below ``folder``."""
    written = [os.path.realpath(folder / name) for name in FOLDERS]
    for image in images:
        real = Path(os.path.realpath(image.path))  # unlike resolve(), no error for a loop of links: reading reports it
        if any(real.is_relative_to(each) for each in written):
            raise ValueError(f"{image.path}: is in a folder that would be written; choose another one with --out")


def least_score(asked: float | None, scores: Mapping[str, float]) -> tuple[float, str | None]:
    """The least score of an object to show, and what to say of it.

    Args:
        asked: what ``--score`` says; None takes the one with the best F1 on the run's val images.
        scores: of the run.
    """
    if asked is not None:
        return asked, None
    if "F1_score" not in scores or not scores.get("F1", 1):  # of 0, no score is the best one
        return USUAL_SCORE, None
    best = scores["F1_score"]
    return best, f"showing objects of score {best:g} or more, where F1 was best on the val images; --score changes it"


def empty_hint(best: list[float], done: int, score: float) -> str:
    """What to say of images without an object to show, with the best score seen in each; 0 for none at all."""
    where = f"in {len(best)} of {counted(done, 'image')}"
    # Down to the next tenth below the best, or hundredth for low ones, so that it would be shown.
    parts = 10 if max(best) >= 0.1 else 100
    lower = math.floor(max(best) * parts + 1e-6) / parts
    if lower <= 0:
        return f"no object was found {where}, at any score"
    return f"no object scored {score:g} or more {where}; the best was {max(best):.2f}: try --score {lower:.2g}"


def run_predict(request: Request) -> bool:
    """Segments the images, and returns whether any failed.

    Raises:
        OSError, ValueError: if nothing can be segmented: wrong options, weights, or no images.
    """
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    kinds = chosen_kinds(request.save)
    check_folder(request.out, request.overwrite)
    device = choose_device(request.device)
    inputs = find_inputs(request.images, sys.stdin)
    check_inputs(request.out, inputs.images)
    source, scores = find_weights(request.weights)
    model: Any = load_model(source, request.model, **request.options)
    spec = model.metadata.spec
    rendering = None
    if request.tile is not None:
        check_side(request.tile)
    if isinstance(spec, InstanceSpec):
        if request.tile is not None:
            raise ValueError("--tile is for semantic models; instance models make every image smaller")
        own = spec.rendering
        if (request.points is not None or request.resolution is not None) and own is None:
            size = f"{spec.mask_side}x{spec.mask_side}"
            raise ValueError(f"{spec.mask_head} masks are {size}: --resolution and --points are for PointRend's")
        if own is not None:
            resolution, points = request.resolution, request.points
            sides = [COARSE_SIDE * 2**step for step in range(8)]
            if resolution is not None and resolution not in sides:
                raise ValueError(f"--resolution is {resolution}, expected one of {', '.join(map(str, sides))}")
            rendering = Rendering(resolution or own.resolution, own.num_points if points is None else points)
    elif request.resolution is not None:
        raise ValueError("--resolution is for objects' masks; semantic models predict every pixel of the image")
    elif request.points is not None and not spec.has_pointrend:
        raise ValueError("--points is for models with a PointRend head, which this one does not have")
    if request.show_points and not spec.has_pointrend:
        raise ValueError("--show-points is for models with a PointRend head, which this one does not have")
    classes = class_infos(model)
    names = None if request.classes is None else [name.strip() for name in request.classes.split(",")]
    score, why_score = least_score(request.score, scores)
    settings = Settings(
        score,
        choose_classes(classes, names),
        rendering,
        request.points,
        request.batch,
        request.half,
        request.bits,
        request.show_points,
        request.tile,
        model.metadata.pixel_range,
    )
    where = "".join(f", {name} {value:.1f}%" for name, value in scores.items() if name != "F1_score")
    console.print(
        f"{source}: {model.metadata.model}, {counted(len(classes), 'class')}{where}; on {device}", markup=False
    )
    for why in (why_best(source), why_score):
        if why is not None:
            console.print(why, markup=False)
    if model.metadata.classes is None:
        console.print("the weights do not name their classes: they are called class 1, class 2, ... with ids from 1")
    if inputs.others:
        shown = ", ".join(path.name for path in inputs.others[:3]) + (", ..." if len(inputs.others) > 3 else "")
        others = counted(len(inputs.others), "file")
        console.print(f"left out {others} without the suffix of an image: {shown}", markup=False)

    model.to(device)
    writer = Writer(request.out, kinds, classes)
    begun = time.monotonic()
    columns = (TextColumn("segmenting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=len(inputs.images))
        outcome = predict_files(model, inputs.images, settings, writer, lambda: progress.advance(task))
    seconds = time.monotonic() - begun
    if outcome.best_of_empty:
        console.print(empty_hint(outcome.best_of_empty, outcome.done, score), markup=False)
    if outcome.tiled:
        limit = "a tile" if request.tile else f"{MAX_PIXELS_AT_ONCE / 1e6:g} million pixels"
        console.print(
            f"{outcome.tiled} of the images have more than {limit}: predicted in overlapping tiles of "
            f"{request.tile or TILE} x {request.tile or TILE} pixels; --tile chooses their size"
        )
    for remark in outcome.remarks:
        console.print(remark, markup=False)
    for message in outcome.failed:
        console.print(f"error: {message}", style="red", markup=False)
    if isinstance(model, SemanticSegmenter):
        found = f"{counted(outcome.regions, 'mask')} of classes"
    else:
        found = f"{counted(outcome.regions, 'object')} of score {score:g} or more"
    total = len(inputs.images)
    images = counted(outcome.done, "image") + (f" of {total}" if outcome.done < total else "")
    print(f"{request.out}: {images}, {found}, {outcome.done / seconds:.2g} images/s")
    return bool(outcome.failed)
