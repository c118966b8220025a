import colorsys
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lvis import LVIS
from made_up_instances import rle
from masks import dilate, polygon_mask
from pycocotools import mask as mask_api
from pycocotools.coco import COCO

from pipeline.config.datasets import CocoSynset, SynsetTable
from pipeline.data.coco import DatasetError
from pipeline.data.lvis import coco_view
from pipeline.files import FolderExistsError
from pipeline.metrics.coco_ap import coco_ap
from pipeline.metrics.lvis_ap import ap_star
from pipeline.synthetic import ShapesSpec, generate_shapes, shapes
from pipeline.synthetic.drawing import coverage, signed_area
from pipeline.synthetic.federated import LVIS_CATEGORIES
from pipeline.synthetic.outlines import MIN_FRAGMENT, mask_polygons, trace_outlines
from pipeline.synthetic.shapes import CATEGORIES, Scene, render_scene

SPEC = ShapesSpec(train_images=30, val_images=6, seed=3)
HOLE_CATEGORIES = ("ring", "gear")
SYNSETS = SynsetTable(
    [CocoSynset(id=number, name=name, synset=f"{name}.shape.01") for number, name in enumerate(CATEGORIES, 1)]
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("synthetic") / "shapes"
    generate_shapes(SPEC, root, processes=1)
    return root


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [render_scene(SPEC, "train", index) for index in range(SPEC.train_images)]


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return np.count_nonzero(a & b) / np.count_nonzero(a | b)


# Scenes


def test_masks_of_one_image_are_disjoint(scenes):
    for scene in scenes:
        assert scene.image.shape == (*scene.masks.shape[1:], 3)
        assert scene.image.dtype == np.uint8
        assert scene.masks.sum(axis=0).max() <= 1


def test_sizes_vary_within_the_spec(scenes):
    sizes = np.array([scene.image.shape[:2] for scene in scenes])
    assert (sizes.max(axis=1) == SPEC.image_size).all()
    assert (sizes.min(axis=1) >= 0.8 * SPEC.image_size - 1).all()
    assert (sizes[:, 0] > sizes[:, 1]).any()
    assert (sizes[:, 0] < sizes[:, 1]).any()


def test_every_object_is_visible_enough(scenes):
    shares = [m.sum() / area for scene in scenes for m, area in zip(scene.masks, scene.areas, strict=True)]
    assert min(shares) >= 0.4
    assert max(shares) <= 1.1  # the areas are those of whole objects, not smaller
    assert min(shares) < 0.9  # some objects are hidden in part
    assert {len(scene.labels) for scene in scenes} == {1, 2, 3, 4}


def test_nothing_unlabelled_is_visible(monkeypatch):
    monkeypatch.setattr(shapes, "_pattern", lambda rng, kind, height, width: np.zeros((height, width)))
    crowded = ShapesSpec(1, 1, max_objects=12)
    for index in range(5):
        scene = render_scene(crowded, "val", index)
        # Three pixels: where a spike is thinner than half a pixel, its faint tip lies outside its mask.
        near = dilate(dilate(dilate(scene.masks.any(axis=0))))
        outside = scene.image[~near].astype(int)
        assert np.abs(outside - np.median(outside, axis=0)).max() < 20  # noise alone


def test_objects_differ_from_what_surrounds_them(scenes):
    """So that a boundary can be seen: mean colours inside and just outside each object are apart."""
    gaps = []
    for scene in scenes:
        for mask in scene.masks:
            around = dilate(dilate(dilate(mask))) & ~dilate(mask)
            gaps.append(np.linalg.norm(scene.image[mask].mean(axis=0) - scene.image[around].mean(axis=0)))
    assert np.quantile(gaps, 0.05) > 40


def test_the_mean_hue_tells_the_category():
    """Each object's hue is nearer to the mean of its category than to that of any other."""
    scenes = [render_scene(ShapesSpec(1, 1, image_size=64), "train", index) for index in range(300)]
    labels = np.concatenate([scene.labels for scene in scenes])
    colours = [scene.image[mask].mean(axis=0) for scene in scenes for mask in scene.masks]
    assert set(labels) == {1, 2, 3, 4, 5}
    # Hues are angles, here points of the unit circle.
    hues = np.exp(2j * np.pi * np.array([colorsys.rgb_to_hsv(*colour)[0] for colour in colours]))
    means = np.array([hues[labels == label].mean() for label in range(1, 6)])
    nearest = np.abs(hues[:, None] - means / np.abs(means)).argmin(axis=1) + 1
    np.testing.assert_array_equal(nearest, labels)


def test_unknown_split():
    with pytest.raises(ValueError, match="split"):
        render_scene(SPEC, "test", 0)


# Polygons


def test_unsimplified_polygons_give_the_mask_back_but_for_fragments(scenes):
    for scene in scenes:
        for mask in scene.masks:
            rings = [ring for ring in trace_outlines(mask) if abs(signed_area(ring)) >= MIN_FRAGMENT]
            expected = coverage(rings, *mask.shape) == 1
            np.testing.assert_array_equal(polygon_mask(mask_polygons(mask, 0.0), *mask.shape), expected)
            assert iou(expected, mask) > 0.9


# The dataset on disk


def test_layout_and_coco_fields(dataset):
    ids = []
    for split, count in (("train", SPEC.train_images), ("val", SPEC.val_images)):
        coco = COCO(dataset / "annotations" / f"instances_{split}.json")
        assert [coco.cats[n]["name"] for n in sorted(coco.cats)] == list(CATEGORIES)
        assert sorted(coco.cats) == [1, 2, 3, 4, 5]
        assert coco.dataset["info"]["seed"] == SPEC.seed
        assert coco.dataset["licenses"] == []
        assert len(coco.imgs) == count
        assert {image["file_name"] for image in coco.imgs.values()} == {p.name for p in (dataset / split).iterdir()}
        ids += [*coco.imgs]
        for annotation in coco.anns.values():
            assert annotation["iscrowd"] == 0
            assert annotation["area"] > 0
            for polygon in annotation["segmentation"]:
                assert len(polygon) >= 6
                assert polygon == [round(v, 2) for v in polygon]
    assert len(ids) == len(set(ids))


def test_polygons_are_coarse_but_close(dataset, scenes):
    coco = COCO(dataset / "annotations" / "instances_train.json")
    ious = []
    for image_id, scene in zip(coco.imgs, scenes, strict=True):
        annotations = coco.loadAnns(coco.getAnnIds([image_id]))
        assert [annotation["category_id"] for annotation in annotations] == scene.labels
        for annotation, mask in zip(annotations, scene.masks, strict=True):
            ious.append(iou(coco.annToMask(annotation).astype(bool), mask))
            polygons = coco.annToRLE(annotation)
            assert annotation["area"] == mask_api.area(polygons)
            assert annotation["bbox"] == mask_api.toBbox(polygons).tolist()
    assert 0.85 <= np.mean(ious) <= 0.995
    assert min(ious) > 0.7


def test_holes_survive_in_the_polygons(scenes):
    checked = 0
    for scene in scenes:
        for mask, label in zip(scene.masks, scene.labels, strict=True):
            polygons = polygon_mask(mask_polygons(mask, SPEC.polygon_tolerance), *mask.shape)
            for hole in trace_outlines(mask):
                if signed_area(hole) < -60 and CATEGORIES[label - 1] in HOLE_CATEGORIES:
                    x, y = hole.mean(axis=0).astype(int)
                    assert mask[y, x] == polygons[y, x] == False  # noqa: E712
                    checked += 1
    assert checked >= 8


# LVIS's annotations of the same images


def test_lvis_says_only_what_is_so(dataset, scenes):
    """Exact masks, all of them where a category is said to be annotated throughout; absent means absent."""
    lvis = LVIS(str(dataset / "annotations" / "lvis_train.json"))
    assert [lvis.cats[n]["name"] for n in sorted(lvis.cats)] == list(LVIS_CATEGORIES)
    told: Counter[str] = Counter()
    for (image_id, image), scene in zip(lvis.imgs.items(), scenes, strict=True):
        assert image["coco_url"].endswith(f"/train/{image_id:012d}.png")
        assert (image["height"], image["width"]) == scene.image.shape[:2]
        there = [(CATEGORIES[label - 1], mask) for label, mask in zip(scene.labels, scene.masks, strict=True)]
        there += [("hole", hole) for hole in scene.holes if np.count_nonzero(hole) >= shapes.MIN_AREA]
        for category_id, name in enumerate(LVIS_CATEGORIES, 1):
            masks = {mask.tobytes() for category, mask in there if category == name}
            annotations = [a for a in lvis.img_ann_map[image_id] if a["category_id"] == category_id]
            annotated = {lvis.ann_to_mask(a).astype(bool).tobytes() for a in annotations}
            absent = category_id in image["neg_category_ids"]
            partial = category_id in image["not_exhaustive_category_ids"]
            assert annotated <= masks
            assert len(annotated) == len(annotations)
            if absent:
                told["absent"] += 1
                assert not masks
            elif partial:
                told["partial"] += 1
                assert 0 < len(annotated) < len(masks)
            elif annotated:
                told["throughout"] += 1
                assert annotated == masks
            else:
                told["nothing, with objects" if masks else "nothing, without"] += 1
    assert min(told.values()) >= 3, told
    assert len(told) == 5
    for annotation in lvis.anns.values():
        mask = lvis.ann_to_mask(annotation).astype(bool)
        rows, columns = np.nonzero(mask)
        corner = [columns.min(), rows.min()]
        assert annotation["bbox"] == [*corner, columns.max() + 1 - corner[0], rows.max() + 1 - corner[1]]
        assert annotation["area"] == mask.sum()


def test_lvis_counts_the_training_images(dataset):
    train, val = (json.loads((dataset / "annotations" / f"lvis_{split}.json").read_bytes()) for split in shapes.SPLITS)
    assert train["categories"] == val["categories"]
    pairs = {(a["image_id"], a["category_id"]) for a in train["annotations"]}
    for category in train["categories"]:
        images = sum(category["id"] == category_id for _, category_id in pairs)
        assert category["image_count"] == images
        assert category["instance_count"] == sum(a["category_id"] == category["id"] for a in train["annotations"])
        assert category["frequency"] == ("r" if images <= 10 else "c")
    assert {category["frequency"] for category in train["categories"]} == {"r", "c"}


def test_an_image_has_the_same_categories_in_lvis_and_in_its_view(dataset):
    path = dataset / "annotations" / "lvis_train.json"
    with pytest.raises(DatasetError, match="no category has the synset of a COCO category"):
        coco_view(path)
    raw, view = json.loads(path.read_bytes()), coco_view(path, SYNSETS)
    assert [(category["id"], category["name"]) for category in view["categories"]] == [*enumerate(CATEGORIES, 1)]
    names = {category["id"]: category["name"] for category in raw["categories"]}
    # No id means the same in both.
    assert all(names[number] != name for number, name in enumerate(CATEGORIES, 1))
    assert sum(names[a["category_id"]] == "hole" for a in raw["annotations"]) > 0
    assert len(view["annotations"]) == sum(names[a["category_id"]] != "hole" for a in raw["annotations"])
    for before, after in zip(raw["images"], view["images"], strict=True):
        assert (dataset / after["file_name"]).is_file()
        for key in ("neg_category_ids", "not_exhaustive_category_ids"):
            kept = {names[number] for number in before[key]} & {*CATEGORIES}
            assert {CATEGORIES[number - 1] for number in after[key]} == kept


def test_ap_and_ap_star_differ_as_coarse_and_precise_annotations_do(dataset, scenes, tmp_path):
    """Section 4.1: COCO's polygons are coarse and LVIS's masks precise, so precise masks gain more in AP*."""
    instances = dataset / "annotations" / "instances_train.json"
    (tmp_path / "view.json").write_text(json.dumps(coco_view(dataset / "annotations" / "lvis_train.json", SYNSETS)))

    def scores(masks: list[dict[str, Any]]) -> tuple[float, float]:
        results = [
            {"image_id": a["image_id"], "category_id": a["category_id"], "segmentation": mask, "score": 0.9}
            for a, mask in zip(coco.anns.values(), masks, strict=True)
        ]
        (tmp_path / "results.json").write_text(json.dumps(results))
        paths = (instances, tmp_path / "results.json")
        return coco_ap(*paths)["AP"], ap_star(tmp_path / "view.json", tmp_path / "results.json")["AP"]

    coco = COCO(instances)
    exact = scores([rle(mask) for scene in scenes for mask in scene.masks])
    coarse = scores([rle(coco.annToMask(a)) for a in coco.anns.values()])
    assert exact[1] == pytest.approx(100)
    assert coarse[0] == pytest.approx(100)
    assert exact[1] - exact[0] > 2
    assert coarse[0] - coarse[1] > 2


# Reproducible, whole or not at all


def test_same_bytes_with_other_processes(dataset, tmp_path):
    calls = []
    generate_shapes(SPEC, tmp_path / "again", processes=2, on_image=lambda: calls.append(None))
    assert files(tmp_path / "again") == files(dataset)
    assert len(calls) == SPEC.train_images + SPEC.val_images


def test_more_images_leave_the_first_alike(dataset, tmp_path):
    fewer = ShapesSpec(train_images=8, val_images=3, seed=SPEC.seed)
    generate_shapes(fewer, tmp_path / "fewer", processes=1)
    for name, content in files(tmp_path / "fewer").items():
        if name.endswith(".png"):
            assert content == (dataset / name).read_bytes()
            continue
        small, large = json.loads(content), json.loads((dataset / name).read_bytes())
        for key in ("images", "annotations"):
            assert small[key] == large[key][: len(small[key])]


def test_seeds_and_splits_differ():
    image = render_scene(SPEC, "train", 0).image
    assert not np.array_equal(image, render_scene(SPEC, "val", 0).image)
    assert not np.array_equal(image, render_scene(ShapesSpec(30, 6, seed=4), "train", 0).image)


def test_a_folder_with_files_is_left_as_it_is(tmp_path):
    root = tmp_path / "shapes"
    root.mkdir()
    (root / "mine.txt").write_text("mine")
    with pytest.raises(FolderExistsError, match=r"shapes: holds files already"):
        generate_shapes(ShapesSpec(1, 1), root, processes=1)
    assert files(tmp_path) == {"shapes/mine.txt": b"mine"}


def test_an_empty_folder_is_filled(tmp_path):
    root = tmp_path / "deep" / "shapes"
    root.mkdir(parents=True)
    generate_shapes(ShapesSpec(1, 1), root, processes=1)
    assert len(list((root / "train").iterdir())) == 1
    assert [path.name for path in root.parent.iterdir()] == ["shapes"]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_failure_leaves_nothing(tmp_path, processes):
    root = tmp_path / "shapes"

    def fail():
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        generate_shapes(ShapesSpec(20, 1, seed=1), root, processes=processes, on_image=fail)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_move_leaves_nothing(tmp_path, monkeypatch):
    root = tmp_path / "shapes"
    rename = Path.rename

    def fail_for_the_new_one(source, target):
        if source.name == "fresh":
            raise OSError("disk on fire")
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", fail_for_the_new_one)
    with pytest.raises(OSError, match="disk on fire"):
        generate_shapes(ShapesSpec(1, 1, seed=1), root, processes=1)
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_not_replaced(tmp_path):
    (tmp_path / "shapes").write_text("mine")
    with pytest.raises(NotADirectoryError, match="shapes"):
        generate_shapes(ShapesSpec(1, 1), tmp_path / "shapes", processes=1)
    assert (tmp_path / "shapes").read_text() == "mine"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("train_images", 0),
        ("val_images", -1),
        ("image_size", 20),
        ("max_objects", 0),
        ("max_objects", 1000),
        ("polygon_tolerance", -0.5),
        ("polygon_tolerance", float("nan")),
        ("seed", -1),
    ],
)
def test_invalid_specs_name_the_field(field, value):
    with pytest.raises(ValueError, match=field):
        ShapesSpec(**{"train_images": 1, "val_images": 1, field: value})
