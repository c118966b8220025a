"""Pictures are decoded once: what is known of them is remembered by their bytes."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageFile

from pipeline.data.pictures import KnownPictures, check_pictures, known_pictures
from pipeline.data.storage import Storage, StorageError
from pipeline.errors import UserError

NAMES = ["a.png", "deep/b.jpg", "c.png"]


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    for seed, name in enumerate(NAMES):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (10 + seed, 20, 3), np.uint8)
        Image.fromarray(pixels).save(path)
    return Storage(str(tmp_path / "images"))


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The sizes (W, H) of the pictures that Pillow decodes."""
    found: list[tuple[int, int]] = []
    load = ImageFile.ImageFile.load

    def counting(picture: ImageFile.ImageFile) -> object:
        found.append(picture.size)
        return load(picture)

    monkeypatch.setattr(ImageFile.ImageFile, "load", counting)
    return found


@pytest.fixture
def check(storage: Storage, tmp_path: Path) -> Callable[..., dict[str, tuple[tuple[int, int], str]]]:
    def check(names: list[str] = NAMES) -> dict[str, tuple[tuple[int, int], str]]:
        with known_pictures(tmp_path / "cache" / "known.parquet") as known:
            return {
                name: (checked.size, checked.problem) for name, checked in check_pictures(storage, names, known).items()
            }

    return check


SIZES = {"a.png": ((10, 20), ""), "deep/b.jpg": ((11, 20), ""), "c.png": ((12, 20), "")}


def test_a_second_time_nothing_is_decoded(check: Callable[..., object], decoded: list[tuple[int, int]]) -> None:
    assert check() == SIZES
    assert sorted(decoded) == [(20, 10), (20, 11), (20, 12)]
    decoded.clear()
    assert check() == SIZES
    assert decoded == []


def test_other_bytes_are_decoded_again(
    check: Callable[..., object], decoded: list[tuple[int, int]], tmp_path: Path
) -> None:
    check()
    decoded.clear()
    path = tmp_path / "images" / "a.png"
    times = (path.stat().st_atime, path.stat().st_mtime)
    Image.new("RGB", (7, 5)).save(path)
    os.utime(path, times)
    assert check() == SIZES | {"a.png": ((5, 7), "")}
    assert decoded == [(7, 5)]


def test_a_copy_under_another_name_is_known(
    check: Callable[..., object], decoded: list[tuple[int, int]], tmp_path: Path
) -> None:
    check()
    decoded.clear()
    (tmp_path / "images" / "copy.png").write_bytes((tmp_path / "images" / "a.png").read_bytes())
    assert check(["copy.png"]) == {"copy.png": ((10, 20), "")}
    assert decoded == []


def test_broken_pictures_are_never_known(check: Callable[..., object], tmp_path: Path) -> None:
    path = tmp_path / "images" / "c.png"
    path.write_bytes(path.read_bytes()[:-30])
    for _ in range(2):
        found = check([*NAMES, "none.png"])
        assert found["a.png"] == SIZES["a.png"]
        assert found["c.png"][1].startswith(f"{path}: not a readable image")
        assert found["none.png"][1] == f"{tmp_path / 'images' / 'none.png'}: no such file"


def test_what_was_decoded_is_remembered_though_the_block_fails(
    storage: Storage, tmp_path: Path, check: Callable[..., object], decoded: list[tuple[int, int]]
) -> None:
    with pytest.raises(KeyError), known_pictures(tmp_path / "cache" / "known.parquet") as known:
        check_pictures(storage, ["a.png"], known)
        raise KeyError
    decoded.clear()
    check()
    assert sorted(decoded) == [(20, 11), (20, 12)]


@pytest.mark.parametrize("damage", ["cut", "text", "other columns", "a folder"])
def test_a_damaged_list_of_known_pictures_is_one_error(
    check: Callable[..., object], tmp_path: Path, damage: str
) -> None:
    check()
    path = tmp_path / "cache" / "known.parquet"
    content = path.read_bytes()
    path.unlink()
    if damage == "a folder":
        path.mkdir()
    elif damage == "other columns":
        pq.write_table(pa.table({"digest": [b"x"], "size": [3]}), path)
    else:
        path.write_bytes(content[: len(content) // 2] if damage == "cut" else b"not a table")
    with pytest.raises(UserError, match=r"known\.parquet: not a readable list of checked pictures; delete it"):
        check()


def test_a_storage_that_is_gone_is_not_asked_again_and_again(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def unreachable(self: Storage, name: str) -> bytes:
        asked.append(name)
        if name == "0.png":
            raise StorageError("no connection")
        time.sleep(0.1)
        return b""

    monkeypatch.setattr(Storage, "read", unreachable)
    with pytest.raises(StorageError, match="no connection"):
        check_pictures(storage, [f"{i}.png" for i in range(200)], KnownPictures({}))
    assert len(asked) < 100


def test_every_picture_is_counted(storage: Storage) -> None:
    calls: list[int] = []
    check_pictures(storage, [*NAMES, "none.png"], KnownPictures({}), lambda: calls.append(1))
    assert len(calls) == 4
