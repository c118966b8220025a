"""Reads and checks images with label PNGs: in Cityscapes' layout, or in one folder of images and one of labels.

Shape letters: H W rows and columns of an image.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import PurePosixPath
from typing import NamedTuple, TypeVar

import numpy as np

from pipeline.config.datasets import LabelSplit
from pipeline.data.coco import DatasetError
from pipeline.data.file_names import affixes, is_hidden, lower_extension
from pipeline.data.labels import read_ids
from pipeline.data.pictures import KnownPictures, check_picture, in_parallel
from pipeline.data.storage import Storage, UnreadableFileError
from pointrend.wording import counted

CITYSCAPES_IMAGE = "_leftImg8bit.png"
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")

T = TypeVar("T")


class Pair(NamedTuple):
    """An image and its labels, both relative to the dataset's root."""

    image: str
    labels: str


class Pairs(NamedTuple):
    """The images of a split that have labels, and messages about files without a counterpart."""

    found: list[Pair]
    problems: list[str]


@dataclass(frozen=True)
class LabelledImage:
    """One image; ``file_name`` and ``label_file`` are relative to the dataset's root."""

    id: int
    file_name: str
    height: int
    width: int
    label_file: str


def cityscapes_pairs(storage: Storage, split: LabelSplit, suffix: str) -> Pairs:
    """The images ``<city>/<image>_leftImg8bit.png`` of a split and their labels ``<city>/<image><suffix>``.

    It is a problem if there are no images, an image has no labels, labels have no image, or the number of images is not
    the expected one.
    """
    return _pairs(
        storage,
        split,
        is_image=lambda name: name.endswith(CITYSCAPES_IMAGE),
        is_label=lambda name: name.endswith(suffix),
        labels_of=lambda name: name.removesuffix(CITYSCAPES_IMAGE) + suffix,
    )


def same_path_pairs(storage: Storage, split: LabelSplit, suffix: str = "") -> Pairs:
    """The pictures of a split's image folder, and for each the PNG of the same path in its label folder.

    With a suffix such as ``"_mask"``, the labels of ``a/b.jpg`` are ``a/b_mask.png``, which may lie beside the image.

    Problems are those of :func:`cityscapes_pairs`, and two images that would have the same labels.
    """
    return _pairs(
        storage,
        split,
        is_image=lambda name: (
            PurePosixPath(name).suffix.lower() in PICTURES
            and not (suffix and lower_extension(name).endswith(f"{suffix}.png"))
        ),
        is_label=lambda name: lower_extension(name).endswith(f"{suffix}.png"),
        labels_of=lambda name: f"{PurePosixPath(name).with_suffix('')}{suffix}.png",
        like_images=True,
    )


def _pairs(
    storage: Storage,
    split: LabelSplit,
    *,
    is_image: Callable[[str], bool],
    is_label: Callable[[str], bool],
    labels_of: Callable[[str], str],
    like_images: bool = False,
) -> Pairs:
    """The images of a split and their labels.

    ``labels_of`` maps the path of an image below the image folder to that of its labels below the label folder.
    Where labels are named like images, and none is, ``like_images`` makes one message of it, which names the rule.
    """
    images = [name for name in storage.files(split.images) if is_image(name) and not is_hidden(name)]
    problems, written = [], dict[str, str]()  # label files as they are written, .PNG or .png
    no_pngs = dict[str, str]()  # files that would be label files, were they PNGs
    for name in storage.files(split.labels):
        if is_hidden(name):
            continue
        if is_label(name):
            other = written.setdefault(lower_extension(name), name)
            if other != name:
                problems.append(f"{other} and {name} would be the labels of the same image")
        elif split.labels != split.images and PurePosixPath(name).suffix.lower() in PICTURES:
            no_pngs[f"{PurePosixPath(name).with_suffix('')}.png"] = name
    unused = set(written)
    if split.num_images is not None and len(images) != split.num_images:
        problems.append(f"{counted(len(images), 'image')}, expected {split.num_images}")
    elif not images:
        problems.append("no image there")
    pairs: dict[str, Pair] = {}
    for name in images:
        labels = f"{split.labels}/{labels_of(name.removeprefix(f'{split.images}/'))}"
        if labels in pairs:
            problems.append(f"{pairs[labels].image} and {name} would have the same labels, {labels}")
        elif labels not in unused:
            other = f", and {no_pngs[labels]} is no PNG" if labels in no_pngs else ""
            problems.append(f"{name}: no label file {storage.where(labels)}{other}")
        else:
            pairs[labels] = Pair(name, written[labels])
    alone = sorted(unused - pairs.keys())
    problems += [f"{labels}: there is no image for it" for labels in alone]
    if like_images and len(images) > 1 and not pairs and alone:
        hint = affixes((_stem(name, split.images) for name in images), (_stem(name, split.labels) for name in alone))
        if hint:
            problems = [f"no label file has the name of an image: {images[0]}, {alone[0]}; {hint}"]
    return Pairs(list(pairs.values()), problems)


def _stem(name: str, folder: str) -> str:
    return str(PurePosixPath(name.removeprefix(f"{folder}/")).with_suffix(""))


def read_labels(
    storage: Storage,
    split: LabelSplit,
    pairs: Pairs,
    known: KnownPictures,
    interpret: Callable[[np.ndarray], T],
    on_image: Callable[[], None] | None = None,
) -> list[tuple[LabelledImage, T]]:
    """Reads and checks all images and labels of a split in parallel.

    Args:
        storage: the dataset's root.
        split: the split, for messages.
        pairs: its files.
        known: pictures decoded in earlier runs, which are not decoded again.
        interpret: computes the result from the ids (H, W) of a label file; raises ValueError for unknown ids.
        on_image: called once per image checked.

    Returns:
        Each image, with ids from 1 in the order of the pairs, and the result of ``interpret`` for its labels.

    Raises:
        DatasetError: listing everything that is wrong, files without a counterpart included.
        StorageError: if the storage cannot be reached.
    """

    def read(number: int, pair: Pair) -> tuple[LabelledImage, T] | list[str]:
        """A checked image and its result, or error messages."""
        picture = check_picture(storage, pair.image, known)
        problems, where = [picture.problem] if picture.problem else [], storage.where(pair.labels)
        try:
            ids = read_ids(io.BytesIO(storage.read(pair.labels)))
        except UnreadableFileError as error:
            return [*problems, str(error)]
        except ValueError as error:
            return [*problems, f"{where}: {error}"]
        height, width = picture.size
        if not picture.problem and ids.shape != (height, width):
            shape, image = f"{ids.shape[1]}x{ids.shape[0]}", storage.where(pair.image)
            hint = picture.exif_hint(ids.shape)
            problems.append(f"{where}: the labels are {shape}, their image {image} is {width}x{height}{hint}")
        try:
            result = interpret(ids)
        except ValueError as error:
            problems.append(f"{where}: {error}")
        return problems or (LabelledImage(number, pair.image, height, width, pair.labels), result)

    outcomes = list(in_parallel(storage, read, count(1), pairs.found, on_done=on_image))
    in_files = [problem for outcome in outcomes if isinstance(outcome, list) for problem in outcome]
    if pairs.problems or in_files:
        folder = split.labels if in_files else split.images
        raise DatasetError(storage.where(folder), [*pairs.problems, *in_files])
    return [outcome for outcome in outcomes if not isinstance(outcome, list)]
