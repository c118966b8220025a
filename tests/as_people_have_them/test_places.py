"""Where the project lies, and who calls it: one row for each situation, with what must be said or come out."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from made_up_configs import linked_project
from typer.testing import CliRunner, Result

import pointrend
from pipeline.config.project import Project
from pipeline.config.raw_data import MissingDataError, missing_raw_data, refuse_missing
from pipeline.stage import seen_from
from pointrend.cli import add_installed_commands, app, expand_home
from pointrend.image_files import write_image
from pointrend.runs import find_weights

Run = Callable[..., Result]


@pytest.fixture(scope="module", autouse=True)
def commands() -> None:
    add_installed_commands()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout in which nothing is selected."""
    root = tmp_path / "my checkout"
    (root / "docs" / "deep").mkdir(parents=True)
    linked_project(root)
    return root


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command of `pointrend` in a folder."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def invoke(folder: Path, *arguments: str) -> Result:
        monkeypatch.chdir(folder)
        return CliRunner().invoke(app, list(arguments), catch_exceptions=False)

    return invoke


# Outside a project, and in its subfolders

NEED_A_PROJECT = (
    ("select", "demo"),
    ("plan",),
    ("plan", "demo"),
    ("check", "demo"),
    ("sweep", "subdivision.yaml"),
    ("train", "--data", "labels"),
    ("jobs", "list"),
    ("jobs", "stop", "train-1"),
)


@pytest.mark.parametrize("arguments", NEED_A_PROJECT, ids=" ".join)
def test_outside_a_project_commands_say_so_and_how_to_get_one(
    run: Run, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    result = run(tmp_path, *arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: no project here: neither {tmp_path} nor a folder above it")
    assert "change to your project, or make one: `pointrend init FOLDER`" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_half_a_project_is_none(run: Run, tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").touch()  # a project of something else
    assert "no project here" in run(tmp_path, "select", "demo").stderr


@pytest.mark.parametrize("folder", [".", "docs", "docs/deep"])
def test_select_and_plan_work_in_any_folder_of_the_project(run: Run, checkout: Path, folder: str) -> None:
    assert run(checkout / folder, "select", "demo").exit_code == 0
    assert sorted(path.name for path in checkout.iterdir() if path.suffix == ".yaml") == [
        "dvc.yaml", "params.yaml", "selection.yaml",
    ]  # fmt: skip
    assert yaml.safe_load((checkout / "params.yaml").read_text())["data_root"] == "data"
    assert "table1" in run(checkout / folder, "plan").stdout


def test_plan_needs_no_selection(run: Run, checkout: Path) -> None:
    result = run(checkout, "plan", "demo")
    assert result.exit_code == 0
    assert "table1" in result.stdout
    assert not (checkout / "params.yaml").exists()


#: What is given in docs/ as a path, and what it is in the root.
PATHS = {
    "../data": "data",
    "x": "docs/x",
    "/datasets": "/datasets",
    "s3://bucket/data": "s3://bucket/data",
    "../../beside": "../beside",
}


@pytest.mark.parametrize("given", PATHS)
def test_paths_are_those_of_the_folder_they_were_given_in(run: Run, checkout: Path, given: str) -> None:
    assert seen_from(checkout, checkout / "docs", given) == PATHS[given]
    assert run(checkout / "docs", "select", "demo", "--data-root", given).exit_code == 0
    assert Project(checkout).params().data_root == PATHS[given]


def test_runs_are_found_from_a_subfolder(run: Run, checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = checkout / "outputs/demo/train/coco_pointrend_r50-0/model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.touch()
    monkeypatch.chdir(checkout / "docs")
    assert find_weights("coco_pointrend_r50-0")[0] == weights


# What is typed

HOME = {
    "--data-root=~/d": "--data-root={home}/d",
    "--out=~": "--out={home}",
    "--data-root=a~b": "--data-root=a~b",
    "x=~/d": "x=~/d",
    "--name=s3://b/~": "--name=s3://b/~",
}


@pytest.mark.parametrize("typed", HOME)
def test_the_home_folder_after_an_equals_sign(typed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expand_home(typed) == HOME[typed].format(home=tmp_path)


def test_a_user_who_does_not_exist_stays_as_typed() -> None:
    assert expand_home("--out=~nobody_of_this_name/x") == "--out=~nobody_of_this_name/x"


def test_the_command_itself_expands_the_home_folder(checkout: Path, tmp_path: Path) -> None:
    subprocess.run(
        [Path(sys.executable).with_name("pointrend"), "select", "demo", "--data-root=~/d"],
        cwd=checkout, env={**os.environ, "HOME": str(tmp_path)}, check=True, capture_output=True,
    )  # fmt: skip
    assert Project(checkout).params().data_root == str(tmp_path / "d")
    assert not (checkout / "~").exists()


ASKED = {
    ("--version",): f"pointrend {pointrend.__version__}\n",
    ("-h",): "--install-completion",
    ("predict", "-h"): "--weights",
    ("score", "miou", "-h"): "--gt",
    ("data", "check", "-h"): "--images",
}


@pytest.mark.parametrize("arguments", ASKED, ids=" ".join)
def test_short_help_and_version_work_anywhere(run: Run, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    result = run(tmp_path, *arguments)
    assert result.exit_code == 0
    assert ASKED[arguments] in result.stdout


def test_shells_can_complete_commands(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "_POINTREND_COMPLETE": "complete_bash",
        "COMP_WORDS": "pointrend se",
        "COMP_CWORD": "1",
    }
    command = [Path(sys.executable).with_name("pointrend")]
    found = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["select"]


def test_the_paper_is_selected_in_a_few_lines_of_output(run: Run, checkout: Path) -> None:
    lines = run(checkout, "select", "paper", "--data-root", "s3://bucket").stdout.splitlines()
    assert len(lines) < 10
    assert max(map(len, lines)) <= 120


@pytest.mark.parametrize("name", ["o.psd", "o", "o.PNG.exe"])
def test_a_picture_of_an_unknown_kind_is_refused_by_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name}: expected a name that ends in \.jpg or \.png"):
        write_image(np.zeros((2, 2, 3), np.uint8), tmp_path / name)
    assert not list(tmp_path.iterdir())


# Sweeps of another scale


def test_a_sweep_of_another_scale_is_refused(run: Run, checkout: Path) -> None:
    run(checkout, "select", "demo")
    result = run(checkout / "docs", "sweep", "../configs/sweeps/paper/subdivision.yaml")
    assert result.exit_code == 1
    assert "is a sweep of scale paper, but demo is selected; `pointrend select paper`" in " ".join(
        result.stderr.split()
    )


# Raw data that are not there


@pytest.mark.parametrize(
    ("made", "missing"),
    [
        ((), {"cityscapes_instance", "cityscapes_semantic", "coco2017"}),
        (("cityscapes/gtFine/train", "cityscapes/gtFine/val"), {"coco2017"}),
        (("cityscapes/gtFine/train",), {"cityscapes_instance", "cityscapes_semantic", "coco2017"}),
    ],
)
def test_missing_raw_data_are_named_with_how_to_obtain_them(
    run: Run, checkout: Path, made: tuple[str, ...], missing: set[str]
) -> None:
    for folder in made:
        (checkout / "my data" / folder).mkdir(parents=True)
    result = run(checkout, "select", "paper", "--data-root", "my data", "--cluster", "eight_gpus")
    assert result.exit_code == 0  # data may come later
    project = Project(checkout)
    elsewhere = "pointrend select paper --cluster eight_gpus --data-root FOLDER"
    found = missing_raw_data(project, project.selection(), "my data", elsewhere)
    assert set(found) == missing
    for name, text in found.items():
        assert text in result.stdout
        assert text.startswith(f"dataset {name}: ")
        assert f"`{elsewhere}`" in text
        assert "How to obtain this data: " in text
        assert "https://" in text
    with pytest.raises(MissingDataError, match="nothing was run\ndataset "):
        refuse_missing(list(found.values()))


def test_nothing_is_said_of_drawn_data_and_of_buckets(run: Run, checkout: Path) -> None:
    assert "missing" not in run(checkout, "select", "demo").stdout
    said = run(checkout, "select", "paper", "--data-root", "s3://bucket/data").stdout
    assert "missing" not in said
    assert "s3://bucket/data was not looked at; `dvc repro prepare` reads it first" in said
