"""Where the project lies, and from where its commands are called: a row for each situation."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from made_up_configs import linked_project
from typer.testing import CliRunner, Result

import pointrend
from pipeline.config.project import Project
from pointrend.cli import add_installed_commands, app, expand_home
from pointrend.image_files import write_image
from pointrend.runs import find_checkout, find_weights

add_installed_commands()
REPOSITORY = Path(__file__).parents[2]


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project, and in it the working directory."""
    folder = tmp_path / "project"
    folder.mkdir()
    linked_project(folder)
    if not (folder / "dvc.yaml").exists():
        shutil.copy(REPOSITORY / "dvc.yaml", folder)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize(
    "arguments",
    [
        ["select", "demo"],
        ["plan"],
        ["plan", "demo"],
        ["check"],
        ["sweep", "x.yaml"],
        ["train", "--data", "x.json"],
        ["jobs", "list"],
        ["jobs", "stop", "--all"],
        ["jobs", "follow", "run-0"],
    ],
    ids=" ".join,
)
def test_outside_a_project_one_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.chdir(tmp_path)
    result = call(*arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: no project here: neither {tmp_path} nor a folder above it")
    assert "git clone" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ([], "data"),
        (["--data-root", "../../raw"], "../raw"),
        (["--data-root", "raw"], "notes/raw"),
        (["--data-root", "/raw"], "/raw"),
        (["--data-root", "s3://bucket/raw"], "s3://bucket/raw"),
    ],
)
def test_in_a_subfolder_paths_are_those_of_the_user(
    root: Path, monkeypatch: pytest.MonkeyPatch, given: list[str], written: str
) -> None:
    (root / "notes").mkdir()
    monkeypatch.chdir(root / "notes")
    assert call("select", "demo", *given).exit_code == 0
    assert yaml.safe_load((root / "params.yaml").read_text())["data_root"] == written
    assert not any((root / "notes").iterdir())


def test_a_run_is_found_by_its_name_from_a_subfolder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = root / "outputs/demo/train/run-0/model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.touch()
    (root / "notes").mkdir()
    monkeypatch.chdir(root / "notes")
    assert find_weights("run-0")[0] == weights


def test_a_folder_with_another_projects_dvc_yaml_is_not_this_one(root: Path) -> None:
    inner = root / "other"
    inner.mkdir()
    (inner / "dvc.yaml").touch()
    assert find_checkout(inner) == root


@pytest.mark.parametrize(
    ("argument", "expanded"),
    [
        ("--data-root=~/d", "--data-root={home}/d"),
        ("--out=~", "--out={home}"),
        ("--data-root=d~", "--data-root=d~"),
        ("~/d", "~/d"),  # which no shell leaves, so it was quoted
        ("--name=a=~b", "--name=a=~b"),
    ],
)
def test_the_home_folder_behind_an_equals_sign(argument: str, expanded: str) -> None:
    assert expand_home(argument) == expanded.format(home=Path.home())


def test_a_sweep_of_another_scale_is_refused(root: Path) -> None:
    call("select", "demo")
    result = call("sweep", "configs/sweeps/paper/subdivision.yaml")
    assert result.exit_code == 1
    assert "is a sweep of scale paper, but demo is selected; `pointrend select paper`" in result.stderr


def test_plan_of_a_scale_needs_no_selection(root: Path) -> None:
    for name in ("params.yaml", "selection.yaml"):
        (root / name).unlink(missing_ok=True)
    result = call("plan", "demo", "--json")
    assert result.exit_code == 0, result.output
    assert Project(root).default_cluster("demo") in result.output


def test_select_says_which_raw_data_are_missing_and_where_to_get_them(root: Path) -> None:
    text = call("select", "paper", "--data-root", "nowhere").stdout
    assert "dataset coco2017: nowhere/coco/annotations/instances_train2017.json and 2 more missing" in text
    assert "How to obtain this data: train2017.zip" in text
    assert "missing" not in call("select", "demo").stdout
    assert "missing" not in call("select", "paper", "--data-root", "s3://bucket/raw").stdout


def test_configure_refuses_missing_raw_data_before_anything_runs(root: Path) -> None:
    call("select", "paper", "--data-root", "nowhere")
    result = subprocess.run(
        [sys.executable, "-m", "stages.configure"],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert "raw data are missing; nothing was run" in result.stderr
    assert "How to obtain this data" in result.stderr
    assert not (root / "outputs/paper/config").exists()


def test_a_picture_of_an_unknown_format_is_named(tmp_path: Path) -> None:
    import numpy as np

    with pytest.raises(ValueError, match=r"o\.psd: expected a name that ends in \.jpg or \.png"):
        write_image(np.zeros((2, 2, 3), np.uint8), tmp_path / "o.psd")


@pytest.mark.parametrize("arguments", [["-h"], ["select", "-h"], ["jobs", "list", "-h"], ["score", "-h"]], ids=" ".join)
def test_help_has_a_short_name(arguments: list[str]) -> None:
    assert "Usage:" in call(*arguments).stdout


def test_the_version_is_shown() -> None:
    assert call("--version").stdout == f"pointrend {pointrend.__version__}\n"
