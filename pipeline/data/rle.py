"""Validates compressed run lengths (COCO's RLE) in bulk.

pycocotools does not check its input: counts that are truncated or of another image size give a wrong mask or a crash.
"""

from collections.abc import Sequence

import numpy as np

#: Characters checked at a time: few enough for the arrays to fit the CPU's cache.
CHUNK = 1 << 17
#: Groups of five bits in one number: enough for any number of pixels.
MAX_GROUPS = 8


def sound_counts(counts: Sequence[str], pixels: Sequence[int]) -> np.ndarray:
    """Tells which compressed counts are well-formed runs that add up to the size of their image.

    Args:
        counts: N texts, each the ``counts`` of one RLE.
        pixels: N numbers, the height times width that each must add up to.

    Returns:
        (N,) bool. Also False for some valid counts with superfluous groups; callers check those one by one
        with :func:`pipeline.data.masks.encode_segmentation`.
    """
    found = [np.zeros(0, bool)]
    start = characters = 0
    for stop, text in enumerate(counts, 1):
        characters += len(text)
        if characters >= CHUNK or stop == len(counts):
            found.append(_sound(counts[start:stop], np.asarray(pixels[start:stop], np.int64)))
            start, characters = stop, 0
    return np.concatenate(found)


def _sound(counts: Sequence[str], pixels: np.ndarray) -> np.ndarray:
    try:
        groups = np.frombuffer("".join(counts).encode("ascii"), np.uint8).astype(np.int64) - 48
    except UnicodeEncodeError:
        return np.zeros(len(counts), bool)
    lengths = np.fromiter(map(len, counts), np.int64, len(counts))
    sound = lengths > 0
    if not groups.size:
        return sound
    text = np.repeat(np.arange(len(counts)), lengths)

    def reject(texts: np.ndarray) -> None:
        sound[texts] = False

    reject(text[(groups < 0) | (groups > 63)])
    # A run is a number in groups of five bits, lowest first: bit 5 says that more follow, bit 4 of the last is the
    # sign.
    final = groups & 0x20 == 0
    last_of_text = np.cumsum(lengths)[lengths > 0] - 1
    reject(text[last_of_text[~final[last_of_text]]])
    final[last_of_text] = True
    stops = np.flatnonzero(final)
    starts = np.concatenate([[0], stops[:-1] + 1])
    sizes = stops - starts + 1
    text = text[stops]
    reject(text[sizes > MAX_GROUPS])
    place = np.minimum(np.arange(groups.size) - np.repeat(starts, sizes), MAX_GROUPS)
    values = np.add.reduceat((groups & 0x1F) << (5 * place), starts)
    values -= (groups[stops] >> 4 & 1) << (5 * np.minimum(sizes, MAX_GROUPS))

    # From the fourth run on, a number is the difference to the last run but one.
    per_text = np.bincount(text, minlength=len(counts))
    first = np.cumsum(per_text) - per_text
    index = np.arange(text.size) - np.repeat(first, per_text)
    runs = values.copy()
    for chain in (np.flatnonzero(index % 2 == 1), np.flatnonzero((index % 2 == 0) & (index > 0))):
        if chain.size:
            total = np.cumsum(values[chain])
            heads = np.flatnonzero(index[chain] <= 2)
            before = np.concatenate([[0], total])[heads]
            runs[chain] = total - np.repeat(before, np.diff(heads, append=chain.size))
    reject(text[(runs < 0) | (runs > pixels[text])])
    sums = np.concatenate([[0], np.cumsum(runs)])
    return sound & (sums[first + per_text] - sums[first] == pixels)
