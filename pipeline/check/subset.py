"""Makes a prepared dataset with very few val images, to check an evaluation with."""

import json
import shutil
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow.parquet as pq

from pipeline.data.manifest import read_prepared
from pipeline.files import atomic_folder


def with_few_val_images(prepared: Path, images: int, folder: Path) -> None:
    """Writes a copy of the val split of a prepared dataset with its first images alone, without LVIS annotations.

    Args:
        prepared: the folder of the prepared dataset, of either task.
        images: the number of val images to keep.
        folder: the folder to write.
    """
    source = read_prepared(prepared)
    table = source.manifest("val").slice(0, images)
    rows = table.to_pylist()
    with atomic_folder(folder, replace=True) as fresh:
        shutil.copy(prepared / "dataset.json", fresh)
        pq.write_table(table, fresh / "val.parquet")
        truth = source.truth / "instances.json"
        if truth.is_file():
            kept, content = {row["id"] for row in rows}, json.loads(truth.read_text())
            content["images"] = [image for image in content["images"] if image["id"] in kept]
            content["annotations"] = [found for found in content["annotations"] if found["image_id"] in kept]
            (fresh / "truth").mkdir()
            (fresh / "truth" / "instances.json").write_text(json.dumps(content))
            return
        for path in source.truth.rglob("*.png"):
            name = path.relative_to(source.truth)
            if any(_is_truth_of(name.as_posix(), row) for row in rows):
                (fresh / "truth" / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, fresh / "truth" / name)


def _is_truth_of(name: str, row: dict[str, Any]) -> bool:
    """Whether a picture below ``truth`` is an image's: of label files with their paths, of Cityscapes by the name."""
    if "label_file" in row:
        return f"/{row['label_file']}".endswith(f"/{name}")
    image = PurePosixPath(row["file_name"])
    return name.startswith(f"{image.parent.name}/{image.stem.removesuffix('_leftImg8bit')}_gtFine")
