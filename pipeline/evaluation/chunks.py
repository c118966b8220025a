"""Predictions over many images, in chunks that appear whole or not at all: what is done is not done again."""

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
    """The image indices of each chunk, the same however many workers there are."""
    return [range(first, min(first + IMAGES_PER_CHUNK, num_images)) for first in range(0, num_images, IMAGES_PER_CHUNK)]


def chunk_folder(folder: Path, chunk: range) -> Path:
    """Where the predictions of a chunk are."""
    return folder / f"images-{chunk.start:07d}"


def predict_chunks(
    build: Callable[[], Predict], chunks: Sequence[range], folder: Path, bar: Progress | None = None
) -> None:
    """Predicts the chunks that are not there yet.

    Args:
        build: makes what predicts; called only if there is something to predict.
        chunks: of image indices.
        folder: where the chunks' folders are made.
        bar: its progress, in images.
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
    """The images of these indices; the next one is decoded while one is in use."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        following = None
        for index in indices:
            image, following = following, pool.submit(images.__getitem__, index)
            if image is not None:
                yield image.result()
        if following is not None:
            yield following.result()
