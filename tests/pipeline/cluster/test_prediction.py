"""Predicting over Ray workers: whatever their number and their fate, the same files. One Ray serves all tests."""

import functools
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pipeline.cluster.prediction import LostWorkerError, predict_in_chunks

from pipeline.cluster.connection import connected
from pipeline.config.clusters import ClusterConfig
from pipeline.config.evaluations import EvaluationConfig, RenderingConfig
from pipeline.config.experiments import RunConfig
from pipeline.config.project import Project
from pipeline.config.selection import SelectedRun
from pipeline.data.coco import Category, ImageRecord
from pipeline.data.manifest import SplitManifest, write_prepared
from pipeline.data.storage import Storage
from pipeline.errors import UserError
from pipeline.evaluation.chunks import Predict, prefetched
from pipeline.evaluation.instances import IncompletePredictionsError, InstancePredictor, merge_predictions
from pipeline.evaluation.run import predict
from pipeline.evaluation.trained_run import TrainedRun
from pipeline.training.model import build_run_model
from pointrend import save_weights

NUM_IMAGES = 19  # chunks of 8, 8 and 3
HERE = ClusterConfig(workers=0)
ONE, TWO = ClusterConfig(workers=1), ClusterConfig(workers=2, max_failures=1)

SETTINGS = EvaluationConfig(
    {name: RenderingConfig(resolution=side, num_points=196) for name, side in (("14x14", 14), ("28x28", 28))}
)


@pytest.fixture(scope="module")
def run(repository: Path) -> RunConfig:
    """The demo's PointRend at sizes for small images."""
    parameters = SelectedRun(
        task="instance",
        dataset="shapes",
        experiment="coco_pointrend_r50",
        seed=0,
        starts_from="train/shapes_detector-0",
    )
    run, _ = Project(repository).run("demo", "coco_pointrend_r50-0", parameters)
    return run.model_copy(update={"model": run.model.model_copy(update={"test_min_size": 48, "max_size": 64})})


@pytest.fixture(scope="module")
def trained(run: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    """An untrained run on random images."""
    root = tmp_path_factory.mktemp("evaluation")
    images, prepared, weights = root / "images", root / "prepared", root / "model.safetensors"
    images.mkdir()
    prepared.mkdir()
    generator = np.random.default_rng(0)
    records = []
    for index in range(NUM_IMAGES):
        size = (int(generator.integers(30, 48)), int(generator.integers(30, 64)))
        Image.fromarray(generator.integers(0, 256, (*size, 3), np.uint8)).save(images / f"{index}.png")
        # Ids are not in the files' order.
        records.append(ImageRecord(100 - index, f"{index}.png", *size, []))
    split = SplitManifest(records)
    write_prepared(prepared, [Category(4, "bolt"), Category(9, "nut")], {"train": split, "val": split})
    torch.manual_seed(3)
    save_weights(build_run_model(run, 2, pretrained=False), weights, {})
    return TrainedRun(run, prepared, Storage(str(images)), weights)


@pytest.fixture(scope="module")
def here(trained: TrainedRun, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The predictions made in this process, with one thread as in a worker of one CPU."""
    output = tmp_path_factory.mktemp("here")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    predict(trained, SETTINGS, HERE, output)
    torch.set_num_threads(threads)
    return read(output)


@pytest.fixture(scope="module")
def ray_of_this_machine() -> Iterator[None]:
    with connected(TWO):
        yield


def read(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_all_images_are_predicted_in_every_setting(here: dict[str, bytes]) -> None:
    assert sorted(here) == ["predictions_14x14.json", "predictions_28x28.json"]
    for content in here.values():
        results = json.loads(content)
        assert list(dict.fromkeys(result["image_id"] for result in results)) == [100 - i for i in range(NUM_IMAGES)]


@pytest.mark.usefixtures("ray_of_this_machine")
def test_two_workers_write_the_same_bytes_though_one_is_killed(
    trained: TrainedRun, here: dict[str, bytes], tmp_path: Path
) -> None:
    chunks, output, died = tmp_path / "chunks", tmp_path / "output", tmp_path / "died"
    chunks.mkdir()
    original = functools.partial(InstancePredictor, trained, SETTINGS)

    def build(device: torch.device) -> Predict:
        predict = original(device)

        def predict_and_die(chunk: range, folder: Path) -> None:
            predict(chunk, folder)
            if chunk.start == 8 and not died.exists():
                died.touch()
                (folder / "28x28.jsonl").write_text('92\t{"image_')
                os.kill(os.getpid(), signal.SIGKILL)

        return predict_and_die

    parts = predict_in_chunks(build, NUM_IMAGES, chunks, TWO, "one killed")
    assert died.exists()
    assert [part.name for part in parts] == ["images-0000000", "images-0000008", "images-0000016"]
    for name in SETTINGS.root:
        merge_predictions(parts, name, [100 - i for i in range(NUM_IMAGES)], output / f"predictions_{name}.json")
    assert read(output) == here


@pytest.mark.usefixtures("ray_of_this_machine")
def test_one_worker_does_all_chunks(tmp_path: Path) -> None:
    def build(device: torch.device) -> Predict:
        return lambda chunk, folder: (folder / "pid").write_text(f"{os.getpid()} {torch.get_num_threads()}") and None

    cluster = ClusterConfig(workers=1, cpus_per_worker=2)
    (pid,) = {(part / "pid").read_text() for part in predict_in_chunks(build, 20, tmp_path, cluster, "one")}
    assert pid != f"{os.getpid()} 2"
    assert pid.endswith(" 2"), "threads"


@pytest.mark.usefixtures("ray_of_this_machine")
def test_a_worker_that_dies_once_too_often_is_one_message(tmp_path: Path) -> None:
    def build(device: torch.device) -> Predict:
        return lambda chunk, folder: os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(LostWorkerError, match=r"worker 1 of 1 died while predicting images 0 to 4.*max_failures: 0"):
        predict_in_chunks(build, 5, tmp_path, ONE, "killed")
    assert not list(tmp_path.glob("images-*"))


@pytest.mark.usefixtures("ray_of_this_machine")
@pytest.mark.parametrize("cluster", [HERE, ONE.model_copy(update={"max_failures": 3})], ids=["here", "worker"])
def test_an_exception_is_not_tried_again(cluster: ClusterConfig, tmp_path: Path) -> None:
    calls = tmp_path / "calls"

    def build(device: torch.device) -> Predict:
        def refuse(chunk: range, folder: Path) -> None:
            with calls.open("a") as stream:
                stream.write("called\n")
            raise OSError("scan_7.png: not a readable picture")

        return refuse

    with pytest.raises(OSError, match=r"^scan_7\.png: not a readable picture$"):
        predict_in_chunks(build, 5, tmp_path / "chunks", cluster, "refused")
    assert calls.read_text() == "called\n"


def test_a_gpu_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="gpus_per_worker > 0, but this process sees no CUDA device"):
        predict_in_chunks(lambda device: print, 1, tmp_path, ClusterConfig(workers=0, gpus_per_worker=1), "no GPU")


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
