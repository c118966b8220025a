"""Loads a worker's training examples ahead of their use."""

import errno
import multiprocessing
from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import DataLoader, Dataset

from pipeline.data.dataset import Example
from pipeline.data.samplers import Draw, TrainingBatches
from pipeline.errors import UserError
from pipeline.full_disks import MORE_SHARED_MEMORY


class TrainingDataError(UserError):
    """An image or its labels, which `prepare` could read, cannot be read now."""


class SharedMemoryError(UserError):
    """Shared memory, through which loading processes hand over their examples, is full."""

    @classmethod
    def because(cls, error: Exception) -> "SharedMemoryError":
        reason = str(error).splitlines()[0]
        return cls(
            f"image loading has too little shared memory ({reason}): {MORE_SHARED_MEMORY}, or set loader_processes: 0 "
            "in the cluster's file. `dvc repro` continues from the last checkpoint"
        )


class _Loaded(Dataset[Example | Exception]):
    """Returns an error in place of the example: an error raised in a loading process would arrive as a traceback."""

    def __init__(self, examples: Dataset[Example]) -> None:
        self._examples = examples

    def __getitem__(self, draw: Draw) -> Example | Exception:
        try:
            return self._examples[draw]
        except (UserError, OSError) as error:
            return error


def _share(batch: list[Example | Exception]) -> list[Example | Exception]:
    """Moves a loaded batch to shared memory.

    PyTorch would do so in a thread, where an error is printed and the batch is lost: training would wait for ever.
    """
    try:
        for example in batch:
            if isinstance(example, Example):
                for tensor in (example.image, *example.target.values()):
                    tensor.share_memory_()
    except (OSError, RuntimeError) as error:
        return [SharedMemoryError.because(error)]
    return batch


def _batches_of(loader: DataLoader[Example | Exception], processes: int) -> Iterator[list[Example | Exception]]:
    """What a loader yields; errors of shared memory that end its processes become one that says so."""
    try:
        if processes:
            multiprocessing.Lock()  # it lies in shared memory; a loader that cannot have one prints a second error
        yield from loader
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise SharedMemoryError.because(error) from error
    except RuntimeError as error:
        if "shared memory" not in str(error) and "Bus error" not in str(error):
            raise
        raise SharedMemoryError.because(error) from error


def load_batches(
    examples: Dataset[Example], batches: TrainingBatches, processes: int, device: torch.device
) -> Iterator[Sequence[Example]]:
    """Yields the examples of all batches in order. For a GPU they are in pinned memory, images as uint8.

    Args:
        examples: indexed by :class:`~pipeline.data.samplers.Draw`.
        batches: which examples to load.
        processes: how many processes load; with 0, each batch is loaded in this process when it is asked for.
        device: where the examples will be used.

    Raises:
        TrainingDataError: if a file cannot be read; the message names it.
        SharedMemoryError: if there is too little shared memory for what the processes load.
    """
    loader = DataLoader(
        _Loaded(examples),
        batch_sampler=batches,
        collate_fn=_share if processes else list,
        num_workers=processes,
        pin_memory=device.type == "cuda",
    )
    for batch in _batches_of(loader, processes):
        for example in batch:
            if isinstance(example, SharedMemoryError):
                raise example
            if isinstance(example, Exception):
                raise TrainingDataError(
                    f"{example}. Repair the file and run `dvc repro` again: training continues from its last checkpoint"
                ) from example
        yield [example for example in batch if isinstance(example, Example)]
