"""Writes files that appear whole or not at all."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_output(path: Path) -> Iterator[Path]:
    """A temporary path of the same name. What the block writes there moves to ``path`` if the block succeeds.

    Files that the block writes beside the temporary path move to the folder of ``path``, too.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as staging:
        yield Path(staging) / path.name
        for fresh in Path(staging).iterdir():
            fresh.replace(path.parent / fresh.name)
