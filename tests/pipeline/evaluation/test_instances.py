"""Predictions: one detector pass per image, every setting rendered from it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from torch import Tensor

from pipeline.config.evaluations import RenderingConfig
from pipeline.data.coco import Category
from pipeline.evaluation.chunks import prefetched
from pipeline.evaluation.instances import (
    ResultsWriter,
    encode_regions,
    encode_results,
    merge_predictions,
    predict_regions,
)
from pipeline.evaluation.outputs import IncompletePredictionsError
from pointrend import build_model
from pointrend.instance import MaskRCNN
from pointrend.paste import paste_masks

CATEGORIES = [Category(4, "bolt"), Category(9, "nut")]
SETTINGS = {
    "28x28": RenderingConfig(resolution=28, num_points=784),
    "56x56": RenderingConfig(resolution=56, num_points=784),
}


@pytest.fixture(scope="module")
def model() -> MaskRCNN:
    torch.manual_seed(3)
    return build_model("pointrend_rcnn_tiny_fpn", num_classes=2, min_size=64, max_size=96).eval()


@pytest.fixture(scope="module")
def image() -> Tensor:
    return torch.rand(3, 60, 80, generator=torch.Generator().manual_seed(0))


def test_a_region_is_encoded_as_it_is_pasted() -> None:
    generator = torch.Generator().manual_seed(1)
    regions = torch.rand(3, 28, 28, generator=generator)
    boxes = torch.tensor([[10.0, 5.0, 40.0, 30.0], [-8.0, 20.0, 12.5, 47.0], [60.0, 10.0, 90.0, 20.0]])
    pasted = paste_masks(regions[:, None], boxes, (36, 64))[:, 0] >= 0.5
    for rle, mask in zip(encode_regions(regions, boxes, (36, 64)), pasted, strict=True):
        assert rle["size"] == [36, 64]
        assert np.array_equal(coco_mask.decode(rle), mask.numpy())


def test_no_region_is_encoded() -> None:
    assert encode_regions(torch.zeros(0, 28, 28), torch.zeros(0, 4), (36, 64)) == []


def test_settings_share_boxes_and_scores_and_differ_in_masks(model: MaskRCNN, image: Tensor) -> None:
    results = encode_results(17, predict_regions(model, image, SETTINGS), CATEGORIES)
    coarse, fine = results["28x28"], results["56x56"]
    assert coarse
    for a, b in zip(coarse, fine, strict=True):
        assert {k: v for k, v in a.items() if k != "segmentation"} == {
            k: v for k, v in b.items() if k != "segmentation"
        }
    assert [r["segmentation"] for r in coarse] != [r["segmentation"] for r in fine]


def test_results_are_in_the_image_s_own_pixels_and_the_dataset_s_own_ids(model: MaskRCNN, image: Tensor) -> None:
    expected = model([image])[0]
    results = encode_results(17, predict_regions(model, image, SETTINGS), CATEGORIES)["28x28"]
    assert {r["image_id"] for r in results} == {17}
    assert [r["category_id"] for r in results] == [(4, 9)[label - 1] for label in expected["labels"].tolist()]
    corners = torch.tensor([r["bbox"] for r in results])
    corners[:, 2:] += corners[:, :2]
    torch.testing.assert_close(corners, expected["boxes"], atol=5e-3, rtol=0)
    assert all(r["segmentation"]["size"] == [60, 80] for r in results)


@pytest.mark.parametrize("batches", [[], [[]], [[{"a": 1}], [], [{"a": 2}, {"a": 3}]]])
def test_results_written_in_parts_are_one_json_list(tmp_path: Path, batches: list[list[dict[str, int]]]) -> None:
    path = tmp_path / "results.json"
    with path.open("w") as stream:
        writer = ResultsWriter(stream)
        for batch in batches:
            writer.add(map(json.dumps, batch))
        writer.close()
    assert json.loads(path.read_text()) == [result for batch in batches for result in batch]


# Joining chunks


def write_parts(root: Path, *parts: list[int]) -> list[Path]:
    """Chunks of images without detections, but for image 2, which has one."""
    folders = []
    for index, image_ids in enumerate(parts):
        folder = root / f"part{index}"
        folder.mkdir()
        lines = [f"{id_}" + ('\t{"image_id": 2}' if id_ == 2 else "") + "\n" for id_ in image_ids]
        (folder / "a.jsonl").write_text("".join(lines))
        folders.append(folder)
    return folders


def test_an_image_without_detections_is_not_a_lost_one(tmp_path: Path) -> None:
    merge_predictions(write_parts(tmp_path, [5, 2], [3]), "a", [5, 2, 3], tmp_path / "merged.json")
    assert json.loads((tmp_path / "merged.json").read_text()) == [{"image_id": 2}]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([[5], [3]], "part1, a: image 3, expected 2"),
        ([[5, 2]], "no predictions for image 3"),
        ([[5, 2], [2, 3]], "part1, a: image 2, expected 3"),
        ([[5, 2, 3], [3]], "part1, a: image 3, expected None"),
    ],
    ids=["lost", "lost at the end", "twice", "too many"],
)
def test_every_image_must_be_there_exactly_once(parts: list[list[int]], message: str, tmp_path: Path) -> None:
    with pytest.raises(IncompletePredictionsError, match=message):
        merge_predictions(write_parts(tmp_path, *parts), "a", [5, 2, 3], tmp_path / "merged.json")
    assert not (tmp_path / "merged.json").exists()


def test_prefetching_keeps_the_order() -> None:
    squares = [index * index for index in range(10)]
    assert list(prefetched(squares, range(3, 7))) == [9, 16, 25, 36]  # type: ignore[arg-type]
    assert list(prefetched(squares, range(0))) == []  # type: ignore[arg-type]
