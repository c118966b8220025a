"""A data root behind a real S3 server of this machine."""

import http.server
import json
import logging
import pickle
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from made_up_cityscapes import write_cityscapes, write_labels
from moto.server import ThreadedMotoServer
from pyarrow import fs
from torch.utils.data import DataLoader

from pipeline.config.datasets import CityscapesDataset, CocoDataset, CocoSplit, LabelDataset, LabelSplit, LvisSource
from pipeline.data.coco import DatasetError
from pipeline.data.dataset import EvaluationImages, TrainingImages
from pipeline.data.manifest import read_prepared
from pipeline.data.prepare import prepare
from pipeline.data.samplers import Draw
from pipeline.data.storage import Storage, StorageError, UnreadableFileError
from pipeline.progress import progress

KEY = "MADEUPKEYID"

COCO = CocoDataset(
    source="coco",
    root="coco",
    train=CocoSplit(annotations="annotations/instances_train.json", images="train", num_images=3),
    val=CocoSplit(annotations="annotations/instances_val.json", images="val", num_images=3),
    lvis=LvisSource(
        root="coco",
        annotations="annotations/lvis_val.json",
        synsets={"bolt": "bolt.n.01", "nut": "nut.n.01", "gear": "gear.n.01"},
    ),
)
STREETS = {
    task: CityscapesDataset(
        source="cityscapes",
        task=task,
        root="streets",
        train=LabelSplit(images="leftImg8bit/train", labels="gtFine/train"),
        val=LabelSplit(images="leftImg8bit/val", labels="gtFine/val"),
    )
    for task in ("instance", "semantic")
}
LABELS = LabelDataset(
    source="labels",
    root="labels",
    train=LabelSplit(images="train/images", labels="train/labels"),
    val=LabelSplit(images="val/images", labels="val/labels"),
    classes={"sky": 0, "road": 1},
)
DATASETS = {"coco": COCO, **STREETS, "labels": LABELS}


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory, coco_folder: Callable[..., Any]) -> Path:
    """One dataset of each kind, in folders of their names."""
    root = tmp_path_factory.mktemp("data")
    for split in ("train", "val"):
        coco = coco_folder(root / "coco", split)
    lvis = {
        **coco.data,
        "images": [
            {**image, "neg_category_ids": [2], "not_exhaustive_category_ids": []} for image in coco.data["images"]
        ],
        "categories": [
            {**category, "synset": f"{category['name']}.n.01", "frequency": "f"} for category in coco.data["categories"]
        ],
    }
    (root / "coco" / "annotations" / "lvis_val.json").write_text(json.dumps(lvis))
    write_cityscapes(root / "streets")
    write_labels(root / "labels")
    return root


@pytest.fixture(scope="module", autouse=True)
def credentials() -> Iterator[None]:
    """Where S3's own tools look for them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", "made-up")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield


def address(port: int, path: str = "bucket/data") -> str:
    return f"s3://{path}?endpoint_override=127.0.0.1:{port}&scheme=http&region=eu-west-1"


@pytest.fixture(scope="module")
def port(credentials: None, local: Path) -> Iterator[int]:
    """The port of a server that has the local files in ``bucket/data``."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    filesystem, _ = fs.FileSystem.from_uri(f"{address(port)}&allow_bucket_creation=true")
    filesystem.create_dir("bucket")
    fs.copy_files(str(local), "bucket/data", destination_filesystem=filesystem, use_threads=False)
    yield port
    server.stop()


@pytest.fixture
def remote(port: int) -> str:
    return address(port)


def run(dataset: Any, data_root: str, folder: Path) -> Path:
    prepare(dataset, data_root, folder / "prepared", folder / "known.parquet", progress("check", None))
    return folder / "prepared"


def test_files_come_from_the_bucket(port: int, remote: str, local: Path, tmp_path: Path) -> None:
    storage = Storage(remote)
    name = "labels/train/images/deep/b.PNG"
    content = (local / name).read_bytes()
    assert storage.read(name) == content
    assert storage.local(name, tmp_path / "copies") == tmp_path / "copies" / "b.PNG"
    assert (tmp_path / "copies" / "b.PNG").read_bytes() == content
    expected = sorted(str(path.relative_to(local)) for path in (local / "labels/train").rglob("*") if path.is_file())
    assert list(storage.files("labels/train")) == expected
    assert list(storage.files("nothing")) == []
    assert list(Storage(address(port, "bucket")).files("data/labels/train")) == [f"data/{name}" for name in expected]


@pytest.mark.parametrize("name", DATASETS)
def test_preparing_writes_the_same_bytes_as_from_local_files(
    remote: str, local: Path, tmp_path: Path, contents: Callable[[Path], dict[str, bytes]], name: str
) -> None:
    here = contents(run(DATASETS[name], str(local), tmp_path / "here"))
    there = contents(run(DATASETS[name], remote, tmp_path / "there"))
    assert there == here
    assert any(file.startswith("truth/") for file in there)
    assert not any(KEY.encode() in content or b"127.0.0.1" in content for content in there.values())


def test_training_and_evaluation_read_their_images_there(port: int, local: Path, tmp_path: Path) -> None:
    prepared = read_prepared(run(COCO, str(local), tmp_path))
    roots = f"{local}/coco", address(port, "bucket/data/coco")
    here, there = (TrainingImages(prepared, Storage(root), [24], 60)[Draw(1, 5)] for root in roots)
    assert torch.equal(here.image, there.image)
    assert here.target.keys() == there.target.keys()
    images = [EvaluationImages(prepared, Storage(root)) for root in roots]
    for index in range(3):
        (id_, expected), (found_id, found) = (split[index] for split in images)
        assert found_id == id_
        assert torch.equal(found, expected)


def test_loader_processes_connect_for_themselves(port: int, local: Path, tmp_path: Path) -> None:
    prepared = read_prepared(run(LABELS, str(local), tmp_path))
    storage = Storage(address(port, "bucket/data/labels"))
    images = EvaluationImages(prepared, storage, "label_file")
    _, expected = images[0]  # this process is connected before it forks
    loader = DataLoader(images, batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=60)
    ((name, found),) = loader
    assert name == "val/labels/a.png"
    assert torch.equal(found, expected)


def test_another_process_reads_with_a_pickled_storage(remote: str, local: Path) -> None:
    storage = Storage(remote)
    storage.read("labels/val/images/a.tif")
    program = (
        "import pickle, sys; storage = pickle.load(sys.stdin.buffer)\n"
        "sys.stdout.buffer.write(storage.read('labels/val/images/a.tif'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=pickle.dumps(storage),
        capture_output=True,
        check=False,
        cwd=Path(__file__).parents[3],
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout == (local / "labels/val/images/a.tif").read_bytes()


# What goes wrong


def test_results_go_to_another_checkout_by_a_dvc_remote(port: int, tmp_path: Path) -> None:
    """What `dvc push` has stored, `dvc pull` restores, and `dvc repro` has nothing to do there."""

    def dvc(folder: Path, *arguments: str) -> str:
        command = [str(Path(sys.executable).parent / "dvc"), *arguments]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir()
    dvc(ours, "init", "--no-scm", "--quiet")
    dvc(ours, "remote", "add", "--default", "store", "s3://bucket/dvc")
    dvc(ours, "remote", "modify", "store", "endpointurl", f"http://127.0.0.1:{port}")
    (ours / "dvc.yaml").write_text("stages: {draw: {cmd: mkdir out && seq 1000 > out/numbers, outs: [out]}}")
    assert "Running stage 'draw'" in dvc(ours, "repro")
    dvc(ours, "push")

    theirs.mkdir()
    for name in (".dvc/config", "dvc.yaml", "dvc.lock"):
        (theirs / name).parent.mkdir(exist_ok=True)
        (theirs / name).write_bytes((ours / name).read_bytes())
    dvc(theirs, "pull")
    assert (theirs / "out/numbers").read_bytes() == (ours / "out/numbers").read_bytes()
    assert "Running stage" not in dvc(theirs, "repro")


def test_a_missing_object_is_named(remote: str) -> None:
    with pytest.raises(UnreadableFileError) as caught:
        Storage(remote).read("labels/none.png")
    assert str(caught.value) == "s3://bucket/data/labels/none.png: no such file"


def test_a_missing_image_is_one_problem_among_others(remote: str, tmp_path: Path) -> None:
    dataset = COCO.model_copy(update={"train": COCO.train.model_copy(update={"images": "nothing"})})
    with pytest.raises(DatasetError) as caught:
        run(dataset, remote, tmp_path)
    assert caught.value.where == "s3://bucket/data/coco/annotations/instances_train.json", "not that of a copy"
    assert len(caught.value.problems) == 3
    assert not (tmp_path / "prepared").exists()


@pytest.mark.parametrize("dataset", ["coco", "semantic"])
def test_a_wrong_bucket_is_named(port: int, tmp_path: Path, dataset: str) -> None:
    with pytest.raises(DatasetError, match="s3://buckte/data/") as caught:
        run(DATASETS[dataset], address(port, "buckte/data"), tmp_path)
    said = "no such annotation file" if dataset == "coco" else "no image there"
    assert [said in problem for problem in caught.value.problems[:2]] == [True, True]


def test_a_server_that_is_not_there_is_one_error(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(StorageError, match=r"s3://bucket/data/coco/annotations/.*(?i:connect)") as caught:
        run(COCO.model_copy(update={"obtain": "somewhere"}), address(port), tmp_path)
    assert len(str(caught.value).splitlines()) == 1
    assert not isinstance(caught.value, UnreadableFileError | DatasetError)
    assert not (tmp_path / "prepared").exists()


def test_credentials_are_those_of_the_environment() -> None:
    seen: list[str] = []

    class Recorder(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            seen.append(self.headers["Authorization"])
            self.send_response(404)
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            """Says nothing."""

    with http.server.HTTPServer(("127.0.0.1", 0), Recorder) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(UnreadableFileError, match="no such file"):
            Storage(address(server.server_port)).read("x")
        server.shutdown()
    assert seen
    assert all(f"Credential={KEY}/" in header for header in seen)
