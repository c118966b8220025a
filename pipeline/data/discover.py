"""Finds out how somebody's own data are laid out, and describes them as a file of configs/datasets does."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from pipeline.config.datasets import (
    CityscapesDataset,
    CocoDataset,
    CocoSplit,
    DatasetConfig,
    HeldOut,
    LabelDataset,
    LabelSplit,
    load_dataset,
)
from pipeline.config.labels import LabelTable
from pipeline.config.locations import is_remote
from pipeline.config.reader import read
from pipeline.data.annotation_files import (
    counted_suffixes,
    format_problems,
    parse_json,
    recognise_file,
    recognise_folder,
    recognise_yaml,
)
from pipeline.data.coco import DatasetError
from pipeline.data.file_names import affixes, is_hidden, resolved_names
from pipeline.data.label_files import PICTURES, read_labels, same_path_pairs
from pipeline.data.missing_files import explain_missing
from pipeline.data.orientation import likely_orientation
from pipeline.data.pictures import KnownPictures
from pipeline.data.storage import Storage
from pipeline.errors import UserError
from pointrend.specs import Orientation

IMAGES = ("images", "imgs", "image", "JPEGImages")
LABELS = ("labels", "masks", "annotations", "label", "mask", "SegmentationClass", "gt")
VAL = ("val", "valid", "validation")
ROBOFLOW = "_annotations.coco.json"
LAYOUTS = f"""\
  - images/ and labels/ (or masks/, annotations/), or image.jpg and image_mask.png side by side; with the same names in
    both, and with the subfolders train/ and val/, or without
  - train/images/ and train/labels/, val/images/ and val/labels/
  - leftImg8bit/{{train,val}}/ and gtFine/{{train,val}}/, Cityscapes' layout and label ids
  - train/{ROBOFLOW} and valid/{ROBOFLOW}, each with its images"""


class DataError(UserError, ValueError):
    """The files of a dataset are not laid out in a known way."""


@dataclass(frozen=True)
class Source:
    """What the user says about the data.

    Attributes:
        data: an instances file in COCO's format, a folder of images and label PNGs, or a file of configs/datasets.
        images: the folder of an instances file's images; None to look for it.
        val: a second instances file.
        val_images: the folder of its images; None to look for it.
        finer_val: an instances file with finer masks of the val images.
        val_share: the share of images that are held out for val where there is no val split.
        seed: decides which.
        classes: of label PNGs, the names ``name`` with ids from 0 or ``name=id``, empty to look for them; of an
            instances file, the names of the categories to keep, empty for all.
        ignored: the label ids to ignore.
        drop_invalid: leave out unusable annotations.
        orientation: what annotations refer to; None to tell it by their sizes, as far as these do.
    """

    data: Path
    images: Path | None = None
    val: Path | None = None
    val_images: Path | None = None
    val_share: float = 0.2
    seed: int = 0
    classes: tuple[str, ...] = ()
    ignored: tuple[int, ...] = (255,)
    drop_invalid: bool = False
    orientation: Orientation | None = None
    finer_val: Path | None = None

    @property
    def held_out(self) -> HeldOut:
        return HeldOut(share=self.val_share, seed=self.seed)


def discover(source: Source) -> DatasetConfig:
    """The dataset that some files are, in the orientation of its annotations.

    Raises:
        DataError: if they are not laid out in a known way; the message says what is.
        ConfigError: if a file of configs/datasets is wrong.
        DatasetError: if an instances file or a label PNG cannot be read.
    """
    dataset = _laid_out(source)
    if source.data.suffix in (".yaml", ".yml"):
        return dataset  # which says it itself
    chosen = source.orientation or likely_orientation(dataset)
    return dataset.model_copy(update={"orientation": chosen})


def _laid_out(source: Source) -> DatasetConfig:
    """The dataset that some files are, read as stored.

    Raises:
        DataError: if they are not laid out in a known way; the message says what is.
        ConfigError: if a file of configs/datasets is wrong.
        DatasetError: if an instances file or a label PNG cannot be read.
    """
    data = source.data
    if not data.exists():
        raise DataError(f"{data}: no such file or folder")
    if data.suffix in (".yaml", ".yml"):
        if source.images or source.val or source.finer_val or source.classes or source.orientation:
            raise DataError(
                f"{data}: says itself where images, val, finer_val and classes are, and the orientation; leave out "
                "these options"
            )
        if known := recognise_yaml(read(data)):
            raise DataError(f"{data}: is {known}")
        return load_dataset(data)
    if data.is_file() and data.suffix.lower() == ".json":
        return _coco(source)
    if not data.is_dir():
        known = recognise_file(data)
        raise DataError(
            f"{data}: {f'is {known}; ' if known else ''}expected a .json file in COCO's format, a folder of images and "
            "label PNGs, or a .yaml of configs/datasets"
        )
    if (data / "train" / ROBOFLOW).is_file():
        val = next((path for name in VAL if (path := data / name / ROBOFLOW).is_file()), None)
        return _coco(replace(source, data=data / "train" / ROBOFLOW, val=source.val or val))
    if source.images or source.val or source.finer_val:
        raise DataError(f"{data}: --images, --val and --finer-val go with an instances file, and this is a folder")
    if (data / "leftImg8bit").is_dir() and (data / "gtFine").is_dir():
        if source.classes:
            raise DataError(f"{data}: Cityscapes' layout has Cityscapes' 19 classes and ids; leave out --classes")
        splits = [LabelSplit(images=f"leftImg8bit/{name}", labels=f"gtFine/{name}") for name in ("train", "val")]
        root = str(data.resolve())
        return CityscapesDataset(source="cityscapes", task="semantic", root=root, train=splits[0], val=splits[1])
    return _labels(source)


# Instances


def _coco(source: Source) -> CocoDataset:
    if any("=" in name for name in source.classes):
        raise DataError("--classes: an instances file has its own ids; expected names of its categories, with commas")
    train = source.data
    folders = [_image_folder(train, source.images)]
    files = [train.resolve()]
    if source.val is not None:
        files.append(source.val.resolve())
        folders.append(_image_folder(source.val, source.val_images, folders[0]))
    root = Path(os.path.commonpath([*(file.parent for file in files), *folders]))
    splits = [
        CocoSplit(annotations=str(file.relative_to(root)), images=str(folder.relative_to(root)))
        for file, folder in zip(files, folders, strict=True)
    ]
    finer = source.finer_val and source.finer_val.resolve()
    if finer and finer.is_relative_to(root):  # not a reason for another root, which would make the images others
        finer = finer.relative_to(root)
    return CocoDataset(
        source="coco",
        root=str(root),
        train=splits[0],
        val=splits[1] if len(splits) > 1 else source.held_out,
        finer_val=str(finer) if finer else None,
        invalid_annotations="drop" if source.drop_invalid else "error",
        classes=list(source.classes),
    )


def file_names(annotations: Path) -> list[str]:
    """The file names of an instances file's images.

    Raises:
        DataError: if there is no such file.
        DatasetError: if it is none.
    """
    try:
        content = parse_json(annotations.read_bytes())
        problems = format_problems(content)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise DataError(f"{annotations}: no such annotation file") from error
    except ValueError as error:
        raise DatasetError(annotations, [str(error)]) from error
    if problems:
        raise DatasetError(annotations, problems)
    names = (entry.get("file_name") for entry in content["images"] if isinstance(entry, dict))
    return [name for name in names if isinstance(name, str)]


def pictures_below(folder: Path) -> list[str]:
    """The paths of all images below a folder, relative to it."""
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.suffix.lower() in PICTURES)
    return sorted(name for name in found if not is_hidden(name))


def _image_folder(annotations: Path, given: Path | None, also: Path | None = None) -> Path:
    """The folder of an instances file's images: the given one, or the first usual place that has one of its images."""
    names = file_names(annotations)
    if given is not None:
        if not given.is_dir():
            raise DataError(f"{given}: no such folder of images")
        if names and not _has_any(given, names):
            raise DataError(f"{given}: {explain_missing(names, pictures_below(given))} ({annotations})")
        return given.resolve()
    beside = annotations.resolve().parent
    split = annotations.stem.removeprefix("instances_")
    places = [beside, beside / "images", beside / split, beside.parent / split, beside.parent / "images"]
    places += [also] if also else []
    for folder in places:
        if _has_any(folder, names):
            return folder
    if not names:
        return beside  # `prepare` says that it has no images
    folders = (path for above in (beside, beside.parent) for path in sorted(above.iterdir()) if path.is_dir())
    found = next((f", such as --images {path}" for path in folders if (path / names[0]).is_file()), "")
    raise DataError(
        f"{annotations}: its first image, {names[0]}, is not beside it; say with --images (--val-images) where{found}"
    )


def _has_any(folder: Path, names: Sequence[str]) -> bool:
    """Whether a folder has the file of any of the names, also one that was written as on another system."""
    if any((folder / name).is_file() for name in names):
        return True
    return folder.is_dir() and bool(resolved_names(Storage(str(folder.parent)), folder.name, names[:1]))


def remedies_for_names(dataset: DatasetConfig) -> dict[str, str]:
    """What to do about missing images: how their names differ from those that are there; empty if none are missing."""
    if not isinstance(dataset, CocoDataset) or is_remote(dataset.root):
        return {}
    splits = [split for split in (dataset.train, dataset.val) if not isinstance(split, HeldOut)]
    for split in splits:
        folder = Path(dataset.root, split.images)
        try:
            names, present = file_names(Path(dataset.root, split.annotations)), pictures_below(folder)
        except (UserError, OSError):
            continue
        found = resolved_names(Storage(dataset.root), split.images, names)
        names = [found.get(name, name) for name in names]
        if set(names) - set(present) and present:
            return {"no such file": explain_missing(names, present)}
    return {}


# Label PNGs


def _labels(source: Source) -> LabelDataset:
    root = source.data.resolve()
    layouts = ((train, val, _suffix(root / train.images, root / train.labels)) for train, val in _label_folders(root))
    found = next((layout for layout in layouts if layout[2] is not None), None)
    if found is None:
        raise DataError(f"{source.data}: {_unknown_layout(source.data)}")
    train, val, suffix = found
    where, named = _named_classes(source, root)
    classes = named or {"unknown": 0}
    try:
        # Checked here, since the configuration's own check names no file that the user has written.
        LabelTable(tuple(classes), tuple(classes.values()), source.ignored)
    except ValueError as error:
        raise DataError(f"{where}: {error} (--classes, --ignore)") from error
    dataset = LabelDataset(
        source="labels",
        root=str(root.parent if train.images == "." else root),
        train=_below(train, root),
        val=source.held_out if val is None else _below(val, root),
        suffix=suffix or "",
        classes=classes,
        ignored=[*source.ignored],
    )
    dataset = dataset.model_copy(update={"orientation": source.orientation or likely_orientation(dataset)})
    if named:
        return dataset
    found_classes = {f"class_{id_}": id_ for id_ in _ids(dataset) if id_ not in source.ignored}
    if not found_classes:
        raise DataError(f"{source.data}: its label PNGs have no class, only ignored ids")
    return dataset.model_copy(update={"classes": found_classes})


def _unknown_layout(folder: Path) -> str:
    """Why a folder is no dataset of images and label PNGs."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    if known := recognise_folder(files):
        return known
    there = f"(it has {counted_suffixes(files)})"
    for images, labels in ((folder / one, folder / other) for one in IMAGES for other in LABELS):
        if hint := affixes(_stems(images, PICTURES), _stems(labels, (".png",))):
            return f"no file of {labels.name}/ has the name of one of {images.name}/: {hint}"
        if not _stems(labels, (".png",)) and _stems(images, PICTURES) & _stems(labels, PICTURES):
            return f"{labels.name}/ has no PNG {there}; labels have to be PNGs, since JPEGs do not keep ids"
    if not any(path.suffix.lower() in PICTURES for path in files):
        return f"a folder without images {there}; expected an instances file, or images and label PNGs as in\n{LAYOUTS}"
    return f"images and label PNGs are not laid out in a known way {there}; expected one of\n{LAYOUTS}"


def _below(split: LabelSplit, root: Path) -> LabelSplit:
    return LabelSplit(images=root.name, labels=root.name) if split.images == "." else split


def _label_folders(root: Path) -> Iterator[tuple[LabelSplit, LabelSplit | None]]:
    """The folders of train and val in each layout that is there."""
    for images in (name for name in IMAGES if (root / name).is_dir()):
        for labels in (name for name in LABELS if (root / name).is_dir()):
            both = [f"{images}/", f"{labels}/"]
            splits = {
                name: LabelSplit(images=both[0] + name, labels=both[1] + name)
                for name in ("train", *VAL)
                if all((root / (folder + name)).is_dir() for folder in both)
            }
            if "train" in splits:
                yield splits["train"], next((splits[name] for name in VAL if name in splits), None)
            yield LabelSplit(images=images, labels=labels), None
    for images in IMAGES:
        for labels in LABELS:
            splits = {
                name: LabelSplit(images=f"{name}/{images}", labels=f"{name}/{labels}")
                for name in ("train", *VAL)
                if (root / name / images).is_dir() and (root / name / labels).is_dir()
            }
            if "train" in splits:
                yield splits["train"], next((splits[name] for name in VAL if name in splits), None)
    yield LabelSplit(images=".", labels="."), None


def _stems(folder: Path, suffixes: Sequence[str]) -> set[str]:
    """Paths of files below a folder without their suffix."""
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.suffix.lower() in suffixes)
    return {str(PurePosixPath(name).with_suffix("")) for name in found if not is_hidden(name)}


def _suffix(images: Path, labels: Path) -> str | None:
    """What the names of label files have after those of their images; None if no label file belongs to an image."""
    pictures, candidates = _stems(images, PICTURES), _stems(labels, (".png",))
    if images != labels and pictures & candidates:
        return ""
    ends = Counter(
        stem[at:] for stem in candidates for at in range(1, len(stem)) if stem[at] in "_-." and stem[:at] in pictures
    )
    return ends.most_common(1)[0][0] if ends else None


def _named_classes(source: Source, root: Path) -> tuple[str, dict[str, int]]:
    """Where classes are named, by the user or in the file classes.txt of the folder, and their ids; none if nowhere."""
    where, lines = "--classes", list(source.classes)
    if not lines and (file := root / "classes.txt").is_file():
        where = str(file)
        try:
            text = file.read_text(encoding="utf-8-sig")  # Windows' editors write a mark in front
        except UnicodeDecodeError as error:
            raise DataError(
                f"{file}: is not written in UTF-8 ({error.reason} at byte {error.start}); save it so"
            ) from error
        lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    numbers = count()
    classes: dict[str, int] = {}
    for line in lines:
        name, equals, number = (part.strip() for part in line.partition("="))
        if equals and not re.fullmatch("[0-9]{1,5}", number):
            raise DataError(f"{where}: class {line!r}; expected NAME or NAME=ID")
        if name in classes:
            raise DataError(f"{where}: two classes are named {name!r}; give one name and id to each")
        classes[name] = int(number) if equals else next(numbers)
    return where, classes


def _ids(dataset: LabelDataset) -> list[int]:
    """The ids in the label PNGs of a dataset, in order."""
    storage, known = Storage(dataset.root), KnownPictures({}, dataset.orientation)
    found: set[int] = set()
    for split in (dataset.train, dataset.val):
        if isinstance(split, LabelSplit):
            pairs = same_path_pairs(storage, split, dataset.suffix)
            for _, ids in read_labels(storage, split, pairs, known, _present):
                found |= ids
    return sorted(found)


def _present(ids: np.ndarray) -> set[Any]:
    return set(np.unique(ids).tolist())
