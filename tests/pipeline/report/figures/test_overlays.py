import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from pipeline.data.annotations import Annotation
from pipeline.data.coco import Category, ImageRecord
from pipeline.data.manifest import SplitManifest, read_prepared, write_prepared
from pipeline.data.storage import Storage
from pipeline.report.figures.overlays import (
    SCENE,
    Scenes,
    Source,
    found_objects,
    object_panels,
    one_per_image,
    scene_panels,
    surroundings,
)
from pipeline.report.figures.panels import CAPTION, GAP, Panels, to_image
from pointrend.drawing import color

Box = tuple[int, int, int, int]  # xyxy
SIZE = (30, 40)
# Image 5's objects, in the order of their annotations.
OBJECTS: list[Box] = [(2, 2, 12, 12), (20, 10, 35, 25)]


def mask(box: Box, size: tuple[int, int] = SIZE) -> np.ndarray:
    found = np.zeros(size, dtype=np.uint8, order="F")
    found[box[1] : box[3], box[0] : box[2]] = 1
    return found


def rle(box: Box, size: tuple[int, int] = SIZE) -> dict[str, Any]:
    encoded = coco_mask.encode(mask(box, size))
    return {"size": list(size), "counts": encoded["counts"].decode("ascii")}


def prediction(
    box: Box, score: float, image_id: int = 5, size: tuple[int, int] = SIZE, category_id: int = 1
) -> dict[str, Any]:
    return {"image_id": image_id, "category_id": category_id, "score": score, "segmentation": rle(box, size)}


def annotation(id_: int, category_id: int, box: Box, size: tuple[int, int], *, iscrowd: bool = False) -> Annotation:
    x0, y0, x1, y1 = box
    width, height = x1 - x0, y1 - y0
    return Annotation(
        id_, category_id, (x0, y0, width, height), width * height, iscrowd, rle(box, size)["counts"].encode("ascii")
    )


Make = Callable[..., Scenes]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Scenes of one image with OBJECTS, one without, one with a crowd only; a source per list of predictions."""

    def make(
        *predictions: list[dict[str, Any]],
        objects: dict[int, list[Box]] | None = None,
        size: tuple[int, int] = SIZE,
        categories: dict[int, int] | None = None,  # of an image's objects, 1 by default
    ) -> Scenes:
        objects = {5: OBJECTS, 6: [], 7: []} if objects is None else objects
        images = []
        for i, boxes in objects.items():
            category = (categories or {}).get(i, 1)
            annotations = [annotation(100 * i + n, category, box, size) for n, box in enumerate(boxes)]
            if i == 7:
                annotations.append(annotation(799, category, (0, 0, 9, 9), size, iscrowd=True))
            images.append(ImageRecord(i, f"{i}.png", *size, annotations))
            Image.new("RGB", size[::-1], (100, 100, 100)).save(tmp_path / f"{i}.png")
        things = [Category(1, "thing"), Category(2, "other")]
        write_prepared(tmp_path, things, {"val": SplitManifest(images)})
        sources = []
        for n, results in enumerate(predictions):
            (tmp_path / f"source{n}.json").write_text(json.dumps(results))
            sources.append(Source(f"source {n}", tmp_path / f"source{n}.json"))
        return Scenes(read_prepared(tmp_path).manifest("val"), Storage(str(tmp_path)), sources)

    return make


def boxes(masks: Sequence[np.ndarray | None]) -> list[Box | None]:
    """The rectangle of each mask."""
    found: list[Box | None] = []
    for one in masks:
        if one is None:
            found.append(None)
            continue
        rows, columns = np.where(one.any(1))[0], np.where(one.any(0))[0]
        found.append((int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1))
    return found


# Which prediction is which object


def test_the_truth_is_without_crowds(make: Make) -> None:
    scenes = make()
    assert boxes(scenes.truth(5)) == OBJECTS
    assert scenes.truth(7) == []


def test_predictions_take_the_places_of_their_objects(make: Make) -> None:
    # IoU of the first: 9 * 10 / 100 = 0.9.
    scenes = make([prediction(OBJECTS[1], 0.9), prediction((36, 0, 40, 4), 0.8), prediction((2, 2, 11, 12), 0.7)])
    assert boxes(scenes.predicted(5, 0)) == [(2, 2, 11, 12), OBJECTS[1], (36, 0, 40, 4)]


def test_an_object_that_was_not_found_leaves_its_place_empty(make: Make) -> None:
    scenes = make([prediction(OBJECTS[1], 0.9)])
    assert boxes(scenes.predicted(5, 0)) == [None, OBJECTS[1]]
    assert [found is None for found in scenes.matched(5, 0)] == [True, False]


@pytest.mark.parametrize(("right", "is_found"), [(7, True), (6, False)])
def test_half_an_object_is_enough(make: Make, right: int, is_found: bool) -> None:
    # The first object has 10 columns: 5 of them are an IoU of 0.5, 4 are 0.4.
    part = (2, 2, right, 12)
    scenes = make([prediction(part, 0.9)])
    assert boxes(scenes.predicted(5, 0)) == ([part, None] if is_found else [None, None, part])


def test_the_best_of_several_predictions_is_the_object(make: Make) -> None:
    worse, better = (2, 2, 12, 10), (2, 2, 12, 11)
    scenes = make([prediction(worse, 0.99), prediction(better, 0.6)])
    assert boxes(scenes.predicted(5, 0)) == [better, None, worse]


def test_a_prediction_of_another_category_is_another_object(make: Make) -> None:
    scenes = make([prediction(OBJECTS[0], 0.9, category_id=2)])
    assert boxes(scenes.predicted(5, 0)) == [None, None, OBJECTS[0]]


def test_unsure_predictions_are_not_drawn(make: Make) -> None:
    scenes = make([prediction(OBJECTS[0], 0.5), prediction(OBJECTS[1], 0.49)])
    assert boxes(scenes.predicted(5, 0)) == [OBJECTS[0], None]


def test_no_predictions_at_all(make: Make) -> None:
    scenes = make([], [prediction((0, 0, 4, 4), 0.9, image_id=6)])
    for source in (0, 1):
        assert boxes(scenes.predicted(5, source)) == [None, None]
        assert scenes.matched(5, source) == [None, None]


# Which images


def test_images_without_objects_are_never_chosen(make: Make) -> None:
    scenes = make([])
    for count in (0, 1, 2, 100):
        assert scenes.choose(count) == [5][:count]


def test_images_are_chosen_evenly(make: Make) -> None:
    scenes = make(objects={i: [OBJECTS[0]] for i in (11, 3, 7, 5, 9)})
    assert scenes.choose(1) == [3]
    assert scenes.choose(2) == [3, 11]
    assert scenes.choose(3) == [3, 7, 11]
    assert scenes.choose(9) == [3, 5, 7, 9, 11]


def test_a_dataset_without_objects_has_no_pictures(make: Make) -> None:
    scenes = make([], objects={1: [], 2: []})
    assert scenes.choose(4) == []
    assert scene_panels(scenes, scenes.choose(4)).rows == []
    assert found_objects(scenes, 4) == []


# Pictures


def pixel(panel: Image.Image, x: int, y: int, scale: int) -> tuple[int, ...]:
    """The colour in the middle of the image's pixel (x, y)."""
    found = panel.getpixel((x * scale + scale // 2, y * scale + scale // 2))
    assert isinstance(found, tuple)
    return found


def rgb(index: int) -> tuple[int, ...]:
    return tuple(round(255 * channel) for channel in color(index))


def test_an_object_has_one_colour_in_every_column(make: Make) -> None:
    scenes = make([prediction(OBJECTS[1], 0.9)], [prediction(box, 0.9) for box in OBJECTS])
    panels = scene_panels(scenes, scenes.choose(4))
    assert panels.captions == ["image", "ground truth", "source 0", "source 1"]
    ((plain, truth, first, second),) = panels.rows
    scale = SCENE // 40
    assert {panel.size for panel in panels.rows[0]} == {(SCENE, SCENE * 30 // 40)}
    # The middle of the masks' upper edges, which have the object's pure colour.
    grey = (100, 100, 100)
    edges = [
        [panel.getpixel((x * scale, y * scale)) for panel in (plain, truth, first, second)]
        for x, y in ((27, 10), (7, 2))
    ]
    assert edges == [[grey, rgb(1), rgb(1), rgb(1)], [grey, rgb(0), grey, rgb(0)]]
    assert rgb(0) != rgb(1)
    # 0.6 of grey and 0.4 of the colour.
    inside = pixel(truth, 27, 17, scale)
    assert inside == pytest.approx([0.6 * 100 + 0.4 * channel for channel in rgb(1)], abs=1)


def test_the_sheet_has_the_size_of_its_panels(make: Make) -> None:
    scenes = make([prediction(OBJECTS[1], 0.9)], objects={5: OBJECTS, 6: OBJECTS})
    sheet = scene_panels(scenes, scenes.choose(4)).render()
    # At twice the size that the page shows: three columns of 240 and two gaps of 6; a caption line of 20, two rows of
    # 180 and a gap of 6.
    assert sheet.size == (2 * (3 * 240 + 2 * 6), 2 * (20 + 2 * 180 + 6))
    assert sheet.getpixel((2 * 243, 200)) == (255, 255, 255)
    assert sheet.getpixel((200, 2 * (20 + 180 + 3))) == (255, 255, 255)
    assert sheet.getpixel((200, 2 * (20 + 90))) == (100, 100, 100)


def test_panels_of_different_sizes() -> None:
    def panel(width: int, height: int) -> Image.Image:
        return Image.new("RGB", (width, height), "black")

    sheet = Panels(["a", "b"], [[panel(30, 10), panel(30, 10)], [panel(10, 40), panel(50, 40)]]).render()
    # Captions may be wider than the panels.
    assert sheet.size == (30 + GAP + 50, CAPTION + 10 + GAP + 40)
    # Centred: the 10 wide panel of the second row begins at (30 - 10) / 2.
    assert [sheet.getpixel((x, CAPTION + 10 + GAP + 20)) for x in (9, 10, 19, 20)] == [
        (255, 255, 255), (0, 0, 0), (0, 0, 0), (255, 255, 255),
    ]  # fmt: skip


def test_captions_are_drawn() -> None:
    black = Image.new("RGB", (200, 20), "black")
    sheet = np.asarray(Panels(["a caption"], [[black]]).render())
    assert (sheet[:CAPTION] < 128).any()


def test_to_image_enlarges_by_whole_pixels() -> None:
    picture = torch.tensor([[[0.0, 1.0]], [[0.5, 1.5]], [[-1.0, 0.2]]])
    image = to_image(picture, 3)
    assert image.size == (6, 3)
    assert [image.getpixel((x, 1)) for x in (0, 2, 3, 5)] == [(0, 128, 0), (0, 128, 0), (255, 255, 51), (255, 255, 51)]


def shown(scenes: Scenes, count: int, side: int = 260) -> list[list[Image.Image]]:
    return object_panels(scenes, found_objects(scenes, 100), count, side).rows


def test_objects_are_cut_out_and_noted(make: Make) -> None:
    # Object 1 is missing in source 1, so object 0 is shown: 10x10 and a margin of 1.2 make 12.4.
    scenes = make([prediction(box, 0.9) for box in OBJECTS], [prediction(OBJECTS[0], 0.9)])
    (row,) = shown(scenes, 5, side=248)
    assert [panel.size for panel in row] == [(248, 248 + CAPTION)] * 4
    # Inside the mask the image is as it was; what is left out is 0.28 of it and 0.72 of white.
    pale = round(0.28 * 100 + 0.72 * 255)
    assert [panel.getpixel((124, 124)) for panel in row] == [(100,) * 3] * 4
    assert [np.asarray(panel)[3, 3].tolist() for panel in row[1:]] == pytest.approx(np.full((3, 3), pale), abs=1)
    assert row[0].getpixel((3, 3)) == (100, 100, 100)
    # The image and the ground truth have nothing to note.
    assert [bool((np.asarray(panel)[248:] < 128).any()) for panel in row] == [False, False, True, True]


@pytest.mark.parametrize(
    ("box", "square", "expected"),
    [
        # 10x20 with a margin of 0.12 * 20 on every side.
        ((40, 30, 50, 50), False, (37.6, 27.6, 52.4, 52.4)),
        ((40, 30, 50, 50), True, (32.6, 27.6, 57.4, 52.4)),
        # In a corner the part is moved into the image; it is never larger than the image.
        ((0, 0, 10, 20), True, (0, 0, 24.8, 24.8)),
        ((0, 0, 100, 60), True, (0, 0, 100, 60)),
    ],
)
def test_what_surrounds_an_object(box: Box, square: bool, expected: tuple[float, ...]) -> None:
    assert surroundings(box, (60, 100), square=square) == pytest.approx(expected)


def test_the_best_located_objects_come_first(make: Make) -> None:
    # Boxes overlap by 90, 100 and 80 of 100 pixels; in the second source the second image's is the worst.
    box = OBJECTS[0]
    narrow = {1: (2, 2, 12, 11), 2: box, 3: (2, 2, 10, 12)}
    first = [prediction(narrow[i], 0.9, image_id=i) for i in narrow]
    second = [prediction((2, 2, 9, 12) if i == 2 else box, 0.9, image_id=i) for i in narrow]
    objects = found_objects(make(first, second, objects={i: [box] for i in narrow}), 100)
    assert [found.image_id for found in objects] == [1, 3, 2]
    assert [found.location for found in objects] == pytest.approx([0.9, 0.8, 0.7])
    assert objects[0].overlaps == pytest.approx([0.9, 1.0])


def test_location_is_judged_by_boxes_not_by_masks(make: Make) -> None:
    # A frame has the object's box and little of its mask; a mask that is a row short has all but its box.
    hollow = mask(OBJECTS[1])
    hollow[14:21, 24:31] = 0
    encoded = coco_mask.encode(np.asfortranarray(hollow))
    frame = prediction(OBJECTS[1], 0.9)
    frame["segmentation"] = {"size": list(SIZE), "counts": encoded["counts"].decode("ascii")}
    objects = found_objects(make([frame, prediction((2, 2, 12, 11), 0.9)]), 100)
    assert [found.location for found in objects] == pytest.approx([1.0, 0.9])
    assert [found.overlaps[0] for found in objects] == pytest.approx([(225 - 49) / 225, 0.9])


def test_the_best_of_every_category_come_before_second_ones(make: Make) -> None:
    # Boxes (2, 2, x, 12) of images 1 to 4, ever worse; images 1, 2 and 4 are of one category.
    found = {1: 12, 2: 11, 3: 10, 4: 9}
    results = [prediction((2, 2, x, 12), 0.9, image_id=i, category_id=2 if i == 3 else 1) for i, x in found.items()]
    scenes = make(results, objects={i: [OBJECTS[0]] for i in found}, categories={3: 2})
    objects = found_objects(scenes, 100)
    assert [(o.image_id, o.category_id) for o in objects] == [(1, 1), (2, 1), (3, 2), (4, 1)]
    assert [o.image_id for o in one_per_image(objects)] == [1, 3, 2, 4]


def test_one_object_of_an_image_is_shown(make: Make) -> None:
    assert len(shown(make([prediction(box, 0.9) for box in OBJECTS]), 5)) == 1


def test_objects_that_one_source_has_not_found_are_not_shown(make: Make) -> None:
    scenes = make([prediction(OBJECTS[0], 0.9)], [prediction(OBJECTS[1], 0.9)])
    assert shown(scenes, 5) == []


def test_no_more_objects_than_asked_for(make: Make) -> None:
    ids = range(20)
    scenes = make([prediction(OBJECTS[0], 0.9, image_id=i) for i in ids], objects={i: [OBJECTS[0]] for i in ids})
    assert len(shown(scenes, 3)) == 3


def test_an_object_that_is_larger_than_its_panel_is_made_to_fit(make: Make) -> None:
    size, box = (500, 400), (10, 10, 390, 490)
    scenes = make([prediction(box, 0.9, size=size)], objects={5: [box]}, size=size)
    (row,) = shown(scenes, 1, side=260)
    assert all(panel.width <= 260 and panel.height <= 260 + CAPTION for panel in row)
