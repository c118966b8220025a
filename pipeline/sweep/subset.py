"""Makes a prepared dataset with fewer val images, so that a sweep's trials are scored faster."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.data.manifest import read_prepared
from pipeline.files import atomic_folder


def with_fewer_val_images(prepared: Path, images: int, folder: Path) -> Path:
    """Writes a copy of a COCO dataset's val split with fewer images, evenly spread, and without LVIS annotations.

    Args:
        prepared: the folder of the prepared dataset.
        images: the number of val images to keep.
        folder: the folder to write; nothing is written if it exists.

    Returns:
        ``folder``, or ``prepared`` if that has no more than ``images`` val images.
    """
    table = read_prepared(prepared).manifest("val")
    if table.num_rows <= images:
        return prepared
    if folder.is_dir():
        return folder
    table = table.take(pa.array(np.linspace(0, table.num_rows - 1, images).round().astype(np.int64)))
    kept = set(table["id"].to_pylist())
    truth = json.loads((prepared / "truth" / "instances.json").read_text())
    truth["images"] = [image for image in truth["images"] if image["id"] in kept]
    truth["annotations"] = [found for found in truth["annotations"] if found["image_id"] in kept]
    with atomic_folder(folder) as fresh:
        shutil.copy(prepared / "dataset.json", fresh)
        pq.write_table(table, fresh / "val.parquet")
        (fresh / "truth").mkdir()
        (fresh / "truth" / "instances.json").write_text(json.dumps(truth))
    return folder
