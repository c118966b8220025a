"""A data root on this machine, and the addresses of others; tests/pipeline/test_s3.py has one at work."""

import os
import pickle
from pathlib import Path

import pytest

from pipeline.config.locations import is_remote, join
from pipeline.data.storage import Storage, StorageError, UnreadableFileError


@pytest.mark.parametrize(
    ("root", "name", "expected"),
    [
        ("data", "coco/a.json", "data/coco/a.json"),
        ("/data/", "coco", "/data/coco"),
        ("/data", "/elsewhere", "/elsewhere"),
        ("/data", "s3://bucket/coco", "s3://bucket/coco"),
        ("/what?", "a?b", "/what?/a?b"),
        ("s3://bucket/data", "coco", "s3://bucket/data/coco"),
        ("s3://bucket/data/", "coco", "s3://bucket/data/coco"),
        ("s3://bucket?region=x&scheme=http", "coco/a", "s3://bucket/coco/a?region=x&scheme=http"),
        ("s3://bucket", "/elsewhere", "/elsewhere"),
        ("s3://bucket", "gs://other/coco", "gs://other/coco"),
    ],
)
def test_joining(root: str, name: str, expected: str) -> None:
    assert join(root, name) == expected


@pytest.mark.parametrize(
    ("root", "remote"), [("data", False), ("/data", False), ("s3://bucket", True), ("fsspec+memory://x", True)]
)
def test_what_is_remote(root: str, remote: bool) -> None:
    assert is_remote(root) is remote


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("b.txt", "deep/er/a.txt", "deep/c.txt", "other/d.txt", "deep-er/e.txt", "what?.txt"):
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path / "root"


def test_files_of_this_machine(root: Path, tmp_path: Path) -> None:
    storage = Storage(str(root))
    assert storage.read("deep/er/a.txt") == b"deep/er/a.txt"
    assert storage.read("what?.txt") == b"what?.txt"
    assert storage.local("b.txt", tmp_path / "copies") == root / "b.txt"
    storage.copy("deep/c.txt", tmp_path / "copies" / "new" / "c.txt")
    assert (tmp_path / "copies" / "new" / "c.txt").read_text() == "deep/c.txt"


def test_files_are_listed_at_any_depth_in_order(root: Path) -> None:
    storage = Storage(str(root))
    assert list(storage.files("deep")) == ["deep/c.txt", "deep/er/a.txt"]
    assert list(storage.files("nowhere")) == []


def test_a_relative_root_stays_where_it_was(root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(root)
    storage = Storage("deep")
    monkeypatch.chdir(tmp_path)
    assert storage.read("c.txt") == b"deep/c.txt"
    assert storage.where("c.txt") == str(root / "deep/c.txt")
    assert storage.where() == str(root / "deep")


def test_a_pickled_storage_is_the_same(root: Path) -> None:
    storage = Storage(str(root))
    storage.read("b.txt")
    again = pickle.loads(pickle.dumps(storage))  # noqa: S301
    assert again.root == storage.root
    assert again.read("b.txt") == b"b.txt"


@pytest.mark.parametrize(("name", "said"), [("none.txt", "no such file"), ("deep", "cannot be read")])
def test_a_file_that_cannot_be_read_is_named(root: Path, name: str, said: str) -> None:
    for read in (Storage(str(root)).read, lambda name: Storage(str(root)).copy(name, root / "copy")):
        with pytest.raises(UnreadableFileError) as caught:
            read(name)
        assert str(caught.value).startswith(f"{root / name}: {said}")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_named(root: Path) -> None:
    (root / "b.txt").chmod(0)
    with pytest.raises(UnreadableFileError, match=r"b\.txt: cannot be read"):
        Storage(str(root)).read("b.txt")


def test_a_full_disk_is_no_fault_of_the_storage(root: Path) -> None:
    with pytest.raises(OSError, match="No space left") as caught:
        Storage(str(root)).copy("b.txt", Path("/dev/full"))
    assert not isinstance(caught.value, StorageError)


@pytest.mark.parametrize(
    "root",
    ["nfs://server/data", "s3://bucket/da ta", "s3://bucket?endpont_override=x", "fsspec+nothing://x"],
    ids=["protocol", "syntax", "option", "fsspec"],
)
def test_an_address_that_says_nothing(root: str) -> None:
    with pytest.raises(StorageError) as caught:
        Storage(root).read("x")
    assert str(caught.value).startswith(f"{root.partition('?')[0]}: no data root that can be opened (")


def test_what_fsspec_knows(root: Path) -> None:
    storage = Storage(f"fsspec+file://{root}")
    assert storage.read("b.txt") == b"b.txt"
    assert list(storage.files("deep")) == ["deep/c.txt", "deep/er/a.txt"]
    with pytest.raises(UnreadableFileError, match=r"none\.txt: no such file"):
        storage.read("none.txt")


@pytest.mark.parametrize("uri", ["s3://KEY:hidden@bucket/data", "s3://KEY:hid%2Fden@bucket/data?region=x"])
def test_credentials_stay_out_of_addresses(uri: str) -> None:
    with pytest.raises(StorageError, match="AWS_ACCESS_KEY_ID") as caught:
        Storage(uri)
    assert "KEY:" not in str(caught.value)
    assert "hid" not in str(caught.value)
