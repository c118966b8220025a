"""Tells by sizes whether pictures with EXIF data were annotated as stored or as viewers turn them."""

from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from pipeline.config.datasets import CocoSplit, DatasetConfig, HeldOut, LabelDataset
from pipeline.data.coco import load_instances
from pipeline.data.file_names import resolved_names
from pipeline.data.label_files import same_path_pairs
from pipeline.data.pictures import Size
from pipeline.data.storage import Storage
from pointrend.pixels import ORIENTATION
from pointrend.specs import Orientation


def likely_orientation(dataset: DatasetConfig) -> Orientation:
    """ "exif" if every picture whose size tells was annotated as EXIF data turn it; "stored" otherwise.

    Only the beginnings of the files are read.

    Args:
        dataset: one on this machine.

    Raises:
        DatasetError: if its annotations cannot be read.
    """
    stored = turned = 0
    for picture, annotated in _sizes(dataset):
        if (found := _size_and_turn(picture)) is None:
            continue
        (height, width), turn = found
        if turn < 5 or height == width:
            continue
        stored += annotated == (height, width)
        turned += annotated == (width, height)
    return "exif" if turned and not stored else "stored"


def _sizes(dataset: DatasetConfig) -> Iterable[tuple[Path, Size]]:
    """Each picture, and the size (H, W) of its annotations."""
    storage, root = Storage(dataset.root), Path(dataset.root)
    for split in (dataset.train, dataset.val):
        if isinstance(split, HeldOut):
            continue
        if isinstance(split, CocoSplit):
            entries = load_instances(root / split.annotations)["images"]
            names = resolved_names(storage, split.images, [entry["file_name"] for entry in entries])
            for entry in entries:
                file = root / split.images / names.get(entry["file_name"], entry["file_name"])
                yield file, (entry["height"], entry["width"])
        elif isinstance(dataset, LabelDataset):
            for pair in same_path_pairs(storage, split, dataset.suffix).found:
                if (labels := _size_and_turn(root / pair.labels)) is not None:
                    yield root / pair.image, labels[0]


def _size_and_turn(file: Path) -> tuple[Size, int] | None:
    """The stored size (H, W) of a picture and its EXIF orientation; None for no picture, which `prepare` reports."""
    try:
        with Image.open(file) as picture:
            turn = 1 if picture.format == "TIFF" else picture.getexif().get(ORIENTATION, 1)
            return (picture.height, picture.width), turn
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
