"""Run lengths checked in bulk against the check of one at a time, which says what is wrong."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from pipeline.data import rle
from pipeline.data.masks import encode_segmentation
from pipeline.data.rle import sound_counts

HEIGHT, WIDTH = 9, 11


def one_by_one(counts: str, height: int, width: int) -> bool:
    try:
        encode_segmentation({"size": [height, width], "counts": counts}, height, width, polygons=False)
    except ValueError:
        return False
    return True


def counts_of(mask: np.ndarray) -> str:
    return coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()


masks = st.integers(0, 2**32).map(
    lambda seed: counts_of(np.random.default_rng(seed).random((HEIGHT, WIDTH)) < (seed % 11) / 10)
)
texts = st.text(st.characters(min_codepoint=40, max_codepoint=120), max_size=12)


@st.composite
def damaged(draw: st.DrawFn) -> str:
    counts = draw(masks)
    at = draw(st.integers(0, len(counts) - 1))
    return counts[:at] + draw(texts) + counts[at + draw(st.integers(0, 2)) :]


@given(st.lists(masks | texts | damaged(), max_size=8), st.integers(1, 64))
def test_sound_in_bulk_is_sound_one_by_one(counts: list[str], chunk: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rle, "CHUNK", chunk)
        found = sound_counts(counts, [HEIGHT * WIDTH] * len(counts))
    assert found.tolist() == [one_by_one(text, HEIGHT, WIDTH) for text in counts]


def test_long_runs_and_images_of_several_sizes() -> None:
    rng = np.random.default_rng(0)
    sizes = [(2, 3), (700, 900), (40, 1), (1, 1), (300, 200)]
    found = [np.zeros(sizes[1], bool), *(rng.random(size) < 0.5 for size in sizes)]
    found[0][100:600, 300:800] = True
    counts, pixels = [counts_of(mask) for mask in found], [mask.size for mask in found]
    assert sound_counts(counts, pixels).all()
    assert not sound_counts(counts, [number + 1 for number in pixels]).any()


@pytest.mark.parametrize("text", ["", "\u00e9", "0" * 40, "o" * 40 + "0", "S3", "`" * 7 + "0"])
def test_what_is_no_mask(text: str) -> None:
    assert sound_counts([counts_of(np.ones((3, 3))), text], [9, 9]).tolist()[1] is False


def test_nothing() -> None:
    assert sound_counts([], []).shape == (0,)
