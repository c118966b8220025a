"""`pointrend score`."""

import json
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import typer
from click.testing import Result
from made_up_instances import scene
from made_up_lvis import EXPECTED_AP, RESULTS, lvis_file
from typer.testing import CliRunner

from pipeline.metrics.boundary_ap import boundary_ap
from pipeline.metrics.coco_ap import coco_ap
from pipeline.score import app
from pointrend import cli

NAMES = ["AP", "AP50", "AP75", "APs", "APm", "APl"]


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def write(tmp_path: Path) -> Callable[[Any, Any], tuple[Path, Path]]:
    def write(content: Any, results: Any) -> tuple[Path, Path]:
        paths = tmp_path / "truth.json", tmp_path / "results.json"
        for path, value in zip(paths, (content, results), strict=True):
            path.write_text(json.dumps(value))
        return paths

    return write


@pytest.mark.parametrize(("command", "metric"), [("ap", coco_ap), ("boundary-ap", boundary_ap)])
def test_json_is_one_object_and_nothing_else(
    write: Callable[..., tuple[Path, Path]], command: str, metric: Callable[..., dict[str, Any]]
) -> None:
    paths = write(*scene(0))
    done = run(command, *paths, "--json", "--resamples", "20")
    assert (done.exit_code, done.stderr) == (0, "")
    assert json.loads(done.stdout) == metric(*paths, resamples=20)
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
    assert json.loads(done.stdout) == boundary_ap(*paths, dilation_ratio=0.1)
    assert run("boundary-ap", *paths, "--dilation-ratio", "0").exit_code == 2


def test_a_table(write: Callable[..., tuple[Path, Path]]) -> None:
    paths = write(lvis_file(), RESULTS)
    plain = [line.split() for line in run("ap-star", *paths).stdout.splitlines()]
    assert plain[:2] == [["metric", "value"], ["AP", f"{EXPECTED_AP:.2f}"]]
    assert plain[-1] == ["APl", "–"]
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


def test_resamples_are_not_negative(write: Callable[..., tuple[Path, Path]]) -> None:
    assert run("ap", *write(*scene(0)), "--resamples", "-1").exit_code == 2


def test_groups_of_commands_join_pointrend(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [
        EntryPoint("score", "pipeline.score:app", "pointrend.commands"),
        EntryPoint("select", "pipeline.cli:select", "pointrend.commands"),
        EntryPoint("absent", "no_such_package:app", "pointrend.commands"),
    ]
    joined = typer.Typer()
    monkeypatch.setattr(cli, "app", joined)
    monkeypatch.setattr(cli, "entry_points", lambda group: entries)
    cli.add_installed_commands()
    assert "ap-star" in CliRunner().invoke(joined, ["score", "--help"]).output
    assert "scale" in CliRunner().invoke(joined, ["select", "--help"]).output.lower()
    assert CliRunner().invoke(joined, ["absent"]).exit_code == 2
