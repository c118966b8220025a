"""Checkpoints that a killed run resumes from: whole or not at all, and only ever tensors and numbers."""

import re
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch
from torch import nn

from pipeline.errors import UserError
from pipeline.files import atomic_file

_FILE = re.compile(r"update-(\d+)\.pt")


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

    def save(self, update: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Writes the state after ``update`` updates, then deletes all but the newest ``keep`` checkpoints.

        Raises:
            CheckpointError: naming the file, if it cannot be written; earlier checkpoints stay.
        """
        path = self.folder / f"update-{update:08d}.pt"
        state = {"update": update, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
        try:
            with atomic_file(path, "wb") as stream:
                torch.save(state, stream)
        except (OSError, RuntimeError) as error:
            raise CheckpointError(
                f"{path}: the checkpoint could not be written; free some space and run `dvc repro` again ({error})"
            ) from error
        files = self._files()
        # Files of later updates could not be read, or this one would not have been made.
        for number in [n for n in files if n > update] + [n for n in files if n <= update][self.keep :]:
            files[number].unlink()

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
            except (OSError, EOFError, RuntimeError, BadZipFile, UnpicklingError) as error:
                print(f"{path}: unreadable, falling back to the checkpoint before it ({error})", flush=True)
                continue
            try:
                model.load_state_dict(state["model"])
                optimizer.load_state_dict(state["optimizer"])
            except (KeyError, TypeError, RuntimeError, ValueError) as error:
                raise CheckpointError(f"{path}: not a checkpoint of this run; delete it ({error})") from error
            return update
        return 0
