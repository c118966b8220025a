"""The metrics of an instance run: what the prepared truth allows, from one COCO results file."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up_instances import annotation, rle, scene
from PIL import Image

from pipeline.data.cityscapes import CATEGORIES
from pipeline.data.coco import Category, ImageRecord
from pipeline.data.manifest import PreparedDataset, SplitManifest, read_prepared, write_prepared
from pipeline.evaluation.instance_scores import score_instances
from pipeline.metrics.boundary_ap import boundary_ap
from pipeline.metrics.coco_ap import coco_ap
from pipeline.metrics.errors import PredictionError
from pipeline.metrics.lvis_ap import ap_star

COCO_DOG, COCO_PERSON = 18, 1
ROAD, PERSON, CAR = 7, 24, 26


def prepare(folder: Path, categories: list[Category], names: dict[int, str]) -> PreparedDataset:
    """A prepared dataset whose truth is still to be written."""
    (folder / "truth").mkdir(parents=True)
    split = SplitManifest([ImageRecord(id_, name, 60, 80, []) for id_, name in names.items()])
    write_prepared(folder, categories, {"train": split, "val": split})
    return read_prepared(folder)


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def coco(tmp_path: Path) -> tuple[PreparedDataset, Path]:
    """A prepared COCO dataset of persons and dogs, and predictions."""
    content, results = scene(0)
    ids = {3: COCO_DOG, 8: COCO_PERSON}
    for entry in [*content["annotations"], *results]:
        entry["category_id"] = ids[entry["category_id"]]
    content["categories"] = [{"id": COCO_PERSON, "name": "person"}, {"id": COCO_DOG, "name": "dog"}]
    names = {image["id"]: image["file_name"] for image in content["images"]}
    prepared = prepare(tmp_path / "prepared", [Category(COCO_PERSON, "person"), Category(COCO_DOG, "dog")], names)
    write(prepared.truth / "instances.json", content)
    return prepared, write(tmp_path / "predictions.json", results)


def test_coco_gives_ap_and_boundary_ap(coco: tuple[PreparedDataset, Path]) -> None:
    prepared, predictions = coco
    instances = prepared.truth / "instances.json"
    scores = score_instances(prepared, predictions).metrics
    names = ["AP", "AP50", "AP75", "APs", "APm", "APl"]
    assert list(scores) == [*names, "F1_score", "F1", *(f"boundary_{name}" for name in names)]
    with_f1 = coco_ap(instances, predictions, best_f1=True)
    assert {name: scores[name] for name in ("F1", "F1_score")} == {name: with_f1[name] for name in ("F1", "F1_score")}
    assert {name: scores[name] for name in names} == coco_ap(instances, predictions)
    assert {name: scores[f"boundary_{name}"] for name in names} == boundary_ap(instances, predictions)


def test_what_is_not_defined_is_left_out(coco: tuple[PreparedDataset, Path]) -> None:
    prepared, predictions = coco
    path = prepared.truth / "instances.json"
    content = json.loads(path.read_text())
    content["annotations"] = [entry for entry in content["annotations"] if entry["area"] > 32**2]
    write(path, content)
    scores = score_instances(prepared, predictions).metrics
    assert "APm" in scores
    assert not {"APs", "boundary_APs"} & scores.keys()


def test_lvis_gives_ap_star_on_the_images_that_it_has(coco: tuple[PreparedDataset, Path], tmp_path: Path) -> None:
    prepared, predictions = coco
    content = json.loads((prepared.truth / "instances.json").read_text())
    results = json.loads(predictions.read_text())
    synsets = {COCO_DOG: "dog.n.01", COCO_PERSON: "person.n.01"}
    images = [
        {**image, "neg_category_ids": [], "not_exhaustive_category_ids": []}
        for image in content["images"]
        if image["id"] > 4
    ]
    kept = {image["id"] for image in images}
    lvis = {
        "images": images,
        "annotations": [a for a in content["annotations"] if a["image_id"] in kept],
        "categories": [{**c, "synset": synsets[c["id"]], "frequency": "f"} for c in content["categories"]],
    }
    write(prepared.truth / "lvis.json", lvis)
    scores = score_instances(prepared, predictions).metrics
    others = write(tmp_path / "others.json", [result for result in results if result["image_id"] in kept])
    assert len(json.loads(others.read_text())) < len(results)
    expected = ap_star(prepared.truth / "lvis.json", others)
    assert 0 < expected["AP"] < 100
    names = {"AP": "AP_star", "AP50": "AP_star50", "AP75": "AP_star75"}
    names |= {f"AP{size}": f"AP_star_{size}" for size in "sml"}
    assert {name: scores[names[name]] for name in expected} == expected

    results.append({**results[0], "image_id": 99})
    with pytest.raises(PredictionError, match="unknown image id 99"):
        ap_star(prepared.truth / "lvis.json", write(predictions, results), left_out=range(1, 13))


def moved(mask: np.ndarray, columns: int) -> np.ndarray:
    return np.roll(mask, columns, axis=1)


def test_finer_annotations_give_ap_star_worked_by_hand(tmp_path: Path) -> None:
    """A square of 20 rows, annotated 2 columns too wide on each side, and predicted as it is."""
    prepared = prepare(
        tmp_path / "prepared", [Category(COCO_DOG, "dog"), Category(COCO_PERSON, "person")], {1: "a.png"}
    )
    exact, wide = np.zeros((60, 80), bool), np.zeros((60, 80), bool)
    exact[10:30, 20:40] = True
    wide[10:30, 18:42] = True
    images = [{"id": 1, "file_name": "a.png", "height": 60, "width": 80}]
    categories = [{"id": COCO_DOG, "name": "dog"}, {"id": COCO_PERSON, "name": "person"}]
    for name, mask in (("instances", wide), ("finer", exact)):
        objects = [annotation(1, 1, COCO_DOG, mask)]
        write(prepared.truth / f"{name}.json", {"images": images, "annotations": objects, "categories": categories})
    predictions = tmp_path / "predictions.json"
    found = {"image_id": 1, "category_id": COCO_DOG, "score": 0.9, "segmentation": rle(exact)}
    write(predictions, [found])
    scores = score_instances(prepared, predictions, resamples=5)
    # 20 of 24 columns: right at 7 of the 10 thresholds, up to 0.80.
    assert (scores.metrics["AP"], scores.metrics["AP_star"]) == (pytest.approx(70), pytest.approx(100))
    assert scores.details["AP_star_by_class"] == {"dog": 100.0}
    assert len(scores.resamples["AP_star"]) == 5
    # Moved by 4 columns, it covers 16 of 24 columns of the exact one: right up to 0.65, which is 4 of the thresholds.
    write(predictions, [{**found, "segmentation": rle(moved(exact, 4))}])
    assert score_instances(prepared, predictions).metrics["AP_star"] == pytest.approx(40)
    assert "AP_star" not in score_instances(prepared, predictions, finer=False).metrics


def cityscapes(root: Path) -> tuple[PreparedDataset, list[dict[str, Any]]]:
    """Two streets, of a car and a person and of a car alone, and their perfect predictions."""
    names = {
        5: "leftImg8bit/val/ulm/ulm_000000_000001_leftImg8bit.png",
        2: "leftImg8bit/val/bonn/bonn_000000_000010_leftImg8bit.png",
    }
    prepared = prepare(root / "prepared", CATEGORIES, names)
    car, person = np.zeros((60, 83), bool), np.zeros((60, 83), bool)
    car[10:30, 10:40] = True
    person[20:55, 71:83] = True
    results = []
    for image_id, file, objects in (
        (5, "ulm/ulm_000000_000001", [(car, CAR), (person, PERSON)]),
        (2, "bonn/bonn_000000_000010", [(car, CAR)]),
    ):
        ids = np.full((60, 83), ROAD, np.uint16)
        for mask, label_id in objects:
            ids[mask] = 1000 * label_id
            results.append({"image_id": image_id, "category_id": label_id, "score": 0.9, "segmentation": rle(mask)})
        path = prepared.truth / f"{file}_gtFine_instanceIds.png"
        path.parent.mkdir()
        Image.fromarray(ids).save(path)
    return prepared, results


def test_cityscapes_ap_by_hand(tmp_path: Path) -> None:
    prepared, results = cityscapes(tmp_path)
    scores = score_instances(prepared, write(tmp_path / "perfect.json", results)).metrics
    expected = {"AP", "AP50", "AP-person", "AP50-person", "AP-car", "AP50-car"}
    assert scores == pytest.approx(dict.fromkeys(expected, 100.0))
    # Without any of the second image, one of two cars is found: precision 1 up to a recall of one half.
    scores = score_instances(prepared, write(tmp_path / "half.json", results[:2])).metrics
    assert scores["AP-person"] == pytest.approx(100)
    assert scores["AP-car"] == pytest.approx(50)


def test_the_main_metrics_on_resamples_of_the_images(coco: tuple[PreparedDataset, Path]) -> None:
    prepared, predictions = coco
    instances = prepared.truth / "instances.json"
    found = score_instances(prepared, predictions, resamples=20)
    assert found.metrics == score_instances(prepared, predictions).metrics
    assert found.resamples == {
        f"{prefix}{name}": metric(instances, predictions, resamples=20)[f"{name}_resamples"].tolist()
        for prefix, metric in (("", coco_ap), ("boundary_", boundary_ap))
        for name in ("AP", "AP50", "AP75")
    }
    assert found.resamples == score_instances(prepared, predictions, resamples=20).resamples


def test_two_runs_are_scored_on_the_same_resamples(coco: tuple[PreparedDataset, Path], tmp_path: Path) -> None:
    # The second run finds no object of half of the images, so that it can never be ahead on the same images.
    prepared, predictions = coco
    fewer = write(tmp_path / "fewer.json", [r for r in json.loads(predictions.read_text()) if r["image_id"] > 6])
    all_found, half_found = (score_instances(prepared, p, resamples=50).resamples["AP"] for p in (predictions, fewer))
    assert all(half <= full + 1e-9 for half, full in zip(half_found, all_found, strict=True))
    assert min(all_found) < max(half_found), "the resamples differ by more than the runs"


def test_cityscapes_ap_on_resamples_of_two_images(tmp_path: Path) -> None:
    prepared, results = cityscapes(tmp_path)
    # Images in the order of their files: bonn's car is not found, ulm's car and person are.
    found = score_instances(prepared, write(tmp_path / "half.json", results[:2]), resamples=100)
    assert list(found.resamples) == ["AP"]
    # Twice bonn: 0. One of each: 50 for cars and 100 for persons. Twice ulm: 100.
    assert set(np.round(found.resamples["AP"], 6)) == {0, 75, 100}
    assert score_instances(prepared, write(tmp_path / "half.json", results[:2])).resamples == {}
