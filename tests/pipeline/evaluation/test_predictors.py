"""Predictors of a chunk: the same files whether results are encoded in a thread, as beside a GPU, or not."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import pipeline.evaluation.chunks as chunks
import pipeline.evaluation.instances as instances
from pipeline.config.evaluations import EvaluationConfig, RenderingConfig
from pipeline.data.coco import read_coco
from pipeline.data.manifest import PreparedDataset, SplitManifest, read_prepared, write_prepared
from pipeline.data.pictures import KnownPictures
from pipeline.data.storage import Storage
from pipeline.evaluation.background import BackgroundThread
from pipeline.evaluation.chunks import Predict
from pipeline.evaluation.instances import instance_predictor, merge_predictions
from pointrend import build_model

SETTINGS = EvaluationConfig(
    {"28": RenderingConfig(resolution=28, num_points=784), "56": RenderingConfig(resolution=56, num_points=784)}
)


@pytest.fixture
def predictor(coco: Any, tmp_path: Path) -> Predict:
    storage = Storage(str(coco.root))
    data = read_coco(coco.annotations, storage, coco.split, KnownPictures({}))
    (tmp_path / "prepared").mkdir()
    write_prepared(tmp_path / "prepared", data.categories, {"val": SplitManifest(data.images)})
    dataset: PreparedDataset = read_prepared(tmp_path / "prepared")
    torch.manual_seed(0)
    model = build_model("pointrend_rcnn_tiny_fpn", num_classes=3, min_size=64, max_size=96, detections_per_image=10)
    run: Any = SimpleNamespace(
        config=SimpleNamespace(schedule=SimpleNamespace(precision="float32")),
        images=storage,
        dataset=lambda: dataset,
        model=lambda device: model.eval().to(device),
    )
    return instance_predictor(run, SETTINGS, torch.device("cpu"))


def files(predictor: Predict, folder: Path) -> dict[str, bytes]:
    folder.mkdir()
    predictor(range(3), folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "BackgroundThread", lambda device: BackgroundThread(torch.device("cuda")))


def test_a_thread_writes_the_same_bytes(predictor: Predict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = files(predictor, tmp_path / "inline")
    in_a_thread(monkeypatch)
    assert files(predictor, tmp_path / "thread") == expected
    assert sorted(expected) == ["28.jsonl", "56.jsonl"]
    # Every image once and in order; that is what merging checks.
    merge_predictions([tmp_path / "thread"], "28", [3, 7, 12], tmp_path / "28.json")
    assert (tmp_path / "28.json").read_text().count('"segmentation"') > 3


def test_what_fails_in_the_thread_is_raised(
    predictor: Predict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> None:
        raise OSError("disk full")

    in_a_thread(monkeypatch)
    monkeypatch.setattr(instances, "encode_results", fail)
    with pytest.raises(OSError, match="disk full"):
        files(predictor, tmp_path / "thread")
