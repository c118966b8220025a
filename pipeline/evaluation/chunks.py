"""Predicts many images in chunks. A chunk's folder appears whole or not at all, so an interrupted evaluation continues.

The chunks do not depend on the number of workers, so another number of workers can continue, too.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from torch.utils.data import Dataset

from pipeline.files import atomic_folder
from pipeline.progress import Progress

IMAGES_PER_CHUNK = 8

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


T = TypeVar("T")


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
