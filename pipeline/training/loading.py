"""A worker's examples, loaded ahead of training."""

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import DataLoader, Dataset

from pipeline.data.dataset import Example
from pipeline.data.samplers import Draw, TrainingBatches
from pipeline.errors import UserError


class TrainingDataError(UserError):
    """An image or its labels that cannot be read any more."""


class _Loaded(Dataset[Example | Exception]):
    """Examples, or why there is none: an exception raised in a loading process would arrive as a traceback."""

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
    """The examples of all batches in order.

    Args:
        examples: by :class:`~pipeline.data.samplers.Draw`.
        batches: which ones.
        processes: that load them; 0 loads each batch here when it is asked for.
        device: that they go to.

    Raises:
        TrainingDataError: naming the file, if one cannot be read.
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
                    f"{example}. Put it right and run `dvc repro` again: training goes on from its last checkpoint"
                ) from example
        yield batch
