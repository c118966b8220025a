"""Predicts many images in chunks. A chunk's folder appears whole or not at all, so an interrupted evaluation continues.

The chunks do not depend on the number of workers, so another number of workers can continue, too.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import Dataset

from pipeline.data.dataset import EvaluationImages
from pipeline.data.transforms import to_float
from pipeline.evaluation.background import BackgroundThread
from pipeline.files import atomic_folder
from pipeline.progress import Progress
from pipeline.training.precision import float32_math

IMAGES_PER_CHUNK = 8

T = TypeVar("T")
P = TypeVar("P")

#: Writes the predictions of a range of image indices into an empty folder.
Predict = Callable[[range, Path], None]


def image_chunks(num_images: int) -> list[range]:
    """The image indices of each chunk, independent of the number of workers."""
    return [range(first, min(first + IMAGES_PER_CHUNK, num_images)) for first in range(0, num_images, IMAGES_PER_CHUNK)]


def chunk_folder(folder: Path, chunk: range) -> Path:
    """The folder of a chunk's predictions."""
    return folder / f"images-{chunk.start:07d}"


def predict_chunks(
    build: Callable[[], Predict], chunks: Sequence[range], folder: Path, bar: Progress | None = None
) -> None:
    """Predicts the chunks that have no folder yet.

    Args:
        build: loads the model and returns the function that predicts a chunk; called only if a chunk is missing.
        chunks: the image indices of each chunk.
        folder: the folder that contains the chunks' folders.
        bar: a progress bar, advanced by images.
    """
    predict: Predict | None = None
    for chunk in chunks:
        if not chunk_folder(folder, chunk).is_dir():
            predict = predict or build()
            with atomic_folder(chunk_folder(folder, chunk)) as part:
                predict(chunk, part)
        if bar is not None:
            bar.advance(len(chunk))


def predict_images(
    images: EvaluationImages,
    chunk: range,
    device: torch.device,
    precision: str,
    predict: Callable[[Tensor], P],
    write: Callable[[Any, P], None],
) -> None:
    """Predicts the images of a chunk one after another.

    Args:
        images: the val images.
        chunk: which of them to predict.
        device: the model's device.
        precision: that of the run's schedule, see :func:`pipeline.training.precision.float32_math`.
        predict: maps an image, float (3, H, W) in [0, 1] on the device, to its predictions on the CPU.
        write: writes the predictions of the image with a key of ``images``. Called in the order of the images, beside a
            GPU in a thread, while it predicts the next ones.
    """
    with float32_math(precision), BackgroundThread(device) as background:
        for key, pixels in prefetched(images, chunk):
            background.submit(write, key, predict(to_float(pixels.to(device))))


def prefetched(images: Dataset[T], indices: Sequence[int]) -> Iterator[T]:
    """Yields the images with these indices. While one is in use, the next one is decoded in a thread."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        following = None
        for index in indices:
            image, following = following, pool.submit(images.__getitem__, index)
            if image is not None:
                yield image.result()
        if following is not None:
            yield following.result()
