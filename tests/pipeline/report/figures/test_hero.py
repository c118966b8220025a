"""The page's first picture."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from pipeline.config.project import Project
from pipeline.data.annotations import Annotation
from pipeline.data.coco import Category, ImageRecord
from pipeline.data.manifest import SplitManifest, read_prepared, write_prepared
from pipeline.data.storage import Storage
from pipeline.report.figures.hero import draw_hero, draw_object, largest_of_categories
from pipeline.report.figures.overlays import FoundObject, Scenes, Source, found_objects
from pipeline.report.inputs import ReportInputs
from pipeline.report.results import RunResult

SIZE = (60, 80)
# An image for each object: its category and box (xyxy).
OBJECTS = {1: (1, (10, 10, 40, 40)), 2: (1, (10, 10, 30, 30)), 3: (2, (5, 5, 55, 55)), 4: (3, (10, 10, 20, 20))}

Draw = Callable[[np.ndarray], np.ndarray]


def rle(mask: np.ndarray) -> dict[str, Any]:
    encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(SIZE), "counts": encoded["counts"].decode("ascii")}


def filled(box: tuple[int, int, int, int]) -> np.ndarray:
    mask = np.zeros(SIZE, dtype=bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return mask


def frame(mask: np.ndarray) -> np.ndarray:
    """A mask of the same box with a large hole."""
    rows, columns = np.where(mask.any(1))[0], np.where(mask.any(0))[0]
    hollow = mask.copy()
    hollow[rows[0] + 1 : rows[-1], columns[0] + 1 : columns[-1]] = False
    return hollow


def same(mask: np.ndarray) -> np.ndarray:
    return mask


@pytest.fixture
def scenes(tmp_path: Path) -> Callable[..., Scenes]:
    """``scenes(draw, draw, ...)``: a source for each way to draw the objects' masks; without the images in ``lost``."""

    def make(*sources: Draw, lost: tuple[int, ...] = ()) -> Scenes:
        records = []
        for number, (category, box) in OBJECTS.items():
            counts = rle(filled(box))["counts"].encode()
            x0, y0, x1, y1 = box
            thing = Annotation(number, category, (x0, y0, x1 - x0, y1 - y0), 1, False, counts)
            records.append(ImageRecord(number, f"{number}.png", *SIZE, [thing]))
            Image.new("RGB", SIZE[::-1], (100, 100, 100)).save(tmp_path / f"{number}.png")
        write_prepared(tmp_path, [Category(i, f"thing {i}") for i in (1, 2, 3)], {"val": SplitManifest(records)})
        columns = []
        for name, draw in enumerate(sources):
            found = [
                {"image_id": i, "category_id": c, "score": 0.9, "segmentation": rle(draw(filled(box)))}
                for i, (c, box) in OBJECTS.items()
                if i not in lost
            ]
            (tmp_path / f"{name}.json").write_text(json.dumps(found))
            columns.append(Source(str(name), tmp_path / f"{name}.json"))
        return Scenes(read_prepared(tmp_path).manifest("val"), Storage(str(tmp_path)), columns)

    return make


def chosen(scenes: Scenes, count: int = 9) -> list[int]:
    return [found.image_id for found in largest_of_categories(found_objects(scenes, 100), count)]


def test_the_largest_object_of_each_category(scenes: Callable[..., Scenes]) -> None:
    # Category 2 has the largest object, 3 the smallest.
    assert chosen(scenes(same, same)) == [3, 1, 4]
    assert chosen(scenes(same, same), 2) == [3, 1]


def test_masks_play_no_part_in_the_choice(scenes: Callable[..., Scenes]) -> None:
    # Frames have the objects' boxes and a small part of their masks.
    for heads in ((frame, same), (same, frame), (frame, frame)):
        found = scenes(*heads)
        assert chosen(found) == [3, 1, 4]
    (largest, *_) = largest_of_categories(found_objects(found, 100), 9)
    assert max(largest.overlaps) < 0.1


def test_what_a_head_has_not_found_is_not_shown(scenes: Callable[..., Scenes]) -> None:
    assert chosen(scenes(same, same, lost=(1, 3))) == [2, 4]


def test_what_is_located_badly_is_not_shown() -> None:
    def found(image_id: int, location: float) -> FoundObject:
        return FoundObject(image_id, image_id, rle(filled((0, 0, 10, 10))), [], [], location)

    assert [one.image_id for one in largest_of_categories([found(1, 0.74), found(2, 0.75)], 9)] == [2]


def test_each_picture_shows_its_own_mask(scenes: Callable[..., Scenes]) -> None:
    found = scenes(same, frame)
    (largest, *_) = largest_of_categories(found_objects(found, 100), 1)
    image, first, second = draw_object(found, largest)
    assert image.size == first.size == second.size
    middle = (image.width // 2, image.height // 2)
    assert image.getpixel(middle) == first.getpixel(middle) == (100, 100, 100)
    # The frame leaves the middle out.
    assert second.getpixel(middle) == pytest.approx((0.28 * 100 + 0.72 * 255,) * 3, abs=1)


def test_missing_runs_are_named(repository: Path, tmp_path: Path, made_up: Callable[..., RunResult]) -> None:
    project = Project(repository)
    tables = {"table1": project.table("table1")}
    inputs = ReportInputs(
        "demo", tables, project.figures(), "sqlite:///x.db", tmp_path, experiments={"coco_4xconv_r50"},
        results=[made_up("coco_pointrend_r50", 0, {"224x224": {"AP": 34.0}})],
        missing={"coco_4xconv_r50-0": "its loss diverged"},
    )  # fmt: skip
    hero = draw_hero(inputs, tmp_path)
    assert hero is not None
    assert (hero.objects, hero.problem) == ([], "no masks of 4×conv 28×28: its loss diverged")
    assert list(tmp_path.iterdir()) == []


def test_a_report_without_the_table_has_no_picture(repository: Path, tmp_path: Path) -> None:
    project = Project(repository)
    assert draw_hero(ReportInputs("demo", {}, project.figures(), "sqlite:///x.db", tmp_path), tmp_path) is None
