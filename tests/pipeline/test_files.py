import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.files import FolderExistsError, atomic_file, atomic_folder, write_json

Contents = Callable[[Path], dict[str, bytes]]


class Stop(Exception):
    """Raised inside the blocks under test."""


def test_a_folder_and_its_parents_appear_at_the_end(tmp_path: Path, contents: Contents) -> None:
    target = tmp_path / "a" / "b" / "out"
    with atomic_folder(target) as folder:
        (folder / "one").write_text("1")
        (folder / "sub").mkdir()
        (folder / "sub" / "two").write_text("2")
        assert not target.exists()
    assert contents(tmp_path) == {"a/b/out/one": b"1", "a/b/out/sub/two": b"2"}


def test_a_folder_is_replaced_only_at_the_end_and_wholly(tmp_path: Path, contents: Contents) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").write_text("old")
    with atomic_folder(target, replace=True) as folder:
        (folder / "new").write_text("new")
        assert contents(target) == {"old": b"old"}
    assert contents(tmp_path) == {"out/new": b"new"}
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("existed", [True, False])
def test_an_error_leaves_the_earlier_folder_and_nothing_else(
    tmp_path: Path, contents: Contents, error: type[BaseException], existed: bool
) -> None:
    target = tmp_path / "out"
    if existed:
        target.mkdir()
        (target / "old").write_text("old")
    with pytest.raises(error), atomic_folder(target, replace=True) as folder:
        (folder / "new").write_text("new")
        raise error
    assert contents(tmp_path) == ({"out/old": b"old"} if existed else {})
    assert os.listdir(tmp_path) == (["out"] if existed else [])


def test_a_folder_that_cannot_be_moved_into_place_leaves_the_earlier_one(
    tmp_path: Path, contents: Contents, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").write_text("old")
    rename = Path.rename

    def failing_rename(self: Path, to: Path) -> Path:
        if self.name == "fresh":
            raise OSError("cannot move")
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", failing_rename)
    with pytest.raises(OSError, match="cannot move"), atomic_folder(target, replace=True) as folder:
        (folder / "new").write_text("new")
    assert contents(tmp_path) == {"out/old": b"old"}
    assert os.listdir(tmp_path) == ["out"]


def test_a_folder_with_files_is_replaced_only_on_request(tmp_path: Path, contents: Contents) -> None:
    target = tmp_path / "out"
    (target / "deep").mkdir(parents=True)
    (target / "deep" / "mine").write_text("mine")
    with pytest.raises(FolderExistsError, match=r"out: holds files already.*Move it away"), atomic_folder(target):
        pytest.fail("the block must not run")
    assert contents(tmp_path) == {"out/deep/mine": b"mine"}


def test_an_empty_folder_is_replaced(tmp_path: Path, contents: Contents) -> None:
    (tmp_path / "out").mkdir()
    with atomic_folder(tmp_path / "out") as folder:
        (folder / "new").write_text("new")
    assert contents(tmp_path) == {"out/new": b"new"}


def test_files_that_came_while_a_folder_was_written_are_left(tmp_path: Path, contents: Contents) -> None:
    target = tmp_path / "out"
    with pytest.raises(FolderExistsError), atomic_folder(target) as folder:
        (folder / "new").write_text("new")
        target.mkdir()
        (target / "mine").write_text("mine")
    assert contents(tmp_path) == {"out/mine": b"mine"}
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("replace", [True, False])
def test_a_folder_does_not_replace_a_file(tmp_path: Path, contents: Contents, replace: bool) -> None:
    target = tmp_path / "out"
    target.write_text("a file")
    with pytest.raises(NotADirectoryError, match=r"out is a file"), atomic_folder(target, replace=replace):
        pytest.fail("the block must not run")
    assert contents(tmp_path) == {"out": b"a file"}


def test_what_appears_can_be_read_by_others(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "folder") as folder:
        (folder / "inside").write_text("")
    write_json(tmp_path / "file.json", {})
    assert (tmp_path / "file.json").stat().st_mode & 0o777 == 0o644
    plain = tmp_path / "plain"
    plain.mkdir()
    assert (tmp_path / "folder").stat().st_mode == plain.stat().st_mode


def test_a_file_is_replaced_only_at_the_end(tmp_path: Path, contents: Contents) -> None:
    target = tmp_path / "deep" / "out.txt"
    for text, before in (("first", None), ("second", b"first")):
        with atomic_file(target) as stream:
            stream.write(text)
            assert (target.read_bytes() if target.exists() else None) == before
    assert contents(tmp_path) == {"deep/out.txt": b"second"}


def test_a_file_can_be_binary(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "out.bin", "wb") as stream:
        stream.write(b"\x00\xff")
    assert (tmp_path / "out.bin").read_bytes() == b"\x00\xff"


@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt])
@pytest.mark.parametrize("existed", [True, False])
def test_an_error_leaves_the_earlier_file_and_nothing_else(
    tmp_path: Path, contents: Contents, error: type[BaseException], existed: bool
) -> None:
    target = tmp_path / "out.txt"
    if existed:
        target.write_text("old")
    with pytest.raises(error), atomic_file(target) as stream:
        stream.write("half of it")
        stream.flush()
        raise error
    assert contents(tmp_path) == ({"out.txt": b"old"} if existed else {})


def test_a_file_does_not_replace_a_folder(tmp_path: Path, contents: Contents) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "inside").write_text("inside")
    with pytest.raises(OSError, match="out"), atomic_file(target) as stream:
        stream.write("text")
    assert contents(tmp_path) == {"out/inside": b"inside"}
    assert os.listdir(tmp_path) == ["out"]


def test_equal_values_are_equal_json_files(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"one": 1, "two": {"y": [1.5, None], "x": "é"}})
    write_json(tmp_path / "b.json", {"two": {"x": "é", "y": [1.5, None]}, "one": 1})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert json.loads((tmp_path / "a.json").read_text()) == {"one": 1, "two": {"y": [1.5, None], "x": "é"}}


def test_json_of_something_else_leaves_the_earlier_file(tmp_path: Path, contents: Contents) -> None:
    target = tmp_path / "out.json"
    write_json(target, {"old": True})
    before = contents(tmp_path)
    with pytest.raises(TypeError):
        write_json(target, {"fine": 1, "not": object()})
    assert contents(tmp_path) == before
