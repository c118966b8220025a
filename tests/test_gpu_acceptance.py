"""The acceptance of a device, benchmarks/gpu.py, on this CPU."""

import importlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_up_instances import annotation, disc, truth
from PIL import Image

from pointrend import list_models

ROOT = Path(__file__).parents[1]


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Imports a module of the benchmarks."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module


@pytest.fixture
def accept(
    module: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., tuple[int, dict[str, Any]]]:
    """Runs the command quickly on the CPU, with two tiny models and a large one; returns its exit status and JSON."""
    gpu = module("gpu")
    models = ["maskrcnn_x101_fpn_coco", "pointrend_rcnn_tiny_fpn", "semantic_fpn_tiny"]
    monkeypatch.setattr(module("acceptance.agreement"), "list_models", lambda: models)

    def run(*options: str) -> tuple[int, dict[str, Any]]:
        common = ["--out", str(tmp_path / "out"), "--device", "cpu", "--quick"]
        monkeypatch.setattr(sys, "argv", ["gpu.py", *common, *options])
        status = gpu.main()
        return status, json.loads((tmp_path / "out" / "gpu.json").read_text())

    return run


def test_the_files_hold_every_row(accept: Callable[..., tuple[int, dict[str, Any]]], tmp_path: Path) -> None:
    status, content = accept("--only", "tests", "agreement", "semantic head", "training")
    assert status == 0
    markdown = (tmp_path / "out" / "gpu.md").read_text()
    assert list(content["sections"]) == ["tests", "agreement", "training", "semantic head"]
    agreement = {row["name"]: row for row in content["sections"]["agreement"]}
    assert {row["status"] for name, row in agreement.items() if "_tiny" in name} == {"passed"}
    assert agreement["pointrend_rcnn_tiny_fpn"]["figures"]["least mask IoU"] == 1
    assert agreement["maskrcnn_x101_fpn_coco"]["status"] == "not run"
    assert [row["status"] for row in content["sections"]["training"]] == ["not run", "not run"]
    times = {row["name"]: row for row in content["sections"]["semantic head"]}
    assert times["PointRend, float32"]["figures"]["median ms"] > 0
    assert times["PointRend, tf32"]["note"] == "a CPU has no TF32"
    assert content["machine"]["torch"] == torch.__version__
    for section, rows in content["sections"].items():
        assert f"## {section}\n" in markdown
        for row in rows:
            assert row["name"] in markdown
    assert "no data was given" in markdown
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["gpu.json", "gpu.md"]


def test_the_exit_status_is_1_if_a_row_failed(
    accept: Callable[..., tuple[int, dict[str, Any]]], module: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = {"logit": 0.5, "labels_equal": 1.0}
    monkeypatch.setattr(module("acceptance.agreement"), "compare_semantics", lambda *outputs: wrong)
    status, content = accept("--only", "agreement")
    assert status == 1
    rows = {row["name"]: row for row in content["sections"]["agreement"]}
    assert (rows["semantic_fpn_tiny"]["status"], rows["semantic_fpn_tiny"]["note"]) == ("failed", "logit 0.5 > 0.002")
    assert rows["pointrend_rcnn_tiny_fpn"]["status"] == "passed"


def test_every_model_of_the_registry_is_compared(module: Callable[[str], Any]) -> None:
    tasks = module("acceptance.agreement").tasks(torch.device("cpu"), quick=False)
    assert [name for name, _ in tasks] == list_models()


def write_data(folder: Path) -> list[str]:
    """Four discs on two images as instances, and as labels in Cityscapes' layout; the options that name them."""
    annotations, sizes = [], {1: (64, 80), 2: (64, 80)}
    for image_id, (height, width) in sizes.items():
        ids = np.full((height, width), 7, np.uint8)
        for number, (x, y) in enumerate(((22, 30), (58, 34))):
            mask = disc(height, width, x, y, 14)
            annotations.append(annotation(10 * image_id + number, image_id, 3, mask))
            ids[mask] = 26
        pixels = Image.fromarray(np.stack([ids * 9] * 3, axis=-1))
        split = ("train", "val")[image_id - 1]
        for path, picture in (
            (folder / f"{image_id}.png", pixels),
            (folder / f"town/leftImg8bit/{split}/a/a_leftImg8bit.png", pixels),
            (folder / f"town/gtFine/{split}/a/a_gtFine_labelIds.png", Image.fromarray(ids)),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)
    file = folder / "instances.json"
    file.write_text(json.dumps(truth(annotations, sizes)))
    return ["--instances", f"{file},{folder},{file},{folder}", "--semantic", str(folder / "town")]


def test_a_training_needs_neither_ray_nor_mlflow_nor_dvc(tmp_path: Path) -> None:
    packages = tmp_path / "packages"
    for name in ("ray", "mlflow", "dvc"):
        (packages / name).mkdir(parents=True)
        (packages / name / "__init__.py").write_text(f"raise ImportError('{name} is not to be imported')\n")
    command = [sys.executable, "benchmarks/gpu.py", "--out", str(tmp_path / "out"), "--device", "cpu", "--quick"]
    done = subprocess.run(
        [*command, "--threads", "1", "--only", "training", *write_data(tmp_path / "data")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(packages)},
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "out" / "gpu.json").read_text())["sections"]["training"]
    instances, labels = (row["figures"] for row in rows)
    assert [row["status"] for row in rows] == ["measured", "measured"]
    assert 0 <= instances["mask AP"] <= 100
    assert 0 < labels["mIoU"] <= 100
    assert instances["train images"] == 2
    assert instances["first loss"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--instances", "a.json,b"], "expected TRAIN.json,IMAGES,VAL.json,IMAGES"),
        (["--semantic", "nowhere"], "nowhere: no such file or folder"),
        (["--minutes", "0"], "expected more than 0"),
    ],
)
def test_wrong_options_end_at_once(
    accept: Callable[..., Any], capsys: pytest.CaptureFixture[str], tmp_path: Path, options: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as end:
        accept(*options)
    assert end.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_fails_stays_in_its_place(module: Callable[[str], Any]) -> None:
    rows, page = module("acceptance.rows"), module("acceptance.page")

    def fail() -> None:
        raise ZeroDivisionError("a | b")

    def missing() -> None:
        raise ModuleNotFoundError("No module named 'frobnicate'", name="frobnicate.parts")

    def ours() -> None:
        raise ModuleNotFoundError("No module named 'pipeline.gone'", name="pipeline.gone")

    def wrong() -> None:
        raise rows.DisagreementError("off by 3", {"box, px": 3.0})

    def broken() -> Iterator[Any]:
        yield "first", lambda: rows.Result({"s": 1.5}, checked=True)
        raise OSError("disc full")

    tasks = {"fails": fail, "package": missing, "ours": ours, "wrong": wrong, "fine": lambda: rows.Result({"s": 2.0})}
    said: list[str] = []
    found = rows.carry_out(
        {"one": lambda: iter(tasks.items()), "two": broken, "three": lambda: iter([("last", tasks["fine"])])},
        rows.Budget(1),
        said.append,
    )
    assert [(row.name, row.status) for row in found["one"]] == [
        ("fails", "failed"),
        ("package", "not run"),
        ("ours", "failed"),
        ("wrong", "failed"),
        ("fine", "measured"),
    ]
    assert found["one"][1].note == "needs the package frobnicate, which is not installed"
    assert found["one"][3].figures == {"box, px": 3.0}
    assert [(row.name, row.status) for row in found["two"]] == [("first", "passed"), ("the section itself", "failed")]
    assert found["three"][0].status == "measured"
    assert page.counts(found) == {"passed": 1, "failed": 4, "measured": 2, "not run": 1}
    text = page.page({"device": "d"}, found, {})
    assert "| fails | failed | - | - | ZeroDivisionError: a \\| b |" in text
    assert "| the section itself | failed | - | OSError: disc full |" in text
    assert "- package: needs the package frobnicate" in text
    assert any("first: passed" in line for line in said)


def test_rows_after_the_time_is_over_are_listed(module: Callable[[str], Any]) -> None:
    rows = module("acceptance.rows")
    ran: list[str] = []
    found = rows.carry_out(
        {"one": lambda: iter([("a", lambda: ran.append("a"))])}, rows.Budget(1e-9), lambda line: None
    )
    assert not ran
    assert found["one"][0].status == "not run"
    assert "out of time: 1e-09 minutes are over" in found["one"][0].note


def test_a_device_is_judged_by_the_stated_limits(module: Callable[[str], Any]) -> None:
    judge = module("acceptance.agreement").judge
    good = {"detections": 3, "other_detections": 3, "box": 1e-4, "score": 1e-6, "mask_iou": 0.99}
    assert judge(good) == ""
    assert judge({"logit": 1e-5, "labels_equal": 1.0}) == ""
    for worse, message in (
        ({"box": 0.02}, "box, px 0.02 > 0.01"),
        ({"score": 0.001}, "score 0.001 > 0.0001"),
        ({"mask_iou": 0.9}, "least mask IoU 0.9 < 0.98"),
        ({"box": math.nan}, "box, px is not a number"),
        ({"other_detections": 2}, "2 detections in place of 3"),
        ({"detections": 0, "other_detections": 0}, "no detections to compare"),
    ):
        assert message in judge(good | worse)


def test_the_outcome_of_the_tests_is_read(module: Callable[[str], Any], tmp_path: Path) -> None:
    gpu_tests, rows = module("acceptance.gpu_tests"), module("acceptance.rows")
    assert ROOT / "tests/pipeline/training/test_gpu.py" in gpu_tests.files()
    report = tmp_path / "report.xml"
    case = '<testsuites><testsuite><testcase name="a"/>{}</testsuite></testsuites>'
    report.write_text(case.format('<testcase name="b"><skipped/></testcase>'))
    assert gpu_tests.outcome(report).figures == {"passed": 1, "failed": 0, "skipped": 1}
    report.write_text(case.format('<testcase name="b"><failure/></testcase>'))
    with pytest.raises(rows.DisagreementError, match="failed: b"):
        gpu_tests.outcome(report)
    report.write_text('<testsuite><testcase name="b"><skipped/></testcase></testsuite>')
    with pytest.raises(rows.DisagreementError, match="no test ran"):
        gpu_tests.outcome(report)
