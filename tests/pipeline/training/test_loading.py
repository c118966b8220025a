"""Loading a worker's examples, and what becomes of one that cannot be read."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from pipeline.data.dataset import Example
from pipeline.data.samplers import Draw, TrainingBatches
from pipeline.data.storage import Storage
from pipeline.training.loading import TrainingDataError, load_batches

CPU = torch.device("cpu")


class Files(Dataset[Example]):
    """Images 0 to 3, each a file; the third is broken on request."""

    def __init__(self, folder: Path, broken: bool = False) -> None:
        self._storage, self._broken = Storage(str(folder)), broken
        for number in range(4):
            (folder / f"{number}.png").write_bytes(b"x")

    def __getitem__(self, draw: Draw) -> Example:
        self._storage.read(f"{draw.image}.png")
        if self._broken and draw.image == 2:
            raise ValueError("a bug")
        return Example(draw.image, torch.zeros(3, 2, 2), {})


def batches() -> TrainingBatches:
    return TrainingBatches(np.zeros(4), batch_size=2, seed=0, start=0, stop=6)


@pytest.mark.parametrize("processes", [0, 2])
def test_examples_come_in_the_order_of_the_batches(tmp_path: Path, processes: int) -> None:
    loaded = load_batches(Files(tmp_path), batches(), processes, CPU)
    assert [[example.image_id for example in batch] for batch in loaded] == [
        [draw.image for draw in batch] for batch in batches()
    ]


@pytest.mark.parametrize("processes", [0, 1])
def test_a_file_that_vanishes_is_one_message(tmp_path: Path, processes: int) -> None:
    files = Files(tmp_path)
    (tmp_path / "2.png").unlink()
    with pytest.raises(TrainingDataError) as caught:
        list(load_batches(files, batches(), processes, CPU))
    assert str(caught.value) == (
        f"{tmp_path / '2.png'}: no such file. Repair the file and run `dvc repro` again: training continues from its "
        "last checkpoint"
    )


@pytest.mark.parametrize("processes", [0, 1])
def test_a_bug_keeps_its_traceback(tmp_path: Path, processes: int) -> None:
    with pytest.raises(ValueError, match="a bug"):
        list(load_batches(Files(tmp_path, broken=True), batches(), processes, CPU))
