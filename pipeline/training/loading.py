"""Loads a worker's training examples ahead of their use."""

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import DataLoader, Dataset

from pipeline.data.dataset import Example
from pipeline.data.samplers import Draw, TrainingBatches
from pipeline.errors import UserError


class TrainingDataError(UserError):
    """An image or its labels, which `prepare` could read, cannot be read now."""


class _Loaded(Dataset[Example | Exception]):
    """Returns an error in place of the example: an error raised in a loading process would arrive as a traceback."""

    def __init__(self, examples: Dataset[Example]) -> None:
        self._examples = examples

    def __getitem__(self, draw: Draw) -> Example | Exception:
        try:
            return self._examples[draw]
        except (UserError, OSError) as error:
            return error


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
    """
    loader = DataLoader(
        _Loaded(examples),
        batch_sampler=batches,
        collate_fn=list,
        num_workers=processes,
        pin_memory=device.type == "cuda",
    )
    for batch in loader:
        for example in batch:
            if isinstance(example, Exception):
                raise TrainingDataError(
                    f"{example}. Repair the file and run `dvc repro` again: training continues from its last checkpoint"
                ) from example
        yield batch
