"""AP on resamples of the images against evaluating the resampled datasets."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up_instances import scene

from pipeline.metrics import average_precision
from pipeline.metrics.bootstrap import RESAMPLES, with_intervals
from pipeline.metrics.boundary_ap import boundary_ap
from pipeline.metrics.coco_ap import coco_ap
from pipeline.metrics.lvis_ap import ap_star

METRICS = {"ap": coco_ap, "boundary-ap": boundary_ap, "ap-star": ap_star}
IMAGES = 12
# star and ring of the scene, under LVIS's ids, as two of COCO's categories.
CATEGORIES = [
    {"id": 3, "name": "cat", "synset": "cat.n.01", "frequency": "f"},
    {"id": 8, "name": "dog", "synset": "dog.n.01", "frequency": "f"},
]
COCO_IDS = {3: 17, 8: 18}


def made_up(metric: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    content, results = scene(3)
    if metric == "ap-star":
        content["categories"] = CATEGORIES
        for image in content["images"]:
            image |= {"neg_category_ids": [3, 8], "not_exhaustive_category_ids": [3] if image["id"] % 3 == 0 else []}
        results = [{**result, "category_id": COCO_IDS[result["category_id"]]} for result in results]
    return content, results


def resampled(
    content: dict[str, Any], results: list[dict[str, Any]], counts: list[int]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The dataset with each image as often as it was drawn."""
    copies = {
        image["id"]: [1000 * image["id"] + copy for copy in range(count)]
        for image, count in zip(content["images"], counts, strict=True)
    }
    images = [{**image, "id": id_} for image in content["images"] for id_ in copies[image["id"]]]
    annotations = [
        {**raw, "image_id": id_, "id": 1000 * raw["id"] + id_ % 1000}
        for raw in content["annotations"]
        for id_ in copies[raw["image_id"]]
    ]
    drawn = [{**result, "image_id": id_} for result in results for id_ in copies[result["image_id"]]]
    return {**content, "images": images, "annotations": annotations}, drawn


@pytest.fixture
def score(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    def score(metric: str, content: Any, results: Any, **options: Any) -> dict[str, Any]:
        paths = tmp_path / "truth.json", tmp_path / "results.json"
        for path, value in zip(paths, (content, results), strict=True):
            path.write_text(json.dumps(value))
        return METRICS[metric](*paths, **options)

    return score


def values_of(
    counts: list[list[int]], monkeypatch: pytest.MonkeyPatch, score: Callable[[], dict[str, Any]]
) -> dict[str, list[float]]:
    """The statistics on each resample."""
    with monkeypatch.context() as patch:
        patch.setattr(average_precision, "resample_counts", lambda images, resamples, seed: np.array(counts))
        return {key.removesuffix(RESAMPLES): v.tolist() for key, v in score().items() if key.endswith(RESAMPLES)}


@pytest.mark.parametrize("block", [1, average_precision.BLOCK])
@pytest.mark.parametrize("metric", METRICS)
def test_resamples_are_the_resampled_datasets(
    metric: str, block: int, score: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    content, results = made_up(metric)
    rng = np.random.default_rng(0)
    counts = [[1] * IMAGES, *rng.multinomial(IMAGES, [1 / IMAGES] * IMAGES, size=3).tolist(), [0] * 11 + [12]]
    monkeypatch.setattr(average_precision, "BLOCK", block)
    found = values_of(counts, monkeypatch, lambda: score(metric, content, results, resamples=len(counts)))
    for index, drawn in enumerate(counts):
        expected = score(metric, *resampled(content, results, drawn))
        assert {name: values[index] for name, values in found.items()} == pytest.approx(expected, abs=1e-9, nan_ok=True)
    assert 2 < found["AP"][0] < 95, "the scene must be neither trivial nor hopeless"


def test_a_resample_without_objects_is_not_a_number(
    score: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    content, results = made_up("ap")
    content["annotations"] = [raw for raw in content["annotations"] if raw["image_id"] != 5]
    only_5 = [12 * (image["id"] == 5) for image in content["images"]]
    found = values_of([only_5], monkeypatch, lambda: score("ap", content, results, resamples=1))
    assert all(np.isnan(values[0]) for values in found.values())


@pytest.mark.parametrize("metric", METRICS)
def test_intervals(metric: str, score: Callable[..., dict[str, Any]]) -> None:
    content, results = made_up(metric)
    plain = score(metric, content, results)

    def intervals(seed: int) -> dict[str, Any]:
        return with_intervals(score(metric, content, results, resamples=200, seed=seed))

    found = intervals(1)
    assert list(found) == [*plain, *(f"{name}_interval" for name in plain)]
    assert {name: found[name] for name in plain} == plain
    low, high = found["AP_interval"]
    assert low < plain["AP"] < high
    assert found == intervals(1)
    assert found["AP_interval"] != intervals(2)["AP_interval"]


@pytest.mark.parametrize("metric", METRICS)
def test_only_the_metrics_that_are_asked_for(metric: str, score: Callable[..., dict[str, Any]]) -> None:
    content, results = made_up(metric)
    every = score(metric, content, results, resamples=10)
    found = score(metric, content, results, resamples=10, resampled=["AP", "APm"])
    assert [name for name in found if name.endswith(RESAMPLES)] == ["AP_resamples", "APm_resamples"]
    for name in ("AP_resamples", "APm_resamples"):
        assert found[name].tolist() == every[name].tolist()


def test_intervals_without_predictions(score: Callable[..., dict[str, Any]]) -> None:
    content, _ = made_up("ap")
    assert score("ap", content, [], resamples=20)["AP_resamples"].tolist() == [0] * 20
