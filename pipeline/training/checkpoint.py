"""Checkpoints that a killed run resumes from: whole or not at all, and only ever tensors and numbers."""

import re
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from types import TracebackType
from typing import Any, Self
from zipfile import BadZipFile, ZipFile

import torch
from torch import nn

from pipeline.errors import UserError
from pipeline.files import atomic_file

_FILE = re.compile(r"update-(\d+)\.pt")


# What reading a truncated, overwritten or foreign file may raise.
UNREADABLE = (OSError, EOFError, RuntimeError, BadZipFile, UnpicklingError)


class CheckpointError(UserError, RuntimeError):
    """A checkpoint that cannot be written or read."""


@dataclass(frozen=True)
class CheckpointStore:
    """The checkpoints of one run in a folder that all its workers can read.

    A checkpoint holds model, optimizer and the number of updates done. The learning rate, the batches and the model's
    randomness are functions of that number and the seed (see :mod:`pipeline.data.samplers`), so nothing else is
    needed to go on exactly.
    """

    folder: Path
    keep: int = 2

    def _files(self) -> dict[int, Path]:
        """Checkpoints by the updates they have behind them, newest first."""
        found = {int(m[1]): path for path in self.folder.glob("update-*.pt") if (m := _FILE.fullmatch(path.name))}
        return dict(sorted(found.items(), reverse=True))

    def _path(self, update: int) -> Path:
        return self.folder / f"update-{update:08d}.pt"

    def save(self, update: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Writes the state after ``update`` updates, then deletes all but the newest ``keep`` checkpoints.

        Raises:
            CheckpointError: naming the file, if it cannot be written; earlier checkpoints stay.
        """
        self.write(update, training_state(update, model, optimizer))

    def write(self, update: int, state: dict[str, Any]) -> None:
        """As :meth:`save`, of a :func:`training_state`."""
        path = self._path(update)
        try:
            with atomic_file(path, "wb") as stream:
                torch.save(state, stream)
        except (OSError, RuntimeError) as error:
            # Of a full disk, torch says no more than "unexpected pos".
            reason = error.__context__ if isinstance(error.__context__, OSError) else error
            raise CheckpointError(
                f"{path}: the checkpoint could not be written; free some space and run `dvc repro` again ({reason})"
            ) from error
        files = self._files()
        # Files of later updates could not be read, or this one would not have been made.
        for number in [n for n in files if n > update] + [n for n in files if n <= update][self.keep :]:
            files[number].unlink()
        # Of writers that were killed: there is one at a time.
        for leftover in self.folder.glob(".update-*.pt.*"):
            leftover.unlink(missing_ok=True)

    def load(self, update: int, model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        """Restores one checkpoint, which another worker has found whole.

        Raises:
            CheckpointError: if it cannot be read here.
        """
        path = self._path(update)
        try:
            state = torch.load(path, map_location=device, weights_only=True)
        except UNREADABLE as error:
            raise CheckpointError(
                f"{path}: another worker resumes from this checkpoint, but it cannot be read here; the workers must "
                f"share this folder ({error})"
            ) from error
        _restore(path, state, model, optimizer)

    def load_latest(self, model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device) -> int:
        """Restores the newest checkpoint that is whole and returns its number of updates; 0 where there is none.

        Raises:
            CheckpointError: if the checkpoint is for another model.
        """
        for update, path in self._files().items():
            try:
                with ZipFile(path) as archive:
                    if (broken := archive.testzip()) is not None:
                        raise BadZipFile(f"checksum of {broken}")
                state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
            except UNREADABLE as error:
                print(f"{path}: unreadable, falling back to the checkpoint before it ({error})", flush=True)
                continue
            _restore(path, state, model, optimizer)
            return update
        return 0


def training_state(update: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """What a checkpoint holds; its tensors are the ones that training goes on with."""
    return {"update": update, "model": model.state_dict(), "optimizer": optimizer.state_dict()}


def _restore(path: Path, state: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    try:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    except (KeyError, TypeError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{path}: not a checkpoint of this run; delete it ({error})") from error


class CheckpointWriter:
    """Writes checkpoints while training goes on: one at a time, the next one waits.

    The end of a ``with`` block waits for the last one, too.
    """

    def __init__(self, store: CheckpointStore) -> None:
        self._store = store
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.wait()
        except CheckpointError as failure:
            if error is None:
                raise
            error.add_note(str(failure))
        finally:
            self._thread.shutdown()

    def save(self, update: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Copies the state after ``update`` updates and has it written.

        Raises:
            CheckpointError: if the checkpoint before this one could not be written.
        """
        self.wait()
        state = _copied(training_state(update, model, optimizer))
        self._pending = self._thread.submit(self._store.write, update, state)

    def wait(self) -> None:
        """Waits until what was saved is written.

        Raises:
            CheckpointError: if it could not be.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()


def _copied(value: Any) -> Any:
    """Nested dicts and lists with their tensors copied to the CPU's memory."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copied(entry) for key, entry in value.items()}
    return [_copied(entry) for entry in value] if isinstance(value, list) else value
