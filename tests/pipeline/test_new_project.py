"""`pointrend init`."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline import new_project
from pipeline.config.project import Project
from pipeline.new_project import ConflictError, UnwritableError, add_to_git, write_project
from pipeline.project_files import project_files
from pointrend.cli import add_installed_commands, app

REPOSITORY = Path(__file__).parents[2]
WRITTEN = [".dvc", ".dvcignore", ".gitignore", "configs", "dvc.yaml", "params.yaml", "selection.yaml", "stages"]


def select_nothing(project: Project) -> None:
    for path in (project.params_file, project.selection_file):
        path.touch()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resolving the demo takes seconds."""
    monkeypatch.setattr(new_project, "_select", select_nothing)


def test_a_new_project_is_as_a_checkout_with_the_demo_selected(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "my project"
    assert [path.relative_to(folder).as_posix() for path in write_project(folder)] == WRITTEN
    assert sorted(path.name for path in folder.iterdir()) == WRITTEN
    for path in (*project_files(REPOSITORY), Path("params.yaml"), Path("selection.yaml")):
        assert (folder / path).read_bytes() == (REPOSITORY / path).read_bytes(), path
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) == len(project_files(REPOSITORY)) + 2


@pytest.mark.skipif(sys.platform != "linux", reason="nobody can make a folder in Linux's /proc")
def test_a_folder_that_cannot_be_written_to_is_named() -> None:
    with pytest.raises(UnwritableError, match=r"^/proc/mine: cannot be written to \(.*\); name another folder$"):
        write_project(Path("/proc/mine"))


@pytest.mark.usefixtures("quick")
def test_other_files_of_the_folder_stay(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    write_project(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*WRITTEN, "README.md"])


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("there", ["*.log\n/outputs/\n", "*.log", ""])
def test_a_gitignore_that_is_there_gets_what_it_lacks(tmp_path: Path, there: str) -> None:
    file, own = tmp_path / ".gitignore", (REPOSITORY / ".gitignore").read_text().splitlines()
    file.write_text(there)
    write_project(tmp_path)
    lines = file.read_text().splitlines()
    assert lines == there.split() + [line for line in own if line not in there.split()]
    assert "/outputs/" in lines


@pytest.mark.parametrize(
    ("there", "message"),
    [
        (("dvc.yaml", "configs"), "has configs, dvc.yaml already"),
        (("pipeline",), "Python would import pipeline from there"),
        (("stages.py",), "Python would import stages.py from there"),
    ],
)
def test_files_in_the_way_are_named_and_nothing_is_written(
    tmp_path: Path, there: tuple[str, ...], message: str
) -> None:
    for name in there:
        (tmp_path / name).write_text("mine")
    with pytest.raises(ConflictError, match=message):
        write_project(tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(there, "mine")


def test_the_folder_may_not_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="file is a file; expected a folder or a new path"):
        write_project(tmp_path / "file")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("is_there", [False, True])
def test_after_a_failure_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_there: bool) -> None:
    folder = tmp_path / "project"
    if is_there:
        folder.mkdir()
        (folder / ".gitignore").write_text("mine")
    rename = Path.rename

    def fail_at_the_sixth(path: Path, target: Path) -> Path:
        if path.name == WRITTEN[5]:
            raise OSError(28, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail_at_the_sixth)
    with pytest.raises(OSError, match="No space left"):
        write_project(folder)
    assert folder.exists() == is_there
    if is_there:
        assert {path.name: path.read_text() for path in folder.iterdir()} == {".gitignore": "mine"}


@pytest.fixture(scope="module", autouse=True)
def commands() -> None:
    add_installed_commands()


def tracked(folder: Path) -> set[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=folder, capture_output=True, text=True, check=False)
    return {line.partition("/")[0] for line in listed.stdout.splitlines()}


@pytest.mark.usefixtures("quick")
class TestGit:
    @pytest.fixture(autouse=True)
    def outside_of_repositories(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))

    @pytest.fixture
    def project(self, tmp_path: Path) -> Path:
        return tmp_path / "project"

    def test_a_new_project_has_a_repository_of_its_own(self, project: Path) -> None:
        result = CliRunner().invoke(app, ["init", str(project)])
        assert result.exit_code == 0
        assert (project / ".git").is_dir()
        assert tracked(project) == set(WRITTEN)
        assert "without" not in result.output

    def test_or_is_added_to_the_one_that_it_lies_in(self, project: Path) -> None:
        subprocess.run(["git", "init", "--quiet", project.parent], check=True)
        assert CliRunner().invoke(app, ["init", str(project)]).exit_code == 0
        assert not (project / ".git").exists()
        assert tracked(project.parent) == {"project"}

    def test_where_git_ignores_it_dvc_works_without(self, project: Path) -> None:
        subprocess.run(["git", "init", "--quiet", project.parent], check=True)
        (project.parent / ".gitignore").write_text("project\n")
        result = CliRunner().invoke(app, ["init", str(project)])
        assert result.exit_code == 0
        assert "DVC works without it" in result.output
        assert "no_scm" in (project / ".dvc" / "config.local").read_text()

    def test_where_there_is_no_git_dvc_works_without(self, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", str(project.parent))
        result = CliRunner().invoke(app, ["init", str(project)])
        assert result.exit_code == 0
        assert "DVC works without it" in result.output

    def test_only_what_was_written_is_added(self, tmp_path: Path) -> None:
        (tmp_path / "private.txt").touch()
        (tmp_path / "dvc.yaml").touch()
        add_to_git(tmp_path, [tmp_path / "dvc.yaml"])
        assert tracked(tmp_path) == {"dvc.yaml"}
