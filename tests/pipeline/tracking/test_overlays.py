"""Pictures of predictions: the same images in every run, drawn from the files that are scored, logged once."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from made_up_images import prepared_images, small_run
from made_up_labels import OWN, label_ids, prepared_labels
from pycocotools import mask as coco_mask

from pipeline.evaluation.outputs import labels_folder, prediction_names
from pipeline.evaluation.semantics import write_ids
from pipeline.evaluation.trained_run import TrainedRun
from pipeline.tracking.client import Tracker
from pipeline.tracking.overlays import log_overlays, overlays
from pipeline.tracking.runs import RunRecord, log_run


@pytest.fixture
def run(repository: Path, tmp_path: Path) -> TrainedRun:
    prepared, images = prepared_images(tmp_path, 5)
    return TrainedRun(small_run(repository), prepared, images, tmp_path / "model.safetensors")


def predict(run: TrainedRun, folder: Path, score: float) -> Path:
    """A prediction of the left half of every image."""
    folder.mkdir()
    results = []
    for row in run.dataset().manifest("val").to_pylist():
        mask = np.zeros((row["height"], row["width"]), np.uint8, order="F")
        mask[:, : row["width"] // 2] = 1
        rle = coco_mask.encode(mask)
        segmentation = {"size": rle["size"], "counts": rle["counts"].decode()}
        results.append({"image_id": row["id"], "category_id": 9, "score": score, "segmentation": segmentation})
    (folder / "predictions_28x28.json").write_text(json.dumps(results))
    return folder


def test_the_images_are_the_same_in_every_run_and_only_confident_objects_are_drawn(
    run: TrainedRun, tmp_path: Path
) -> None:
    sure = dict(overlays(run, predict(run, tmp_path / "sure", 0.9), "28x28", 3))
    unsure = dict(overlays(run, predict(run, tmp_path / "unsure", 0.4), "28x28", 3))
    assert list(sure) == list(unsure) == ["0", "2", "4"], "at equal distances, the first and the last among them"
    for name, picture in sure.items():
        plain = unsure[name].astype(int)
        # The legend below differs in height from no image: both have one line.
        height, width = plain.shape[0] * 3 // 4, plain.shape[1]
        changed = (np.abs(picture[:height] - plain[:height]).sum(-1) > 0).mean(0)
        assert changed[: width // 2 - 8].mean() > 0.9, "the left half is drawn over"
        assert changed[width // 2 + width // 4 :].mean() < 0.1, "but for the object's name, the right half is not"
        assert max(picture.shape) <= 512
    assert len(list(overlays(run, tmp_path / "sure", "28x28", 99))) == 5


def test_labels_are_drawn_in_the_colours_of_their_classes(tmp_path: Path, repository: Path) -> None:
    prepared, images = prepared_labels(tmp_path, OWN, images=2)
    run = TrainedRun(small_run(repository), prepared.folder, images, tmp_path / "model.safetensors")
    for number, name in enumerate(prediction_names(prepared).values()):
        classes = OWN.classes(label_ids(number, OWN)).clip(max=1)
        write_ids(torch.from_numpy(classes).long(), OWN, labels_folder(tmp_path, "os8") / name)
    for picture in dict(overlays(run, tmp_path, "os8", 2)).values():
        height, width = picture.shape[0] * 3 // 4, picture.shape[1]
        left, right = (picture[height // 3 : height, columns].reshape(-1, 3).mean(0)
                       for columns in (slice(0, width // 3), slice(width * 2 // 3, width)))  # fmt: skip
        assert left[0] > left[2] + 40, "sand is orange, the first colour"
        assert right[2] > right[0] + 40, "sea is blue, the second"


def test_pictures_are_logged_once(run: TrainedRun, tmp_path: Path) -> None:
    tracker = Tracker(f"sqlite:///{tmp_path / 'mlflow.db'}", "experiment", tmp_path / "artifacts")
    run_id = log_run(tracker, RunRecord("key", "my run", {}, {}, 1))
    predictions = predict(run, tmp_path / "predictions", 0.9)
    for count in (0, 2, 3, 3):  # the second time one more, as if the first had been interrupted
        log_overlays(tracker, run_id, run, predictions, "28x28", count)
    files = [path.name for path in (tmp_path / "artifacts" / run_id / "artifacts" / "images").glob("*.png")]
    assert sorted(name.partition("step")[0][:-1] for name in files) == ["overlays~0", "overlays~2", "overlays~4"]
    assert tracker.get(run_id).data.tags["mlflow.loggedImages"] == "True"
