import errno
import os
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from torch import nn

from pipeline.training.checkpoint import CheckpointError, CheckpointStore, CheckpointWriter

CPU = torch.device("cpu")
State = tuple[nn.Module, torch.optim.SGD]


def network(width: int = 3) -> State:
    model = nn.Sequential(nn.Conv2d(2, width, 3), nn.BatchNorm2d(width), nn.Conv2d(width, 1, 1))
    return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)


def step(state: State, times: int = 1) -> None:
    """A few updates, so that there is momentum and there are running statistics."""
    model, optimizer = state
    for _ in range(times):
        optimizer.zero_grad()
        model(torch.rand(2, 2, 6, 6)).square().mean().backward()
        optimizer.step()


def snapshot(state: State) -> dict[str, Any]:
    model, optimizer = state
    momentum = {i: s["momentum_buffer"].clone() for i, s in enumerate(optimizer.state.values())}
    return {"model": {k: v.clone() for k, v in model.state_dict().items()}, "momentum": momentum}


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return all(
        a[part].keys() == b[part].keys() and all(torch.equal(a[part][k], b[part][k]) for k in a[part]) for part in a
    )


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints")


@pytest.fixture
def filled(store: CheckpointStore) -> tuple[CheckpointStore, dict[int, dict[str, Any]]]:
    """Checkpoints of updates 5 and 10, and what they hold."""
    torch.manual_seed(0)
    state, held = network(), {}
    for update in (5, 10):
        step(state, 5)
        held[update] = snapshot(state)
        store.save(update, *state)
    return store, held


def files(store: CheckpointStore) -> list[str]:
    return sorted(os.listdir(store.folder))


def test_a_round_trip_is_exact(filled: tuple[CheckpointStore, dict[int, dict[str, Any]]]) -> None:
    store, held = filled
    restored = network()
    assert store.load_latest(*restored, CPU) == 10
    assert same(snapshot(restored), held[10])
    assert not same(held[5], held[10])


def test_training_goes_on_from_a_checkpoint_as_if_nothing_had_happened(store: CheckpointStore) -> None:
    torch.manual_seed(0)
    state = network()
    step(state, 3)
    store.save(3, *state)
    torch.manual_seed(1)
    step(state, 3)
    resumed = network()
    store.load_latest(*resumed, CPU)
    torch.manual_seed(1)
    step(resumed, 3)
    assert same(snapshot(resumed), snapshot(state))


def test_without_a_checkpoint_nothing_changes(store: CheckpointStore) -> None:
    state = network()
    step(state)
    before = snapshot(state)
    assert store.load_latest(*state, CPU) == 0
    store.folder.mkdir()
    assert store.load_latest(*state, CPU) == 0
    assert same(snapshot(state), before)


def test_the_newest_two_are_kept(store: CheckpointStore) -> None:
    state = network()
    step(state)
    for update in (9, 10, 99, 100):
        store.save(update, *state)
    assert files(store) == ["update-00000099.pt", "update-00000100.pt"]


def test_saving_an_update_again_replaces_it(filled: tuple[CheckpointStore, Any]) -> None:
    store, _ = filled
    state = network()
    step(state)
    store.save(10, *state)
    restored = network()
    assert store.load_latest(*restored, CPU) == 10
    assert same(snapshot(restored), snapshot(state))
    assert files(store) == ["update-00000005.pt", "update-00000010.pt"]


def test_other_files_are_left_alone(filled: tuple[CheckpointStore, Any]) -> None:
    store, _ = filled
    for name in ("update-last.pt", "update-00000099.pt.bak", "notes.txt"):
        (store.folder / name).write_text("mine")
    state = network()
    step(state)
    assert store.load_latest(*state, CPU) == 10
    store.save(15, *state)
    assert {"update-last.pt", "update-00000099.pt.bak", "notes.txt"} <= set(files(store))


# Damage


@pytest.mark.parametrize("kept", [0, 1, 2, 3, 4, 30, 100, 0.25, 0.5, 0.9, 0.99])
def test_a_truncated_checkpoint_gives_way_to_the_one_before(
    filled: tuple[CheckpointStore, dict[int, dict[str, Any]]], capsys: pytest.CaptureFixture[str], kept: float
) -> None:
    store, held = filled
    newest = store.folder / "update-00000010.pt"
    content = newest.read_bytes()
    newest.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    restored = network()
    assert store.load_latest(*restored, CPU) == 5
    assert same(snapshot(restored), held[5])
    said = capsys.readouterr().out
    assert str(newest) in said
    assert "falling back to the checkpoint before" in said


@pytest.mark.parametrize(
    "garbage",
    [bytes(1000), b"hello world", b"<html>", b"PK\x03\x04" + bytes(300), *(Random(i).randbytes(999) for i in range(9))],
    ids=lambda garbage: repr(garbage[:6]),
)
def test_garbage_gives_way_to_the_one_before(filled: tuple[CheckpointStore, Any], garbage: bytes) -> None:
    store, _ = filled
    (store.folder / "update-00000010.pt").write_bytes(garbage)
    assert store.load_latest(*network(), CPU) == 5


def test_a_flipped_bit_in_the_weights_gives_way_to_the_one_before(
    filled: tuple[CheckpointStore, dict[int, dict[str, Any]]],
) -> None:
    store, held = filled
    newest = store.folder / "update-00000010.pt"
    content = bytearray(newest.read_bytes())
    content[content.index(held[10]["model"]["0.weight"].numpy().tobytes()) + 8] ^= 1
    newest.write_bytes(bytes(content))
    restored = network()
    assert store.load_latest(*restored, CPU) == 5
    assert same(snapshot(restored), held[5])


def test_after_two_truncated_checkpoints_a_new_one_is_kept(
    filled: tuple[CheckpointStore, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    # The run starts over, and must not lose what it saves to files that cannot be read.
    store, _ = filled
    for path in store.folder.iterdir():
        path.write_bytes(path.read_bytes()[:100])
    state = network()
    assert store.load_latest(*state, CPU) == 0
    assert capsys.readouterr().out.count("unreadable") == 2
    step(state)
    store.save(3, *state)
    restored = network()
    assert store.load_latest(*restored, CPU) == 3
    assert same(snapshot(restored), snapshot(state))


class Bomb:
    """A pickle that leaves a file behind when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return (_explode, (str(self.mark), "exploded"))


def _explode(path: str, text: str) -> None:
    Path(path).write_text(text)


@pytest.mark.parametrize("write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, protocol=2))])
def test_a_foreign_pickle_is_not_executed(
    filled: tuple[CheckpointStore, Any], tmp_path: Path, write: Callable[[Any, Path], None]
) -> None:
    store, _ = filled
    write({"update": 20, "model": Bomb(tmp_path / "mark")}, store.folder / "update-00000020.pt")
    assert store.load_latest(*network(), CPU) == 10
    assert not (tmp_path / "mark").exists()


# Errors


def test_a_full_disk_is_named_and_leaves_the_earlier_checkpoints(
    filled: tuple[CheckpointStore, dict[int, dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, held = filled

    def full(_: Any, stream: Any) -> None:
        stream.write(b"a part of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(CheckpointError, match=r"update-00000015\.pt: .*No space left on device") as caught:
            store.save(15, *network())
    assert str(store.folder) in str(caught.value)
    assert files(store) == ["update-00000005.pt", "update-00000010.pt"]
    restored = network()
    assert store.load_latest(*restored, CPU) == 10
    assert same(snapshot(restored), held[10])


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"update-00000001\.pt"):
        CheckpointStore(tmp_path / "file" / "checkpoints").save(1, *network())


def test_a_checkpoint_of_another_model_is_refused(filled: tuple[CheckpointStore, Any]) -> None:
    store, _ = filled
    with pytest.raises(CheckpointError, match=r"update-00000010\.pt: not a checkpoint of this run"):
        store.load_latest(*network(width=4), CPU)


@pytest.mark.parametrize("content", [{}, {"model": {}}, {"model": 1, "optimizer": 2}, [1, 2], 5])
def test_a_file_of_something_else_is_refused(filled: tuple[CheckpointStore, Any], content: Any) -> None:
    store, _ = filled
    torch.save(content, store.folder / "update-00000020.pt")
    with pytest.raises(CheckpointError, match=r"update-00000020\.pt: not a checkpoint of this run"):
        store.load_latest(*network(), CPU)


def test_a_checkpoint_of_another_optimizer_is_refused(filled: tuple[CheckpointStore, Any]) -> None:
    store, _ = filled
    model, _ = network()
    groups = [{"params": [p]} for p in model.parameters()]
    with pytest.raises(CheckpointError, match=r"update-00000010\.pt: not a checkpoint of this run"):
        store.load_latest(model, torch.optim.SGD(groups, lr=0.1, momentum=0.9), CPU)


# Written while training goes on


class HeldStore(CheckpointStore):
    """A store on a disk that is as slow as the test wants."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        object.__setattr__(self, "go", threading.Event())

    def write(self, update: int, state: dict[str, Any]) -> None:
        assert self.go.wait(timeout=30)
        super().write(update, state)


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path: Path) -> None:
    store = HeldStore(tmp_path)
    state = network()
    step(state)
    with CheckpointWriter(store) as writer:
        writer.save(1, *state)
        saved = snapshot(state)
        step(state, 3)
        assert not list(tmp_path.iterdir())
        store.go.set()
        writer.save(4, *state)
    assert files(store) == ["update-00000001.pt", "update-00000004.pt"]
    restored = network()
    store.load(1, *restored, CPU)
    assert same(snapshot(restored), saved), "the weights of then, not those of when it was written"
    assert store.load_latest(*restored, CPU) == 4
    assert same(snapshot(restored), snapshot(state))


def blocked(tmp_path: Path) -> CheckpointStore:
    """A store that nothing can be written to."""
    (tmp_path / "file").write_text("")
    return CheckpointStore(tmp_path / "file" / "checkpoints")


def test_what_could_not_be_written_is_an_error_at_the_next_save(tmp_path: Path) -> None:
    state = network()
    step(state)
    writer = CheckpointWriter(blocked(tmp_path))
    writer.save(1, *state)
    with pytest.raises(CheckpointError, match=r"update-00000001\.pt.*free some space"):
        writer.save(2, *state)
    writer.wait()


def test_what_could_not_be_written_is_an_error_at_the_end(tmp_path: Path) -> None:
    with (
        pytest.raises(CheckpointError, match=r"update-00000001\.pt"),
        CheckpointWriter(blocked(tmp_path)) as writer,
    ):
        writer.save(1, *network())


def test_another_error_stays_the_one_that_is_raised(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="diverged") as caught, CheckpointWriter(blocked(tmp_path)) as writer:
        writer.save(1, *network())
        raise ValueError("diverged")
    assert "update-00000001.pt" in caught.value.__notes__[0]


def test_what_a_killed_writer_left_is_cleared_away(filled: tuple[CheckpointStore, Any]) -> None:
    store, _ = filled
    (store.folder / ".update-00000012.pt.k3j2h1").write_bytes(b"half")
    store.save(15, *network())
    assert files(store) == ["update-00000010.pt", "update-00000015.pt"]


def test_a_checkpoint_that_another_worker_has_is_asked_for_by_name(filled: tuple[CheckpointStore, Any]) -> None:
    store, held = filled
    restored = network()
    store.load(5, *restored, CPU)
    assert same(snapshot(restored), held[5])
    with pytest.raises(CheckpointError, match=r"update-00000012\.pt: another worker resumes.*must share this folder"):
        store.load(12, *restored, CPU)
