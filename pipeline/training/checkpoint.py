"""Checkpoints that a killed run resumes from: written whole or not at all; only tensors and numbers are ever read."""

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
from pipeline.training.best_weights import BestWeights, copy_to_cpu

KEPT_CHECKPOINTS = 2  # checkpoints of a run; the second one is for the case that the newest is unreadable

_FILE = re.compile(r"update-(\d+)\.pt")

# Errors that `torch.load` may raise for a file that is truncated, overwritten or not a checkpoint.
UNREADABLE = (OSError, EOFError, RuntimeError, BadZipFile, UnpicklingError)


class CheckpointError(UserError, RuntimeError):
    """A checkpoint cannot be written or read."""


@dataclass(frozen=True)
class CheckpointStore:
    """The checkpoints of one run in a folder that all its workers can read.

    A checkpoint holds model, optimizer and the number of updates done. The learning rate, the batches and the model's
    randomness are functions of that number and the seed (see :mod:`pipeline.data.samplers`), so nothing else is needed
    to continue exactly, except the best weights of a training that validates.
    """

    folder: Path

    def _files(self) -> dict[int, Path]:
        """The checkpoint files by their number of updates, newest first."""
        found = {int(m[1]): path for path in self.folder.glob("update-*.pt") if (m := _FILE.fullmatch(path.name))}
        return dict(sorted(found.items(), reverse=True))

    def _path(self, update: int) -> Path:
        return self.folder / f"update-{update:08d}.pt"

    def save(
        self, update: int, model: nn.Module, optimizer: torch.optim.Optimizer, best: BestWeights | None = None
    ) -> None:
        """Writes the state after ``update`` updates, then deletes all but the newest :data:`KEPT_CHECKPOINTS`.

        Raises:
            CheckpointError: naming the file, if it cannot be written; earlier checkpoints stay.
        """
        self.write(update, training_state(update, model, optimizer, best))

    def write(self, update: int, state: dict[str, Any]) -> None:
        """Does what :meth:`save` does, for a state from :func:`training_state`."""
        path = self._path(update)
        try:
            with atomic_file(path, "wb") as stream:
                torch.save(state, stream)
        except (OSError, RuntimeError) as error:
            # When the disk is full, torch's own message is only "unexpected pos".
            reason = error.__context__ if isinstance(error.__context__, OSError) else error
            raise CheckpointError(
                f"{path}: the checkpoint could not be written; free some space and run `dvc repro` again ({reason})"
            ) from error
        files = self._files()
        # Checkpoints of later updates were unreadable: otherwise training would have resumed from one of them.
        for number in [n for n in files if n > update] + [n for n in files if n <= update][KEPT_CHECKPOINTS:]:
            files[number].unlink()
        # Temporary files are left by killed writers: only one process writes at a time.
        for leftover in self.folder.glob(".update-*.pt.*"):
            leftover.unlink(missing_ok=True)

    def load(self, update: int, model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        """Restores the checkpoint after ``update`` updates, which worker 0 has chosen and read.

        Raises:
            CheckpointError: if it cannot be read here, or is of another model.
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

    def load_latest(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        device: torch.device,
        best: BestWeights | None = None,
    ) -> int:
        """Restores the newest readable checkpoint and returns its number of updates; 0 if there is none.

        Raises:
            CheckpointError: if the checkpoint is of another model.
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
            _restore(path, state, model, optimizer, best)
            return update
        return 0


def training_state(
    update: int, model: nn.Module, optimizer: torch.optim.Optimizer, best: BestWeights | None = None
) -> dict[str, Any]:
    """The content of a checkpoint. Its tensors are the training's own, not copies."""
    state = {"update": update, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
    return state if best is None else {**state, "best": best.state_dict()}


def _restore(
    path: Path,
    state: dict[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    best: BestWeights | None = None,
) -> None:
    # Whether the optimizer is fused depends on the device, and the checkpoint may come from another device.
    fused = [group.get("fused") for group in optimizer.param_groups]
    try:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        for group, value in zip(optimizer.param_groups, fused, strict=True):
            group["fused"] = value
        if best is not None:
            best.load_state_dict(state["best"])
    except (KeyError, TypeError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{path}: not a checkpoint of this run; delete it ({error})") from error


class CheckpointWriter:
    """Writes checkpoints in a thread while training continues, one at a time.

    The end of a ``with`` block waits for the last checkpoint.
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

    def save(
        self, update: int, model: nn.Module, optimizer: torch.optim.Optimizer, best: BestWeights | None = None
    ) -> None:
        """Copies the state after ``update`` updates to the CPU and writes it in the background.

        Raises:
            CheckpointError: if the previous checkpoint could not be written.
        """
        self.wait()
        state = copy_to_cpu(training_state(update, model, optimizer))
        if best is not None:
            state["best"] = best.state_dict()  # its tensors are on the CPU and never change
        self._pending = self._thread.submit(self._store.write, update, state)

    def wait(self) -> None:
        """Waits until the last checkpoint is written.

        Raises:
            CheckpointError: if it could not be written.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()
