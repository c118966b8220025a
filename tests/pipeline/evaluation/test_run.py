"""Predicting by one worker or several, and after one was killed: always the same files."""

import json
import threading
from pathlib import Path

import pytest
import torch
from made_up_images import prepared_images, small_run

from pipeline.config.evaluations import EvaluationConfig, RenderingConfig
from pipeline.data.manifest import read_prepared
from pipeline.errors import UserError
from pipeline.evaluation.chunks import chunk_folder, image_chunks, predict_chunks
from pipeline.evaluation.outputs import IncompletePredictionsError
from pipeline.evaluation.run import gather, own_device, predict, predict_share, score
from pipeline.evaluation.trained_run import TrainedRun
from pipeline.training.model import build_run_model
from pointrend.weights import save_weights

NUM_IMAGES = 19  # chunks of 8, 8 and 3
CPU = torch.device("cpu")
SETTINGS = EvaluationConfig(
    {name: RenderingConfig(resolution=side, num_points=196) for name, side in (("14x14", 14), ("28x28", 28))}
)


@pytest.fixture(scope="module")
def trained(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    """An untrained run on random images."""
    root = tmp_path_factory.mktemp("evaluation")
    prepared, images = prepared_images(root, NUM_IMAGES)
    run = small_run(repository)
    torch.manual_seed(3)
    save_weights(build_run_model(run, 2, pretrained=False), root / "model.safetensors")
    return TrainedRun(run, prepared, images, root / "model.safetensors")


@pytest.fixture(scope="module")
def by_one(trained: TrainedRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the chunks and the output of one worker."""
    folder = tmp_path_factory.mktemp("one")
    (folder / "output").mkdir()
    predict(trained, SETTINGS, CPU, folder / "chunks", folder / "output")
    return folder


def read(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def gathered(trained: TrainedRun, chunks: Path, output: Path) -> dict[str, bytes]:
    output.mkdir()
    gather(trained, SETTINGS, chunks, output)
    return read(output)


def test_all_images_are_predicted_in_every_setting(by_one: Path, trained: TrainedRun) -> None:
    found = read(by_one / "output")
    assert sorted(found) == ["predictions_14x14.json", "predictions_28x28.json"]
    for content in found.values():
        results = json.loads(content)
        assert list(dict.fromkeys(result["image_id"] for result in results)) == [100 - i for i in range(NUM_IMAGES)]
    values = score(read_prepared(trained.prepared), by_one / "output", "28x28", SETTINGS.root["28x28"]).metrics
    assert {"AP", "boundary_AP"} <= values.keys()


@pytest.mark.parametrize("world_size", [2, 5])
def test_workers_share_the_images_and_write_the_bytes_of_one(
    trained: TrainedRun, by_one: Path, contents, tmp_path: Path, world_size: int
) -> None:
    chunks = tmp_path / "chunks"
    for rank in reversed(range(world_size)):
        before = contents(chunks)
        predict_share(trained, SETTINGS, chunks, CPU, rank, world_size)
        after = contents(chunks)
        made = {name.partition("/")[0] for name in after.keys() - before.keys()}
        assert made == {f"images-{start:07d}" for start in range(0, NUM_IMAGES, 8)[rank::world_size]}
        assert before.items() <= after.items(), "nothing of another worker is touched"
    assert gathered(trained, chunks, tmp_path / "output") == read(by_one / "output")


def test_workers_at_the_same_time(trained: TrainedRun, by_one: Path, tmp_path: Path) -> None:
    chunks = tmp_path / "chunks"
    threads = [
        threading.Thread(target=predict_share, args=(trained, SETTINGS, chunks, CPU, rank, 2)) for rank in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert gathered(trained, chunks, tmp_path / "output") == read(by_one / "output")


def test_what_is_predicted_is_not_predicted_again(
    trained: TrainedRun, by_one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second chunk is made by hand; another number of workers goes on, and makes the others."""
    chunks = tmp_path / "chunks"
    done = chunk_folder(chunks, range(8, 16))
    done.mkdir(parents=True)
    for name in SETTINGS.root:
        (done / f"{name}.jsonl").write_text("".join(f"{100 - i}\n" for i in range(8, 16)))
    for rank in range(2):
        predict_share(trained, SETTINGS, chunks, CPU, rank, 2)
    found = gathered(trained, chunks, tmp_path / "output")
    expected = {
        name: [r for r in json.loads(content) if not 84 < r["image_id"] <= 92]
        for name, content in read(by_one / "output").items()
    }
    assert {name: json.loads(content) for name, content in found.items()} == expected
    # With all of them there, not even the model is loaded.
    monkeypatch.setattr(TrainedRun, "model", lambda *_: pytest.fail("the model was loaded"))
    predict_share(trained, SETTINGS, chunks, CPU)


def test_a_chunk_of_a_worker_that_dies_never_appears(tmp_path: Path) -> None:
    chunks = image_chunks(20)

    def build():
        def predict_and_die(chunk: range, folder: Path) -> None:
            (folder / "a.jsonl").write_text("1\n2\n")
            if chunk.start == 8:
                # What a half-written chunk looks like from outside, at the moment in which a worker is killed.
                assert not chunk_folder(tmp_path, chunk).exists()
                raise KeyboardInterrupt
            (folder / "a.jsonl").write_text(f"{chunk.start}\n")

        return predict_and_die

    with pytest.raises(KeyboardInterrupt):
        predict_chunks(build, chunks, tmp_path)
    assert [path.name for path in sorted(tmp_path.glob("images-*"))] == ["images-0000000"]
    again: list[int] = []
    predict_chunks(lambda: lambda chunk, folder: again.append(chunk.start), chunks, tmp_path)
    assert again == [8, 16]
    assert (chunk_folder(tmp_path, chunks[0]) / "a.jsonl").read_text() == "0\n"


def test_an_error_is_the_user_s_and_not_tried_again(tmp_path: Path) -> None:
    calls: list[int] = []

    def refuse(chunk: range, folder: Path) -> None:
        calls.append(chunk.start)
        raise OSError("scan_7.png: not a readable picture")

    with pytest.raises(OSError, match=r"^scan_7\.png: not a readable picture$"):
        predict_chunks(lambda: refuse, image_chunks(20), tmp_path)
    assert calls == [0]
    assert list(tmp_path.glob("images-*")) == []


def test_an_image_that_nobody_predicted_is_an_error(trained: TrainedRun, by_one: Path, tmp_path: Path) -> None:
    part = chunk_folder(by_one / "chunks", range(8, 16)) / "28x28.jsonl"
    whole = part.read_text()
    (tmp_path / "output").mkdir()
    try:
        part.write_text("".join(whole.splitlines(keepends=True)[:-1]))
        with pytest.raises(IncompletePredictionsError, match="images-0000016, 28x28: image 84, expected 85"):
            gather(trained, SETTINGS, by_one / "chunks", tmp_path / "output")
    finally:
        part.write_text(whole)
    assert "predictions_28x28.json" not in read(tmp_path / "output")


def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert own_device(use_gpu=False) == CPU
    with pytest.raises(UserError, match="gpus_per_worker > 0, but this process sees no CUDA device"):
        own_device(use_gpu=True)
