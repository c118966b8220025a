"""Two real workers (gloo) against one worker with twice the batch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parent / "two_workers.py"


def run(folder: Path, *launcher: str) -> Path:
    folder.mkdir()
    subprocess.run([sys.executable, *launcher, str(SCRIPT), str(folder)], check=True, timeout=120)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("workers")
    two = run(root / "two", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    return run(root / "one"), two


def images(folder: Path, rank: int) -> list[list[int]]:
    return json.loads((folder / f"images{rank}.json").read_text())


def weights(folder: Path, rank: int) -> dict[str, torch.Tensor]:
    return torch.load(folder / f"weights{rank}.pt", weights_only=True)


def test_two_workers_see_the_images_of_one_at_every_update(runs: tuple[Path, Path]) -> None:
    one, two = runs
    shares = list(zip(images(two, 0), images(two, 1), strict=True))
    assert [sorted(a + b) for a, b in shares] == [sorted(batch) for batch in images(one, 0)]
    assert all(len(a) == len(b) == 2 for a, b in shares)


def test_gradients_are_averaged_exactly_once(runs: tuple[Path, Path]) -> None:
    one, two = runs
    for name, value in weights(one, 0).items():
        torch.testing.assert_close(weights(two, 0)[name], value, rtol=1e-5, atol=1e-6)
        assert torch.equal(weights(two, 0)[name], weights(two, 1)[name])


def test_training_moved_the_weights_far_beyond_the_tolerance(runs: tuple[Path, Path]) -> None:
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("two_workers", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.manual_seed(0)
    start = module.MeanOfImages().state_dict()
    assert max((weights(runs[0], 0)[name] - value).abs().max() for name, value in start.items()) > 0.05
