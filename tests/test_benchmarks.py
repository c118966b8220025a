"""Benchmarks that still run."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[1]


def test_mask_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where outlines run along cells, both kinds of targets are the same; elsewhere some cells differ."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import mask_targets

    square = [np.array([30.0, 30, 86, 30, 86, 86, 30, 86])]
    box = torch.tensor([14.0, 14, 126, 126])  # cells of 4 pixels
    mask = mask_targets.rasterised(square, (140, 140))
    expected = torch.zeros(28, 28)
    expected[4:18, 4:18] = 1
    index = torch.zeros(1, dtype=torch.int64)
    assert torch.equal(mask_targets.rasterised_in_box(square, box, 28).float(), expected)
    index = torch.zeros(1, dtype=torch.int64)
    assert torch.equal(mask_targets.crop_masks([mask[None]], [index], [box[None]], [(140, 140)], 28)[0], expected)
    triangle = {"segmentation": [[10.0, 10, 70, 22, 31, 60]], "bbox": [10.0, 10, 60, 50]}
    found = mask_targets.compare(triangle, (80, 96), 4)
    assert 0 < found["4xconv 28x28, %"] < 5
    assert 0.9 < found["IoU Detectron2"] <= found["IoU here"] <= 1


def test_float32_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both passes of a convolution are those of the rounded numbers in float32, rounded once."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from float32_sums import Float32Sums

    torch.manual_seed(0)
    image, weight, gradient = torch.randn(1, 8, 9, 9), torch.randn(4, 8, 3, 3), torch.randn(1, 4, 7, 7)
    image, weight, gradient = (tensor.bfloat16() for tensor in (image, weight, gradient))
    rounded, exact = weight.clone().requires_grad_(), weight.float().requires_grad_()
    with Float32Sums():
        found = torch.nn.functional.conv2d(image, rounded)
        found.backward(gradient)
    expected = torch.nn.functional.conv2d(image.float(), exact)
    expected.backward(gradient.float())
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, expected.bfloat16())
    assert rounded.grad is not None
    assert exact.grad is not None
    assert torch.equal(rounded.grad, exact.grad.bfloat16())


#: The options of a small run of each benchmark.
SMALL = {
    "bfloat16": "--size 64 96 --objects 2",
    "evaluation": "--images 2 --masks 3 --resolution 56",
    "evaluators": "--metric AP --images 2 --masks 3 --resolution 56",
    "inference": "--height 64 --width 96 --repeats 1",
    "interpolation": "--repeats 1",
    "mask_head": "--regions 2 --classes 3 --resolution 56 --points 16 --height 64 --width 96 --repeats 1",
    "operators": "--model pointrend_rcnn_r50_fpn_cityscapes pointrend_semantic_fpn_r101_cityscapes "
    "--images 1 --objects 2 --height 64 --width 96",
    "paste_and_encode": "--regions 2 --resolution 56 --height 64 --width 96 --repeats 1",
    "prepare": "--share 0.001",
    "semantic_head": "--points 16 --height 64 --width 96 --repeats 1",
    "train_step": "--images 1 --objects 2 --height 64 --width 96 --repeats 1 --precision bfloat16",
}
#: Benchmarks that run elsewhere, or need what is not installed with the project.
ELSEWHERE = {
    "cluster_simulation": "tests/faults/test_benchmarks.py",
    "compare_detectron2": "needs Detectron2",
    "gpu": "tests/test_gpu_acceptance.py",
    "mask_targets": "test_mask_targets_of_a_file",
    "predict_folder": "test_predict_folder",
    "submission": "tests/faults/test_benchmarks.py",
    "two_workers": "tests/faults/test_benchmarks.py",
}


@pytest.mark.parametrize("name", SMALL)
def test_small(name: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """The whole benchmark, as it is called, with less to do."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    script = ROOT / "benchmarks" / f"{name}.py"
    threads = [] if name == "prepare" else ["--threads", "1"]
    monkeypatch.setattr(sys, "argv", [str(script), "--json", *threads, *SMALL[name].split()])
    before = torch.get_num_threads()
    try:
        runpy.run_path(str(script), run_name="__main__")
    finally:
        torch.set_num_threads(before)
    found = [
        json.loads(line, parse_constant=not_a_number)
        for line in capfd.readouterr().out.splitlines()
        if line.startswith("{")
    ]
    assert found
    assert all(found)
    assert all(row.get("seconds", 1) > 0 for table in found for row in table.get("rows", []))


def not_a_number(constant: str) -> None:
    raise AssertionError(constant)


def test_gaps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two at a time: the third run takes the place of the second one, which ends first."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from submission import gaps

    spans = [("a", 0.0, 10.0), ("b", 0.5, 8.0), ("c", 11.0, 20.0), ("d", 14.0, 21.0)]
    assert gaps(spans, 2) == [3.0, 4.0]
    assert gaps(spans, 4) == []


def test_wrong_options(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from measure import parser

    with pytest.raises(SystemExit):
        parser("title").parse_args(["--repeats", "0"])
    assert "argument --repeats: '0' is not a whole number from 1" in capsys.readouterr().err


def test_mask_targets_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    outline = {"segmentation": [[10.0, 10, 70, 22, 31, 60]], "bbox": [10.0, 10, 60, 50], "iscrowd": 0, "area": 1200}
    content = {
        "images": [{"id": 7, "height": 80, "width": 96, "file_name": "a.jpg"}],
        "annotations": [outline | {"id": 1, "image_id": 7, "category_id": 1}],
        "categories": [{"id": 1, "name": "thing"}],
    }
    (tmp_path / "val.json").write_text(json.dumps(content))
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.setattr(sys, "argv", ["mask_targets.py", str(tmp_path / "val.json"), "--boxes", "2"])
    runpy.run_path(str(ROOT / "benchmarks/mask_targets.py"), run_name="__main__")
    assert "| medium | 1 |" in capsys.readouterr().out


def test_none_is_left_out() -> None:
    scripts = {path.stem for path in (ROOT / "benchmarks").glob("*.py") if "__main__" in path.read_text()}
    assert scripts == SMALL.keys() | ELSEWHERE.keys()


def test_predict_folder() -> None:
    command = [sys.executable, "benchmarks/predict_folder.py", "--quick", "--json", "--threads", "1"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    rows = {row["name"]: row for row in json.loads(result.stdout)["rows"]}
    assert {"predict, json", "predict, overlays and json"} < set(rows)
    assert len({row["objects"] for row in rows.values()}) == 1
    assert all(row["images/s"] > 0 for row in rows.values())


EACH_ALONE = """
import runpy, sys
from pathlib import Path
known, path, failed = set(sys.modules), list(sys.path), []
for file in sorted(Path(sys.argv[1]).glob("*.py")):
    # As a process of its own sees it: its folder first on the path, and this project not yet imported.
    sys.path[:] = [str(file.parent), *path]
    sys.argv = [str(file), "--help"]
    try:
        runpy.run_path(str(file), run_name="__main__")
    except SystemExit as end:
        failed += [file.name] if end.code else []
    except BaseException as error:
        failed.append(f"{file.name}: {error!r}")
    for name in list(sys.modules):
        of_project = getattr(sys.modules[name], "__file__", None) or ""
        if of_project.startswith(str(file.parents[1])) and ".venv" not in of_project and name != "__main__":
            del sys.modules[name]
sys.exit("\\n".join(failed) or 0)
"""


def test_every_benchmark_starts() -> None:
    command = [sys.executable, "-P", "-c", EACH_ALONE, str(ROOT / "benchmarks")]
    result = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    scripts = [path.name for path in (ROOT / "benchmarks").glob("*.py") if "__main__" in path.read_text()]
    assert len(scripts) > 10
    assert all(f"usage: {name}" in result.stdout for name in scripts)
