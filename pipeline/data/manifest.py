"""Parquet manifests: what `prepare` hands to training and evaluation.

A prepared dataset is a folder with ``train.parquet`` and ``val.parquet``, one row per image with its annotations as
RLE, and ``dataset.json`` with the categories. Image files stay where they are.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.data.coco import Category, CocoSplitData, DatasetError, ImageRecord

Split = Literal["train", "val"]

SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        ("file_name", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
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


@dataclass(frozen=True)
class PreparedDataset:
    """A checked dataset: categories, and the manifest of each split."""

    folder: Path
    categories: list[Category]

    def manifest(self, split: Split) -> pa.Table:
        path = self.folder / f"{split}.parquet"
        try:
            if not pq.read_schema(path).equals(SCHEMA):
                raise pa.ArrowInvalid("it has other columns")
            return pq.read_table(path, schema=SCHEMA)
        except (OSError, pa.ArrowInvalid) as error:
            problem = f"not a readable manifest; run `dvc repro` to prepare it again ({error})"
            raise DatasetError(path, [problem]) from error


def write_manifest(images: Iterable[ImageRecord], path: Path) -> None:
    """Writes one split's images, 1,000 rows to a row group."""
    rows = [asdict(image) for image in images]
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path, compression="zstd", row_group_size=1000)


def write_prepared(folder: Path, splits: dict[Split, CocoSplitData]) -> None:
    """Writes a prepared dataset into an existing folder."""
    categories = splits["train"].categories
    for split, data in splits.items():
        write_manifest(data.images, folder / f"{split}.parquet")
    summary = {
        "categories": [asdict(category) for category in categories],
        "splits": {
            split: {
                "images": len(data.images),
                "annotations": sum(len(image.annotations) for image in data.images),
                "dropped_annotations": data.dropped,
            }
            for split, data in splits.items()
        },
    }
    (folder / "dataset.json").write_text(json.dumps(summary, indent=1) + "\n")


def read_prepared(folder: Path) -> PreparedDataset:
    """Opens a prepared dataset.

    Raises:
        DatasetError: if ``prepare`` has not finished there.
    """
    path = folder / "dataset.json"
    try:
        summary = json.loads(path.read_text())
        categories = [Category(**category) for category in summary["categories"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(path, [f"no prepared dataset; run `dvc repro` first ({error!r})"]) from error
    return PreparedDataset(folder, categories)
