"""Several real workers (gloo) against one that does their work alone."""

import json
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
import torch

from pipeline.training.loop import BUFFERS_OPTION

SCRIPT = Path(__file__).parent / "two_workers.py"


def load_script() -> ModuleType:
    spec = spec_from_file_location("two_workers", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(folder: Path, workers: int, images_per_worker: int | None = None) -> Path:
    """Trains with processes of torch's launcher, or one alone in this process."""
    folder.mkdir()
    if workers == 1:
        threads = torch.get_num_threads()
        load_script().main(folder, images_per_worker)
        torch.set_num_threads(threads)
        return folder
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={workers}"]
    own = [] if images_per_worker is None else [str(images_per_worker)]
    subprocess.run([sys.executable, *launcher, str(SCRIPT), str(folder), *own], check=True, timeout=120)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("workers")
    return run(root / "one", 1), run(root / "two", 2)


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


def test_buffers_are_not_sent_and_gradients_not_copied(runs: tuple[Path, Path]) -> None:
    for rank in (0, 1):
        settings = json.loads((runs[1] / f"distributed{rank}.json").read_text())
        assert settings == {BUFFERS_OPTION: False, "gradient_as_bucket_view": True}


def test_parts_of_a_batch_are_the_same_whoever_does_them(tmp_path: Path) -> None:
    # Four parts of an image each: all of one worker's, or two, one and one of three workers'.
    alone, three = run(tmp_path / "alone", 1, 1), run(tmp_path / "three", 3, 1)
    shares = list(zip(*(images(three, rank) for rank in range(3)), strict=True))
    assert [[len(share) for share in update] for update in shares] == [[2, 1, 1]] * 6
    assert [[a[0], b[0], c[0], a[1]] for a, b, c in shares] == images(alone, 0)
    for name, value in weights(alone, 0).items():
        torch.testing.assert_close(weights(three, 2)[name], value, rtol=1e-5, atol=1e-6)
        assert torch.equal(weights(three, 2)[name], weights(three, 0)[name])


def test_training_moved_the_weights_far_beyond_the_tolerance(runs: tuple[Path, Path]) -> None:
    torch.manual_seed(0)
    start = load_script().MeanOfImages().state_dict()
    assert max((weights(runs[0], 0)[name] - value).abs().max() for name, value in start.items()) > 0.05
