"""Chooses the images of each batch as a pure function of the seed and the number of the update.

There is no state to save: resuming at update t, on any number of workers, gives the batches of an uninterrupted run.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipeline.errors import UserError


class BatchShareError(UserError, ValueError):
    """A batch cannot be split equally over the workers."""


class Draw(NamedTuple):
    """One training example: which image, and the seed of its augmentation."""

    image: int
    seed: int


def draw_seed(*key: int) -> int:
    """A 63-bit seed that depends on all of the integers given."""
    # The length goes first: a SeedSequence does not tell (5,) from (5, 0).
    return int(np.random.SeedSequence((len(key), *key)).generate_state(1, np.uint64)[0] >> 1)


def global_batches(groups: np.ndarray, batch_size: int, seed: int) -> Iterator[list[int]]:
    """Endless batches of image indices, each from one group (such as landscape or portrait images, to save padding).

    Every epoch is a new permutation. Images left over at the end of an epoch go into the next epoch's batches.

    Args:
        groups: (D,) the group of each image.
        batch_size: images per batch.
        seed: seed of the permutations.
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


@dataclass(frozen=True)
class Share:
    """One worker's share of every batch.

    A batch is split into micro-batches, each of which is one forward and backward pass. Worker r processes the
    micro-batches r, r + ``world_size``, ... and accumulates their gradients. An update depends on the micro-batches,
    not on the number of workers: with fewer workers it is the same up to the order of floating-point sums.
    """

    rank: int = 0
    world_size: int = 1
    micro_batches: int = 1

    @property
    def own(self) -> range:
        """The indices of this worker's micro-batches, at least one."""
        return range(self.rank, self.micro_batches, self.world_size)

    @classmethod
    def of_batch(cls, batch_size: int, images_per_worker: int | None, rank: int = 0, world_size: int = 1) -> "Share":
        """A worker's share of batches of ``batch_size`` images.

        Args:
            batch_size: images per update, over all workers.
            images_per_worker: the most images in one pass; by default all of a worker's images.
            rank, world_size: this worker's rank, and the number of workers.

        Raises:
            BatchShareError: if the batch does not divide.
        """
        micro_batches = world_size
        if images_per_worker is not None and images_per_worker < batch_size:
            if batch_size % images_per_worker:
                raise BatchShareError(
                    f"batch_size is {batch_size}, not a multiple of images_per_worker, which is {images_per_worker}; "
                    "set images_per_worker in the cluster configuration to a divisor of batch_size"
                )
            micro_batches = max(micro_batches, batch_size // images_per_worker)
        if batch_size % micro_batches:
            raise BatchShareError(
                f"batch_size is {batch_size}, which {micro_batches} workers cannot share equally; in the cluster "
                "configuration, set workers to a divisor of batch_size, or images_per_worker so that each worker makes "
                "several passes"
            )
        return cls(rank, world_size, micro_batches)


ALONE = Share()


class TrainingBatches:
    """Yields this worker's micro-batches of updates ``start`` to ``stop`` as lists of draws, in order.

    Args:
        groups: (D,) the group of each image; a batch has images of one group only.
        batch_size: images per update over all workers; micro-batch m has images m,
            m + ``share.micro_batches``, ... of the batch.
        seed: seed of the permutations and of the augmentation.
        start, stop: the updates to cover.
        share: this worker's share of each batch.

    Raises:
        ValueError: if the dataset is empty or the batch cannot be split into its micro-batches.
    """

    def __init__(
        self,
        groups: np.ndarray,
        *,
        batch_size: int,
        seed: int,
        start: int,
        stop: int,
        share: Share = ALONE,
    ) -> None:
        if not len(groups):
            raise ValueError("there are no images to train on")
        if batch_size % share.micro_batches:
            raise ValueError(
                f"batch_size is {batch_size}, which cannot be cut into {share.micro_batches} equal micro-batches"
            )
        self._groups, self._batch_size, self._seed = groups, batch_size, seed
        self._start, self._stop, self._share = start, stop, share

    def __len__(self) -> int:
        return (self._stop - self._start) * len(self._share.own)

    def __iter__(self) -> Iterator[list[Draw]]:
        batches = enumerate(global_batches(self._groups, self._batch_size, self._seed))
        for update, batch in batches:
            if update >= self._stop:
                return
            if update < self._start:
                continue
            for micro_batch in self._share.own:
                slots = range(micro_batch, self._batch_size, self._share.micro_batches)
                # The last number keeps these seeds apart from those of the model's own randomness.
                yield [Draw(batch[slot], draw_seed(self._seed, update, slot, 1)) for slot in slots]
