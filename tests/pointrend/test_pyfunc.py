"""Weights as MLflow loads them: what comes of pictures, against `pointrend predict`'s own reading of the model."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

import pointrend
from pointrend.instance import MaskRCNN
from pointrend.metadata import ClassInfo
from pointrend.pyfunc import WEIGHTS, Segmenter, _load_pyfunc
from pointrend.weights import load_model, save_weights

CLASSES = (ClassInfo(4, "bolt"), ClassInfo(9, "nut"))


def picture(height: int = 40, width: int = 56, kind: str = "PNG") -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    """An untrained instance model, as the folder of an MLflow model has it."""
    folder = tmp_path_factory.mktemp("model")
    (folder / WEIGHTS).parent.mkdir()
    torch.manual_seed(0)
    model = pointrend.build_model("pointrend_rcnn_r50_fpn_coco", num_classes=2, min_size=48, max_size=64)
    save_weights(model, folder / WEIGHTS, classes=CLASSES)
    return _load_pyfunc(str(folder))


def test_objects_are_coco_s_results_best_first(segmenter: Segmenter) -> None:
    first, second = segmenter.predict({"image": [picture(), picture(30, 20, "JPEG")]}, {"score": 0.0})
    assert (first["height"], first["width"], second["height"], second["width"]) == (40, 56, 30, 20)
    scores = [found["score"] for found in first["objects"]]
    assert scores, "an untrained model finds something at any score"
    assert scores == sorted(scores, reverse=True)
    model = segmenter.model
    assert isinstance(model, MaskRCNN)
    pixels = np.array(Image.open(io.BytesIO(picture())))
    with torch.inference_mode():
        (own,) = model([torch.from_numpy(pixels).permute(2, 0, 1) / 255])
    assert len(own["scores"]) == len(scores)
    for number, found in enumerate(first["objects"]):
        assert found["category_name"] == {4: "bolt", 9: "nut"}[found["category_id"]]
        assert found["category_id"] == (4, 9)[int(own["labels"][number]) - 1]
        x, y, width, height = found["bbox"]
        assert [x, y, x + width, y + height] == pytest.approx(own["boxes"][number].tolist(), abs=0.02)
        mask = coco_mask.decode(found["segmentation"]).astype(bool)
        assert mask.shape == (40, 56)
        assert (mask != (own["masks"][number, 0] >= 0.5).numpy()).mean() < 0.01


def test_the_score_is_a_parameter(segmenter: Segmenter) -> None:
    every = segmenter.predict({"image": [picture()]}, {"score": 0.0})[0]["objects"]
    least = every[len(every) // 2]["score"]
    some = segmenter.predict({"image": [picture()]}, {"score": least})[0]["objects"]
    assert 0 < len(some) < len(every)
    assert segmenter.predict({"image": [picture()]}) == segmenter.predict({"image": [picture()]}, {"score": 0.5})
    with pytest.raises(ValueError, match=r"score is 1\.5, expected a number from 0 to 1"):
        segmenter.predict({"image": [picture()]}, {"score": 1.5})


def test_what_is_no_picture_is_named(segmenter: Segmenter) -> None:
    with pytest.raises(OSError, match="image 1"):
        segmenter.predict({"image": [picture(), b"no picture"]})
    with pytest.raises(KeyError, match="image"):
        segmenter.predict({"picture": [picture()]})


def test_labels_are_a_png_of_class_ids(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = pointrend.build_model("pointrend_semantic_fpn_r101_cityscapes", num_classes=2)
    save_weights(model, tmp_path / "model.safetensors", classes=CLASSES)
    loaded = load_model(tmp_path / "model.safetensors")
    (found,) = Segmenter(loaded).predict({"image": [picture(64, 96)]})
    assert found["classes"] == [{"id": 4, "name": "bolt"}, {"id": 9, "name": "nut"}]
    labels = np.array(Image.open(io.BytesIO(base64.b64decode(found["labels"]))))
    with torch.inference_mode():
        (logits,) = loaded([torch.from_numpy(np.array(Image.open(io.BytesIO(picture(64, 96))))).permute(2, 0, 1) / 255])
    assert (found["height"], found["width"]) == labels.shape == (64, 96)
    assert (labels != np.array([4, 9])[logits.argmax(0).numpy()]).mean() < 0.01
