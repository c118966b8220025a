"""A small prepared instance dataset of random pictures with two objects each, and runs for it."""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from pipeline.config.experiments import RunConfig
from pipeline.config.project import Project
from pipeline.config.schedules import Phase, ScheduleConfig, Warmup
from pipeline.data.annotations import Annotation
from pipeline.data.coco import Category, ImageRecord
from pipeline.data.manifest import SplitManifest, write_prepared
from pipeline.data.storage import Storage

CATEGORIES = [Category(4, "bolt"), Category(9, "nut")]
UPDATES = 2


def prepared_images(root: Path, count: int) -> tuple[Path, Storage]:
    """Writes pictures, their prepared dataset and its truth. Both splits are the same images, of ids 100, 99, ..."""
    images, prepared = root / "images", root / "prepared"
    images.mkdir()
    (prepared / "truth").mkdir(parents=True)
    generator = np.random.default_rng(0)
    records, truth = [], []
    for index in range(count):
        # Ids are not in the files' order.
        image_id, size = 100 - index, (int(generator.integers(30, 48)), int(generator.integers(30, 64)))
        Image.fromarray(generator.integers(0, 256, (*size, 3), np.uint8)).save(images / f"{index}.png")
        annotations = []
        for number, category in enumerate(CATEGORIES):
            x, y, width, height = 2 + 12 * number, 3 + number, 11, 17 + number
            mask = np.zeros(size, np.uint8, order="F")
            mask[y : y + height, x : x + width] = 1
            counts = coco_mask.encode(mask)["counts"]
            box, area = (x, y, width, height), float(width * height)
            annotations.append(Annotation(2 * index + number + 1, category.id, box, area, False, counts))
            truth.append(
                {
                    "id": 2 * index + number + 1,
                    "image_id": image_id,
                    "category_id": category.id,
                    "bbox": list(box),
                    "area": area,
                    "iscrowd": 0,
                    "segmentation": {"size": list(size), "counts": counts.decode()},
                }
            )
        records.append(ImageRecord(image_id, f"{index}.png", *size, annotations))
    split = SplitManifest(records)
    write_prepared(prepared, CATEGORIES, {"train": split, "val": split})
    content = {
        "images": [{"id": r.id, "file_name": r.file_name, "height": r.height, "width": r.width} for r in records],
        "annotations": truth,
        "categories": [{"id": category.id, "name": category.name} for category in CATEGORIES],
    }
    (prepared / "truth" / "instances.json").write_text(json.dumps(content))
    return prepared, Storage(str(images))


def small_run(repository: Path, experiment: str = "coco_pointrend_r50") -> RunConfig:
    """A run of the demo at sizes for these pictures: two updates of two images, from its own initial weights."""
    project = Project(repository)
    name = f"{experiment}-0"
    run, _ = project.run("demo", name, project.select("demo", "data").runs[name])
    model = run.model.model_copy(update={"train_min_sizes": [48], "test_min_size": 48, "max_size": 64})
    schedule = ScheduleConfig(
        batch_size=2,
        warmup=Warmup(updates=1, learning_rate=0.001),
        phases=[Phase(updates=UPDATES, learning_rate=0.01)],
        checkpoint_every=1,
    )
    own = {"starts_from": None, "starts_from_digest": None, "train": "all"}
    return run.model_copy(update={"model": model, "schedule": schedule, **own})
