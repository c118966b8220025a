"""One worker's share of predicting over many images: chunks, each of which appears whole or not at all."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import torch
from torch.utils.data import Dataset

from pipeline.errors import UserError
from pipeline.files import atomic_folder

# Ray's workers import this module: it is to stay a light one.

#: Writes the predictions of a range of image indices into an empty folder.
Predict = Callable[[range, Path], None]

#: Makes one, on a device.
Build = Callable[[torch.device], Predict]


class Worker:
    """What each worker process does; without workers, all that is done.

    Args:
        build: makes what predicts, on a device.
        folder: where the chunks' folders are made.
        use_gpu: whether the device is a GPU.
        threads: of torch, on the CPU; as many as it has if not given.
    """

    def __init__(self, build: Build, folder: Path, use_gpu: bool, threads: int | None = None) -> None:
        # Built with the first chunk: Ray tells an exception from a lost worker in a method, but not in here.
        self._build, self._folder, self._use_gpu = build, folder, use_gpu
        self._predict: Predict | None = None
        if threads is not None:
            torch.set_num_threads(threads)

    def predict(self, chunk: range) -> int:
        """Writes a chunk's folder, whole or not at all, and tells how many images it has.

        Raises:
            UserError: if there is no GPU that should be there.
        """
        if self._predict is None:
            self._predict = self._build(own_device(self._use_gpu))
        with atomic_folder(part_folder(self._folder, chunk)) as part:
            self._predict(chunk, part)
        return len(chunk)


def part_folder(folder: Path, chunk: range) -> Path:
    """Where the predictions of a chunk are."""
    return folder / f"images-{chunk.start:07d}"


def own_device(use_gpu: bool) -> torch.device:
    """This process's device.

    Raises:
        UserError: if there is no GPU that should be there.
    """
    if not use_gpu:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError("the cluster configuration has gpus_per_worker > 0, but this process sees no CUDA device")
    return torch.device("cuda")


T = TypeVar("T")


def prefetched(images: Dataset[T], indices: Sequence[int]) -> Iterator[T]:
    """The images of these indices, the next one being decoded while one is in use."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        following = None
        for index in indices:
            image, following = following, pool.submit(images.__getitem__, index)
            if image is not None:
                yield image.result()
        if following is not None:
            yield following.result()
