"""Which images make up which batch: a pure function of the seed and the update's number.

Nothing here has state to save. Resuming at update t, on any number of workers, gives the batches that an uninterrupted
run would have seen.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler


class Draw(NamedTuple):
    """One training example: which image, and the seed of its augmentation."""

    image: int
    seed: int


def draw_seed(*key: int) -> int:
    """A 63-bit seed that depends on all of the integers given."""
    # The length goes first: a SeedSequence does not tell (5,) from (5, 0).
    return int(np.random.SeedSequence((len(key), *key)).generate_state(1, np.uint64)[0] >> 1)


def global_batches(groups: np.ndarray, batch_size: int, seed: int) -> Iterator[list[int]]:
    """Endless batches of image indices, each of one group: all landscape or all portrait, say, to need little padding.

    Every epoch is a new permutation. Images that do not fill a batch at its end wait for the next one.

    Args:
        groups: (D,) the group of image i.
        batch_size: images per batch.
        seed: of the permutations.
    """
    waiting: dict[int, list[int]] = {int(group): [] for group in np.unique(groups)}
    epoch = 0
    while True:
        for index in np.random.default_rng([seed, epoch]).permutation(len(groups)):
            group = waiting[int(groups[index])]
            group.append(int(index))
            if len(group) == batch_size:
                yield group.copy()
                group.clear()
        epoch += 1


class TrainingBatches(Sampler[list[Draw]]):
    """This worker's part of the batches of updates ``start`` to ``stop``.

    Args:
        groups: (D,) the group of image i; the images of a batch are of one.
        batch_size: images per update over all workers; worker r takes every ``world_size``-th from the r-th on.
        seed: of the permutations and the augmentation.
        start, stop: the updates to cover.
        rank, world_size: this worker, and how many there are.

    Raises:
        ValueError: if the dataset is empty or the batch does not divide by the workers.
    """

    def __init__(
        self,
        groups: np.ndarray,
        *,
        batch_size: int,
        seed: int,
        start: int,
        stop: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if not len(groups):
            raise ValueError("there is no image to train on")
        if batch_size % world_size:
            raise ValueError(f"batch_size is {batch_size}, which {world_size} workers cannot share equally")
        self._groups, self._batch_size, self._seed = groups, batch_size, seed
        self._start, self._stop, self._rank, self._world_size = start, stop, rank, world_size

    def __len__(self) -> int:
        return self._stop - self._start

    def __iter__(self) -> Iterator[list[Draw]]:
        batches = enumerate(global_batches(self._groups, self._batch_size, self._seed))
        for update, batch in batches:
            if update >= self._stop:
                return
            if update >= self._start:
                slots = range(self._rank, self._batch_size, self._world_size)
                # The last number keeps these seeds apart from those of the model's own randomness.
                yield [Draw(batch[slot], draw_seed(self._seed, update, slot, 1)) for slot in slots]
