"""`pointrend score`."""

import json
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from click.testing import Result
from made_up_instances import scene
from made_up_lvis import EXPECTED_AP, RESULTS, lvis_file
from PIL import Image
from typer.testing import CliRunner

from pipeline.metrics.bootstrap import with_intervals
from pipeline.metrics.boundary_ap import boundary_ap
from pipeline.metrics.coco_ap import coco_ap
from pipeline.metrics.commands import app
from pointrend import cli

NAMES = ["AP", "AP50", "AP75", "APs", "APm", "APl"]


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize(("command", "metric"), [("ap", coco_ap), ("boundary-ap", boundary_ap)])
def test_json_is_one_object_and_nothing_else(
    write: Callable[..., tuple[Path, Path]], command: str, metric: Callable[..., dict[str, Any]]
) -> None:
    paths = write(*scene(0))
    done = run(command, *paths, "--json", "--resamples", "20")
    assert (done.exit_code, done.stderr) == (0, "")
    assert json.loads(done.stdout) == with_intervals(metric(*paths, resamples=20, with_counts=True))
    assert len(done.stdout.splitlines()) == 1


def test_ap_star_and_null_for_what_is_not_defined(write: Callable[..., tuple[Path, Path]]) -> None:
    done = run("ap-star", *write(lvis_file(), RESULTS), "--json", "--resamples", "5")
    found = json.loads(done.stdout)
    assert found["AP"] == pytest.approx(EXPECTED_AP)
    assert found["APl"] is None
    assert found["APl_interval"] == [None, None]
    assert list(found)[:6] == NAMES


def test_the_ratio_of_boundary_ap(write: Callable[..., tuple[Path, Path]]) -> None:
    paths = write(*scene(0))
    done = run("boundary-ap", *paths, "--json", "--dilation-ratio", "0.1")
    assert json.loads(done.stdout) == boundary_ap(*paths, dilation_ratio=0.1, with_counts=True)
    assert run("boundary-ap", *paths, "--dilation-ratio", "0").exit_code == 2


def test_a_table(write: Callable[..., tuple[Path, Path]]) -> None:
    paths = write(lvis_file(), RESULTS)
    plain = [line.split() for line in run("ap-star", *paths).stdout.splitlines()]
    assert plain[:2] == [["metric", "value"], ["AP", f"{EXPECTED_AP:.2f}"]]
    assert ["APl", "–"] in plain
    assert plain[-1][0] == "–:", "says what it stands for"
    with_intervals = [line.split() for line in run("ap-star", *paths, "--resamples", "5").stdout.splitlines()]
    assert with_intervals[0] == ["metric", "value", "95%", "interval"]
    assert len(with_intervals[1]) == 5


@pytest.mark.parametrize("command", ["ap", "ap-star", "boundary-ap"])
def test_errors_are_one_message(write: Callable[..., tuple[Path, Path]], command: str, tmp_path: Path) -> None:
    truth, results = write(lvis_file(), [{**RESULTS[0], "image_id": 77}])
    for paths, said in (
        ((truth, results), f"error: {results}: entry 0: unknown image id 77"),
        ((truth, tmp_path / "nowhere.json"), f"error: {tmp_path / 'nowhere.json'}: "),
        ((tmp_path / "nowhere.json", results), f"error: {tmp_path / 'nowhere.json'}: "),
        ((truth, tmp_path), f"error: {tmp_path}: "),
    ):
        for options in ([], ["--json"]):
            done = run(command, *paths, *options)
            assert (done.exit_code, done.stdout) == (1, "")
            assert done.stderr.startswith(said)
            assert "Traceback" not in done.stderr


def test_a_coco_file_is_no_lvis_file(write: Callable[..., tuple[Path, Path]]) -> None:
    done = run("ap-star", *write(*scene(0)))
    assert done.exit_code == 1
    assert "not an LVIS file" in done.stderr


def test_where_only_the_library_is_installed(
    write: Callable[..., tuple[Path, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [name for name in sys.modules if name.startswith("pipeline.metrics.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    result = run("ap", *write(*scene(0)))
    assert result.exit_code == 1
    assert result.stderr == "error: scoring needs pycocotools: pip install 'pointrend[pipeline]'\n"


def test_resamples_are_not_negative(write: Callable[..., tuple[Path, Path]]) -> None:
    assert run("ap", *write(*scene(0)), "--resamples", "-1").exit_code == 2


def test_groups_of_commands_join_pointrend(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [
        EntryPoint("score", "pipeline.metrics.commands:app", "pointrend.commands"),
        EntryPoint("select", "pipeline.cli:select", "pointrend.commands"),
        EntryPoint("absent", "no_such_package:app [extra, more]", "pointrend.commands"),
    ]
    joined = typer.Typer()
    monkeypatch.setattr(cli, "app", joined)
    monkeypatch.setattr(cli, "entry_points", lambda group: entries)
    cli.add_installed_commands()
    assert "ap-star" in CliRunner().invoke(joined, ["score", "--help"]).output
    assert "scale" in CliRunner().invoke(joined, ["select", "--help"]).output.lower()
    shown = CliRunner().invoke(joined, ["--help"]).output
    assert "Not installed: pip install 'pointrend[extra,more]'" in shown
    for arguments in ([], ["demo", "--seeds", "3"], ["--help"]):
        absent = CliRunner().invoke(joined, ["absent", *arguments])
        assert (absent.exit_code, absent.stdout) == (1, "")
        assert absent.stderr == (
            "error: pointrend absent needs no_such_package, which is not installed: "
            "pip install 'pointrend[extra,more]'\n"
        )


def test_a_broken_command_of_this_project_is_no_missing_library(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = EntryPoint("broken", "pipeline.no_such_module:app [pipeline]", "pointrend.commands")
    monkeypatch.setattr(cli, "entry_points", lambda group: [broken])
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        cli.add_installed_commands()


@pytest.fixture
def streets(tmp_path: Path) -> Path:
    """Two images of road (7) and car (26) in Cityscapes' layout."""
    for index in range(2):
        ids = np.full((20, 30), 7, np.uint8)
        ids[5:15, 8 : 20 + index] = 26
        (tmp_path / "gt").mkdir(exist_ok=True)
        Image.fromarray(ids).save(tmp_path / "gt" / f"town_00000{index}_000019_gtFine_labelIds.png")
    return tmp_path / "gt"


def test_miou(streets: Path) -> None:
    options = ("--gt", streets, "--pred", streets, "--trimap", "2", "--trimap", "4", "--resamples", "5")
    done = run("miou", *options, "--json")
    assert (done.exit_code, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert (found["mIoU"], found["trimap4_mIoU"], found["mIoU_interval"]) == (100, 100, [100, 100])
    assert found["IoU"]["car"] == 100
    assert found["IoU"]["sky"] is None
    rows = [line.split() for line in run("miou", *options).stdout.splitlines()]
    assert ["IoU", "car", "100.00", "100.00", "–", "100.00"] in rows
    assert ["trimap2_mIoU", "100.00", "100.00", "–", "100.00"] in rows


def test_errors_of_folders_are_one_message(streets: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for command in ("miou", "cityscapes-ap"):
        for gt, pred in ((tmp_path / "empty", streets), (tmp_path / "nowhere", streets)):
            done = run(command, "--gt", gt, "--pred", pred, "--json")
            assert (done.exit_code, done.stdout) == (1, "")
            assert done.stderr.startswith("error: ")
            assert str(gt) in done.stderr
    done = run("miou", "--gt", streets, "--pred", tmp_path / "empty")
    assert done.exit_code == 1
    assert "town_000000_000019" in done.stderr
