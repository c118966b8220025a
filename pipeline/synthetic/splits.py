"""Draws the images of a train and a val split in parallel; the bytes do not depend on the number of workers."""

import multiprocessing
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

from pipeline.data.cpus import usable_cpus

SPLITS: tuple[str, ...] = ("train", "val")
#: Ids and names are functions of the split and the index, so a larger dataset keeps those of a smaller one.
MAX_IMAGES = 1_000_000

T = TypeVar("T")


def split_number(split: str) -> int:
    """The number of a split, which is part of the seed of its images.

    Raises:
        ValueError: if the split is neither train nor val.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; expected one of {', '.join(SPLITS)}")
    return SPLITS.index(split)


def check_ranges(spec: object, ranges: dict[str, tuple[float, float]]) -> None:
    """Raises ValueError naming the first field of `spec` that is outside its range (low, high), ends included."""
    for name, (low, high) in ranges.items():
        value = getattr(spec, name)
        if not low <= value <= high:
            raise ValueError(f"{name} is {value}; expected a value from {low} to {high}")


def draw_images(
    draw: Callable[[str, int], T],
    counts: dict[str, int],
    processes: int | None = None,
    on_image: Callable[[], None] | None = None,
) -> dict[str, list[T]]:
    """Calls `draw(split, index)` for each image and returns the results in order, by split.

    Args:
        draw: the function; with several processes it must be picklable.
        counts: the number of images of each split.
        processes: number of worker processes, by default one per usable CPU; 1 draws in this process. They
            are spawned, so a script that calls this needs its ``if __name__ == "__main__":`` guard.
        on_image: called in this process after each image, as for a progress bar.
    """
    splits = [split for split, count in counts.items() for _ in range(count)]
    indices = [index for count in counts.values() for index in range(count)]
    found: dict[str, list[T]] = {split: [] for split in counts}

    def collect(results: Iterable[T]) -> None:
        for split, result in zip(splits, results, strict=True):
            found[split].append(result)
            if on_image is not None:
                on_image()

    if processes is None:
        processes = usable_cpus()
    if processes == 1:
        collect(map(draw, splits, indices))
        return found
    # Forked workers could inherit locks held by the caller's threads (torch, Ray, Arrow).
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        try:
            collect(pool.map(draw, splits, indices, chunksize=8))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return found
