"""Chooses the images that are held out of training, for a dataset without a val split."""

import hashlib
from collections.abc import Collection


def held_out(names: Collection[str], share: float, seed: int) -> set[str]:
    """The names of the images to hold out: a share of them, at least one, and not all.

    Each image has a rank of its own, a hash of the seed and its name, and the lowest ranks are held out. So an image
    that is added later moves few others from one split to the other.
    """

    def rank(name: str) -> bytes:
        return hashlib.sha256(f"{seed} {name}".encode()).digest()

    count = min(max(1, round(share * len(names))), len(names) - 1)
    return set(sorted(names, key=rank)[:count])
