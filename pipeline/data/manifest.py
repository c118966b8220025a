"""Parquet manifests: the output of `prepare`, read by training and evaluation.

A prepared dataset is a folder with

- ``dataset.json``: its task, its categories or its label table, what it teaches (counts by class and split), what was
  left out, what looks wrong, and how unusual pictures are read;
- ``train.parquet`` and ``val.parquet``: one row per image, of instances with their masks as RLE, of semantic labels
  with the name of their PNG; images and label PNGs stay where they are;
- ``truth/``: the ground truth of the val split: ``instances.json`` with the objects of the manifest; for AP*, where the
  dataset has LVIS annotations, their COCO-category view ``lvis.json``, or ``finer.json`` of ``finer_val``; copies of
  Cityscapes' ``instanceIds`` PNGs, or of label PNGs;
- ``val_annotations.json`` of a COCO dataset: how coarse the outlines of the val annotations are, and of the finer ones
  with messages about these.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config.labels import LabelTable
from pipeline.data.coco import Category, DatasetError, ImageRecord
from pipeline.data.contents import Contents, instance_contents, label_contents, missing_classes
from pipeline.data.label_files import LabelledImage
from pipeline.data.picture_reading import PictureReading
from pointrend.pixels import Reading
from pointrend.specs import Task

Split = Literal["train", "val"]

ROWS_PER_GROUP = 1000
#: Where ``dataset.json`` has messages about what was left out of a split.
LEFT_OUT = ("dropped_annotations", "dropped_parts")
FINER_VAL = "finer_val"  # the key of a dataset's file, which messages name
FINER = "truth/finer.json"
VAL_ANNOTATIONS = "val_annotations.json"
#: Files that no training depends on, not even one that validates.
FOR_SCORES_ALONE = (FINER, VAL_ANNOTATIONS)

_IMAGE = [
    ("id", pa.int64()),
    ("file_name", pa.string()),
    ("height", pa.int32()),
    ("width", pa.int32()),
]

INSTANCE_SCHEMA = pa.schema(
    [
        *_IMAGE,
        (
            "annotations",
            pa.list_(
                pa.struct(
                    [
                        ("id", pa.int64()),
                        ("category_id", pa.int32()),
                        ("bbox", pa.list_(pa.float64(), 4)),
                        ("area", pa.float64()),
                        ("iscrowd", pa.bool_()),
                        ("counts", pa.binary()),
                    ]
                )
            ),
        ),
    ]
)

SEMANTIC_SCHEMA = pa.schema([*_IMAGE, ("label_file", pa.string())])


@dataclass(frozen=True)
class PreparedDataset:
    """A checked dataset of either task: its classes, and the manifest of each split."""

    folder: Path
    classes: list[Category] | LabelTable

    @property
    def task(self) -> Task:
        return "semantic" if isinstance(self.classes, LabelTable) else "instance"

    @property
    def categories(self) -> list[Category]:
        """The categories of an instance dataset.

        Raises:
            DatasetError: for a semantic one.
        """
        if isinstance(self.classes, LabelTable):
            raise DatasetError(self.folder, ["has semantic labels; expected a dataset of instances"])
        return self.classes

    @property
    def labels(self) -> LabelTable:
        """The label table of a semantic dataset.

        Raises:
            DatasetError: for one of instances.
        """
        if not isinstance(self.classes, LabelTable):
            raise DatasetError(self.folder, ["has instances; expected a dataset of semantic labels"])
        return self.classes

    @property
    def class_names(self) -> list[str]:
        """In the order of a network's outputs."""
        if isinstance(self.classes, LabelTable):
            return list(self.classes.names)
        return [category.name for category in self.classes]

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The content of ``dataset.json``."""
        content: dict[str, Any] = json.loads((self.folder / "dataset.json").read_text())
        return content

    @cached_property
    def val_annotations(self) -> dict[str, Any]:
        """The content of ``val_annotations.json``; empty for a dataset without one."""
        path = self.folder / VAL_ANNOTATIONS
        content: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
        return content

    @property
    def left_out(self) -> list[str]:
        """Messages about the annotations of both splits, and the parts of masks, that were left out."""
        return [line for part in self._parts for key in LEFT_OUT for line in part.get(key, [])]

    @property
    def warnings(self) -> list[str]:
        """What looks wrong in both splits."""
        return [line for part in [*self._parts, self.summary] for line in part.get("warnings", [])]

    @property
    def _parts(self) -> list[dict[str, Any]]:
        """What is said of each split, and of the finer annotations."""
        finer = self.val_annotations.get(FINER_VAL)
        return [*self.summary["splits"].values(), *([finer] if finer else [])]

    @property
    def reading(self) -> Reading:
        """How the pictures of both splits are read."""
        found = self.summary.get("pictures", {})
        black_white = found.get("pixel_range")
        return Reading(found.get("orientation", "stored"), tuple(black_white) if black_white else None)

    @property
    def picture_notes(self) -> list[str]:
        """What was done with unusual pictures."""
        notes: list[str] = self.summary.get("pictures", {}).get("notes", [])
        return notes

    @property
    def truth(self) -> Path:
        """The folder with the ground truth of the val split."""
        return self.folder / "truth"

    def manifest(self, split: Split) -> pa.Table:
        path = self.folder / f"{split}.parquet"
        schema = SEMANTIC_SCHEMA if self.task == "semantic" else INSTANCE_SCHEMA
        try:
            if not pq.read_schema(path).equals(schema):
                raise pa.ArrowInvalid("it has other columns")
            return pq.read_table(path, schema=schema)
        except (OSError, pa.ArrowInvalid) as error:
            problem = f"not a readable manifest; run `dvc repro` to prepare it again ({error})"
            raise DatasetError(path, [problem]) from error


@dataclass(frozen=True)
class SplitManifest:
    """The images of one split, and messages about what was left out and looks wrong.

    Attributes:
        images: with their objects, or with label files.
        dropped_annotations: messages about annotations that were left out.
        dropped_parts: messages about parts of masks that were left out.
        warnings: what looks wrong.
        pixels: (N, K + 1) of label files, how many pixels have each class; last, of ignored ones.
    """

    images: Sequence[ImageRecord] | Sequence[LabelledImage]
    dropped_annotations: Sequence[str] = ()
    dropped_parts: Sequence[str] = ()
    warnings: Sequence[str] = ()
    pixels: np.ndarray | None = None

    def summary(self, classes: list[Category] | LabelTable) -> Contents:
        if isinstance(classes, LabelTable):
            return {"images": len(self.images)} if self.pixels is None else label_contents(self.pixels, classes.names)
        instances = [image for image in self.images if isinstance(image, ImageRecord)]
        return {
            **instance_contents(instances, classes),
            "dropped_annotations": list(self.dropped_annotations),
            "dropped_parts": list(self.dropped_parts),
            "warnings": list(self.warnings),
        }


def write_prepared(
    folder: Path, classes: list[Category] | LabelTable, splits: dict[Split, SplitManifest]
) -> dict[Split, Contents]:
    """Writes manifests and ``dataset.json`` into an existing folder; returns what the splits teach."""
    schema = SEMANTIC_SCHEMA if isinstance(classes, LabelTable) else INSTANCE_SCHEMA
    for split, data in splits.items():
        with pq.ParquetWriter(folder / f"{split}.parquet", schema, compression="zstd") as writer:
            for start in range(0, len(data.images), ROWS_PER_GROUP):
                rows = [_row(image) for image in data.images[start : start + ROWS_PER_GROUP]]
                writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    contents = {split: data.summary(classes) for split, data in splits.items()}
    known = all("classes" in of for of in contents.values())
    summary: dict[str, Any] = {"splits": contents, "warnings": missing_classes(contents) if known else []}
    if isinstance(classes, LabelTable):
        summary |= {"task": "semantic", "labels": asdict(classes)}
    else:
        summary |= {"task": "instance", "categories": [asdict(category) for category in classes]}
    (folder / "dataset.json").write_text(json.dumps(summary, indent=1) + "\n")
    return contents


def _row(image: ImageRecord | LabelledImage) -> dict[str, Any]:
    """An image as a row; `asdict` would copy every value."""
    if isinstance(image, LabelledImage):
        return vars(image)
    return {**vars(image), "annotations": [vars(annotation) for annotation in image.annotations]}


def record_reading(folder: Path, pictures: PictureReading) -> None:
    """Adds how the pictures are read to ``dataset.json``; nothing for plain ones."""
    if entry := pictures.entry:
        path = folder / "dataset.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"pictures": entry}, indent=1) + "\n")


def read_prepared(folder: Path) -> PreparedDataset:
    """Opens a prepared dataset.

    Raises:
        DatasetError: if ``prepare`` has not finished there.
    """
    path = folder / "dataset.json"
    try:
        summary = json.loads(path.read_text())
        if summary["task"] == "instance":
            return PreparedDataset(folder, [Category(**category) for category in summary["categories"]])
        table = summary["labels"]
        names, ids, ignored = (tuple(table[key]) for key in ("names", "ids", "ignored"))
        return PreparedDataset(folder, LabelTable(names, ids, ignored, table["truth_suffix"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(path, [f"no prepared dataset; run `dvc repro` first ({error!r})"]) from error
