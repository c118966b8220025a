"""Which images and classes of the ground truth are scored; the others are left out on both sides."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Self, TypeVar

from pipeline.metrics.errors import GroundTruthError

Key = TypeVar("Key", int, str)
SHOWN = 3


@dataclass(frozen=True)
class ImageList:
    """Images by id or name.

    Attributes:
        path: the file.
        entries: ids, or file names with or without folder and extension.
        strict: whether an image that the ground truth does not have is an error.
    """

    path: Path
    entries: tuple[int | str, ...]
    strict: bool

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads a text file with one image a line, or the images of a JSON file of COCO's or LVIS's format.

        The images of such a dataset that the ground truth does not have are no error: LVIS v1's val and COCO's
        val2017, for instance, share only some.

        Raises:
            GroundTruthError: if it is neither, or lists nothing.
        """
        try:
            text = path.read_text(encoding="utf-8")
            entries: list[int | str] = [line.strip() for line in text.splitlines() if line.strip()]
            if is_json := text.lstrip().startswith(("{", "[")):
                entries = [image["id"] for image in json.loads(text)["images"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise GroundTruthError(
                f"{path}: not a list of images ({error!r}); expected a text file with one id or file name a line, or a "
                "JSON file with `images`"
            ) from error
        if not entries:
            raise GroundTruthError(f"{path}: lists no image")
        return cls(path, tuple(entries), strict=not is_json)

    def choose(self, names: Mapping[Key, Iterable[str | int]], truth: Path) -> list[Key]:
        """The listed ones of some images, in the images' order.

        Args:
            names: for each image the ids and names by which a list may call it.
            truth: the ground truth, for the error.

        Raises:
            GroundTruthError: if none is listed, if a name stands for two, or, where the list is strict, for one that
                is not there.
        """
        called: dict[str, list[Key]] = {}
        for key, own in names.items():
            for name in {str(name) for name in own}:
                called.setdefault(name, []).append(key)
        unknown = [str(entry) for entry in self.entries if str(entry) not in called]
        if unknown and self.strict:
            raise GroundTruthError(
                f"{self.path}: {len(unknown)} of {len(self.entries)} images are not in {truth}: {_some(unknown)}"
            )
        chosen: set[Key] = set()
        for entry in map(str, self.entries):
            found = called.get(entry, [])
            if len(found) > 1:
                raise GroundTruthError(f"{self.path}: {entry} is the name of {len(found)} images: {_some(found)}")
            chosen.update(found)
        if not chosen:
            raise GroundTruthError(f"{self.path}: none of its images is in {truth}, which has {_some(list(names))}")
        return [key for key in names if key in chosen]


def _some(names: Sequence[object]) -> str:
    shown = ", ".join(map(str, names[:SHOWN]))
    return f"{shown} and {len(names) - SHOWN} more" if len(names) > SHOWN else shown


def names_of_file(file: str) -> set[str]:
    """What a list may call an image file: its path or its name, with or without extension."""
    path = PurePath(file)
    return {file, str(path.with_suffix("")), path.name, path.stem}


@dataclass(frozen=True)
class Choice:
    """The images and classes to score.

    Attributes:
        images: None for all.
        classes: names; all if empty.
    """

    images: ImageList | None = None
    classes: tuple[str, ...] = ()

    def names(self, known: Iterable[str], truth: Path) -> list[str]:
        """The chosen class names, in the order of the known ones.

        Raises:
            GroundTruthError: for an unknown name.
        """
        known = list(known)
        if unknown := [name for name in self.classes if name not in known]:
            raise GroundTruthError(f"{truth}: has no class {unknown[0]}; its classes are {_some(known)}")
        return [name for name in known if not self.classes or name in self.classes]

    def of_instances(self, truth: Mapping[str, Any], path: Path) -> dict[str, Any]:
        """COCO's or LVIS's images, annotations and categories, without those that are not chosen.

        Raises:
            GroundTruthError: if the choice does not fit them.
        """
        images = {
            image["id"]: {image["id"], *(names_of_file(image["file_name"]) if "file_name" in image else ())}
            for image in truth["images"]
        }
        kept = set(self.images.choose(images, path) if self.images else images)
        labels = class_labels(truth["categories"])
        names = set(self.names(labels.values(), path))
        categories = {id_ for id_, label in labels.items() if label in names}
        return {
            **truth,
            "images": [image for image in truth["images"] if image["id"] in kept],
            "annotations": [
                raw for raw in truth["annotations"] if raw["image_id"] in kept and raw["category_id"] in categories
            ],
            "categories": [category for category in truth["categories"] if category["id"] in categories],
        }


def class_labels(categories: Iterable[Mapping[str, Any]]) -> dict[int, str]:
    """A label for each category's id, in the order of the ids: its name, or the id too where two share the name."""
    ordered = sorted(categories, key=lambda category: category["id"])
    number = Counter(category.get("name") for category in ordered)
    return {
        category["id"]: category["name"]
        if "name" in category and number[category["name"]] == 1
        else f"{category.get('name', 'category')} ({category['id']})"
        for category in ordered
    }
