"""The project where little can be relied on: no git, no activated environment, a folder with an umlaut in its name."""

import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from mini_project import make_project

from pipeline.graph import match_git

LAUNCHER = Path(__file__).parents[1] / "stages" / "run"
PROGRAMS = Path(sys.executable).parent

#: Stands for a Python: says where it lies and what it was given.
PYTHON = '#!/bin/sh\nprintf "%s" "$(dirname "$0")"; printf "|%s" "$@"\n'


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with nothing but the launcher and a stage that says which environment it runs in."""
    folder = tmp_path / "my prøject"
    (folder / "stages").mkdir(parents=True)
    shutil.copy(LAUNCHER, folder / "stages")
    (folder / "stages" / "probe.py").write_text("import sys; print(sys.prefix, *sys.argv[1:], sep='|')")
    return folder


def made_up_environment(folder: Path, *installed: str) -> Path:
    (folder / "bin").mkdir(parents=True)
    for name in ("python", *installed):
        (folder / "bin" / name).write_text(PYTHON)
        (folder / "bin" / name).chmod(0o755)
    return folder


def launch_below_init(project: Path, **variables: str) -> str:
    """What a stage prints that no Python has started: the tests' own one, which has the project, would be found."""
    subprocess.run(
        ["sh", "-c", "(sleep 0.3; sh stages/run probe 'a b' >output 2>&1; : >ended) &"],
        cwd=project,
        env={"PATH": "/usr/bin:/bin", **variables},
        check=True,
    )
    end = time.monotonic() + 30
    while not (project / "ended").exists():
        assert time.monotonic() < end, "the launcher did not end"
        time.sleep(0.05)
    return (project / "output").read_text()


def test_the_launcher_can_be_executed() -> None:
    assert LAUNCHER.stat().st_mode & stat.S_IXUSR


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs /proc")
def test_a_stage_runs_in_the_environment_of_the_python_that_started_it(project: Path) -> None:
    other = made_up_environment(project / "other", "pointrend")
    start = "import subprocess; subprocess.run(['sh', '-c', 'sh stages/run probe \"a b\"'])"
    (project / "linked").symlink_to(PROGRAMS.parent)
    for python in (sys.executable, "linked/bin/python"):
        result = subprocess.run(
            [python, "-c", start], cwd=project, env={"VIRTUAL_ENV": str(other)}, capture_output=True, text=True
        )
        assert (result.stdout, result.stderr) == (f"{PROGRAMS.parent}|a b\n", "")


def test_without_such_a_python_it_takes_the_activated_environment_that_has_the_project(project: Path) -> None:
    activated = made_up_environment(project / "activated", "pointrend")
    made_up_environment(project / ".venv", "pointrend")
    found = launch_below_init(project, VIRTUAL_ENV=str(activated), CONDA_PREFIX="/nowhere")
    assert found == f"{activated}/bin|-m|stages.probe|a b"


def test_an_environment_without_the_project_is_passed_over(project: Path) -> None:
    activated = made_up_environment(project / "activated")
    own = made_up_environment(project / ".venv", "pointrend")
    assert launch_below_init(project, VIRTUAL_ENV=str(activated)) == f"{own}/bin|-m|stages.probe|a b"


def test_a_temporary_copy_of_the_project_uses_the_environment_of_the_project(project: Path) -> None:
    own = made_up_environment(project / ".venv", "pointrend")
    copy = project / ".dvc" / "tmp" / "exps" / "copy"
    shutil.copytree(project / "stages", copy / "stages")
    assert launch_below_init(copy) == f"{own}/bin|-m|stages.probe|a b"


def test_the_last_resort_is_the_python_of_the_path(project: Path) -> None:
    other = made_up_environment(project / "other")
    assert launch_below_init(project, PATH=f"{other}/bin:/usr/bin:/bin") == f"{other}/bin|-m|stages.probe|a b"


def test_data_are_drawn_and_prepared_without_git_or_environment_beside_a_users_own(tmp_path: Path) -> None:
    mini = make_project_without_git(tmp_path / "my prøject")
    mine = tmp_path / "my dåta" / "shapes"
    (mine / "train").mkdir(parents=True)
    (mine / "train" / "000000000001.png").write_text("mine")
    edit_params(mini, data_root=str(mine.parent))

    result = subprocess.run(
        [PROGRAMS / "dvc", "repro", "prepare@shapes"], cwd=mini, env={}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert (mini / "outputs/demo/data/shapes/val.parquet").is_file()
    assert len(list((mini / "outputs/demo/drawn/shapes/train").iterdir())) == 8
    assert [path.relative_to(mine) for path in mine.rglob("*") if path.is_file()] == [Path("train/000000000001.png")]
    assert (mine / "train" / "000000000001.png").read_text() == "mine"


def make_project_without_git(root: Path) -> Path:
    root.mkdir()
    make_project(root)
    (root / ".dvc" / "config").write_text("[core]\n    analytics = false\n    check_update = false\n")
    assert match_git(root)
    return root


def edit_params(root: Path, **values: object) -> None:
    params = yaml.safe_load((root / "params.yaml").read_text())
    (root / "params.yaml").write_text(yaml.safe_dump(params | values, sort_keys=False))


class TestMatchGit:
    @pytest.fixture(autouse=True)
    def without_settings_of_the_machine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in [name for name in os.environ if name.startswith("GIT_")]:
            monkeypatch.delenv(name)

    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        root = tmp_path / "outer" / "project"
        (root / ".dvc").mkdir(parents=True)
        (root / ".dvc" / "config").write_text("[core]\n    autostage = false\n")
        (root / "dvc.yaml").write_text("stages: {}\n")
        return root

    @staticmethod
    def git(folder: Path, *arguments: str) -> None:
        subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True)

    @staticmethod
    def status(root: Path) -> int:
        return subprocess.run(
            [PROGRAMS / "dvc", "status"], cwd=root, env={"PATH": os.environ["PATH"]}, capture_output=True
        ).returncode

    def test_without_a_repository_dvc_works_without_git_and_other_settings_stay(self, root: Path) -> None:
        local = root / ".dvc" / "config.local"
        local.write_text("[core]\n    remote = mine\n['remote \"mine\"']\n    url = /mine\n")
        assert self.status(root) != 0
        assert "git does not track this folder" in (match_git(root) or "")
        assert self.status(root) == 0
        text = local.read_text()
        assert "no_scm = True" in text
        assert "remote = mine" in text
        assert "url = /mine" in text
        assert match_git(root)
        assert local.read_text() == text

    def test_a_tracked_project_is_left_to_git(self, root: Path) -> None:
        for folder in (root, root.parent):  # its own repository, and one that holds it
            self.git(folder, "init")
            self.git(folder, "add", ".")
            assert match_git(root) is None
            assert not (root / ".dvc" / "config.local").exists()
            shutil.rmtree(folder / ".git")

    def test_a_repository_further_up_that_does_not_track_the_project_is_not_used(self, root: Path) -> None:
        self.git(root.parent, "init")
        (root.parent / ".gitignore").write_text("project/\n")
        assert match_git(root)
        assert "no_scm = True" in (root / ".dvc" / "config.local").read_text()
        assert self.status(root) == 0

    def test_a_setting_that_git_no_longer_needs_is_said_and_left(self, root: Path) -> None:
        match_git(root)
        self.git(root, "init")
        self.git(root, "add", "dvc.yaml")
        before = (root / ".dvc" / "config.local").read_text()
        assert "dvc config --local --unset core.no_scm" in (match_git(root) or "")
        assert (root / ".dvc" / "config.local").read_text() == before
