"""The weights of a run as an MLflow model: complete, without pickle, stored once, and used as MLflow's users do."""

import base64
import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import pytest
import torch
from made_up_images import CATEGORIES, prepared_images, small_run
from mlflow import MlflowClient
from PIL import Image

from pipeline.evaluation.trained_run import TrainedRun
from pipeline.tracking import models
from pipeline.tracking.client import Tracker, TrackingError
from pipeline.tracking.models import Registration, find_model, log_model
from pipeline.tracking.runs import RunRecord, log_run
from pipeline.training.model import build_run_model
from pointrend.metadata import ClassInfo
from pointrend.weights import save_weights

REGISTRATION = Registration("pointrend-coco_pointrend_r50", "demo")


@pytest.fixture(scope="module")
def run(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    """An untrained run on random images."""
    root = tmp_path_factory.mktemp("run")
    prepared, images = prepared_images(root, 2)
    config = small_run(repository)
    torch.manual_seed(3)
    classes = [ClassInfo(category.id, category.name) for category in CATEGORIES]
    save_weights(build_run_model(config, 2, pretrained=False), root / "model.safetensors", classes=classes)
    return TrainedRun(config, prepared, images, root / "model.safetensors")


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    root = tmp_path_factory.mktemp("mlflow")
    return Tracker(f"sqlite:///{root / 'mlflow.db'}", "experiment", root / "artifacts")


def start(tracker: Tracker, key: str) -> str:
    return log_run(tracker, RunRecord(key, "my run", {"seed": "0"}, {"mlflow.note.content": "A note."}, 1))


def folder_of(tracker: Tracker, model_id: str) -> Path:
    assert tracker.artifacts is not None
    return tracker.artifacts / "models" / model_id / "artifacts"


def test_a_model_is_complete_and_without_pickle(tracker: Tracker, run: TrainedRun) -> None:
    run_id = start(tracker, "complete")
    model_id = log_model(tracker, run_id, run, None)
    folder = folder_of(tracker, model_id)
    assert not list(folder.rglob("*.pkl"))
    assert (folder / "data/model.safetensors").samefile(run.weights), "the disk has the weights once"
    assert {line.partition("==")[0] for line in (folder / "requirements.txt").read_text().splitlines()} == {
        "mlflow", "torch", "torchvision", "pillow", "safetensors", "numpy", "pandas",
    }  # fmt: skip
    assert (folder / "code/pointrend/pyfunc.py").is_file()
    described = mlflow.models.Model.load(str(folder))
    assert described.metadata == {"run": run.config.run, "classes": ["bolt", "nut"]}
    assert described.signature is not None
    assert described.signature.inputs.input_names() == ["image"]
    assert described.model_size_bytes > run.weights.stat().st_size
    (output,) = tracker.client.get_run(run_id).outputs.model_outputs
    assert (output.model_id, output.step) == (model_id, run.config.schedule.updates)
    assert tracker.client.get_logged_model(model_id).params == {"seed": "0"}


def test_a_model_is_logged_once_whatever_interrupts_it(
    tracker: Tracker, run: TrainedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = start(tracker, "once")
    calls: list[Any] = []

    def fail(*arguments: Any) -> None:
        calls.append(arguments)
        raise OSError("disk full")

    with monkeypatch.context() as broken, pytest.raises(OSError, match="disk full"):
        broken.setattr(models, "_store_weights", fail)
        log_model(tracker, run_id, run, None)
    assert calls
    assert find_model(tracker, run_id) is None, "a model without weights is none"
    model_id = log_model(tracker, run_id, run, None)
    assert log_model(tracker, run_id, run, None) == model_id
    found = tracker.client.search_logged_models([tracker.experiment_id], f"source_run_id = '{run_id}'")
    assert [model.model_id for model in found] == [model_id]


def test_weights_are_copied_where_they_cannot_be_linked(
    tracker: Tracker, run: TrainedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*arguments: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr("os.link", no_links)
    stored = folder_of(tracker, log_model(tracker, start(tracker, "copied"), run, None)) / "data/model.safetensors"
    assert stored.read_bytes() == run.weights.read_bytes()
    assert not stored.samefile(run.weights)
    assert not stored.is_symlink()


def test_a_model_is_registered_once_and_the_alias_moves_to_the_newest(tracker: Tracker, run: TrainedRun) -> None:
    client = tracker.client
    ids = []
    for key in ("first", "first", "second"):
        ids.append(log_model(tracker, start(tracker, f"registered {key}"), run, REGISTRATION))
        version = client.get_model_version_by_alias(REGISTRATION.name, "demo")
        assert version.source == folder_of(tracker, ids[-1]).as_uri()
        assert version.description == "A note."
    versions = client.search_model_versions(f"name = '{REGISTRATION.name}'")
    assert sorted((int(each.version), each.source) for each in versions) == [
        (1, folder_of(tracker, ids[0]).as_uri()),
        (2, folder_of(tracker, ids[2]).as_uri()),
    ]


def test_a_server_that_is_down_is_named(tracker: Tracker, run: TrainedRun) -> None:
    down = tracker.with_patience(0.2)
    down.client, down.uri = MlflowClient("http://127.0.0.1:9"), "http://127.0.0.1:9"
    with pytest.raises(TrackingError, match=r"http://127\.0\.0\.1:9, run "):
        log_model(down, "0" * 32, run, None)


PREDICT = """
import sys
import mlflow.pyfunc, pandas
model = mlflow.pyfunc.load_model(sys.argv[1])
import pointrend
assert pointrend.__file__.startswith(sys.argv[1]), pointrend.__file__
picture = open(sys.argv[2], "rb").read()
found = model.predict(pandas.DataFrame({"image": [picture]}), params={"score": 0.0})
print(len(found[0]["objects"]))
"""


def test_it_predicts_by_its_own_copy_of_the_library(tracker: Tracker, run: TrainedRun, tmp_path: Path) -> None:
    folder = folder_of(tracker, log_model(tracker, start(tracker, "predict"), run, None))
    picture = tmp_path / "picture.png"
    Image.new("RGB", (40, 30), "red").save(picture)
    # In the folder of the model alone, where no other copy of the library is on the path before its own.
    command = [sys.executable, "-c", PREDICT, str(folder), str(picture)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split()[-1]) > 0


def test_the_input_example_is_what_a_server_takes(tracker: Tracker, run: TrainedRun) -> None:
    folder = folder_of(tracker, log_model(tracker, start(tracker, "example"), replace(run), None))
    request = json.loads((folder / "serving_input_example.json").read_text())
    assert request["params"] == {"score": 0.5}
    ((text,),) = request["dataframe_split"]["data"]
    with Image.open(io.BytesIO(base64.b64decode(text))) as image:
        row = run.dataset().manifest("val").slice(0, 1).to_pylist()[0]
        assert image.size == (row["width"], row["height"])
