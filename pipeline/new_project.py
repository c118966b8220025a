"""The command `pointrend init`: a folder that `pointrend select`, `pointrend train` and `dvc repro` work in."""

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from pipeline.config.code import PACKAGES
from pipeline.config.params import DATA_ROOT
from pipeline.config.project import Project
from pipeline.config.selection_files import params_text, selection_text
from pipeline.errors import UserError
from pipeline.graph import match_git
from pipeline.project_files import find_project_files, project_files
from pipeline.stage import errors_as_messages

SCALE = "demo"  # what is selected at first
SELECTED = ("params.yaml", "selection.yaml")
IGNORED = ".gitignore"  # one that is there gets the lines that it lacks


class ConflictError(UserError):
    """The folder has files of the names that a project's files have."""


class UnwritableError(UserError):
    """Nothing can be written into the folder."""


def write_project(folder: Path) -> list[Path]:
    """Writes a project into a folder, all of it or nothing. Its scale ``demo`` is selected.

    Args:
        folder: a new folder, or one without files of these names. A ``.gitignore`` may be there: the lines that it
            lacks are added.

    Returns:
        what was written: files and folders in ``folder``.

    Raises:
        ConflictError: if files of the project's are there, or something that would be imported in place of the
            installed packages.
        NotADirectoryError: if ``folder`` is a file.
        UnwritableError: if nothing can be written into it.
    """
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; expected a folder or a new path")
    source = find_project_files()
    files = project_files(source)
    names = {path.parts[0] for path in (*files, *map(Path, SELECTED))}
    created, moved = not folder.exists(), list[Path]()
    ignored = (folder / IGNORED).read_bytes() if (folder / IGNORED).is_file() else None
    if not created:
        _refuse_conflicts(folder, names if ignored is None else names - {IGNORED})
    _make_writable(folder)
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".pointrend-") as name:
            staging = Path(name)
            for path in files:
                (staging / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source / path, staging / path)
            if ignored is not None:
                _prepend_lines(ignored, staging / IGNORED)
            _select(Project(staging))
            for entry in sorted(names):
                moved.append((staging / entry).rename(folder / entry))
    except BaseException:
        for path in moved:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if ignored is not None:
            (folder / IGNORED).write_bytes(ignored)
        if created:
            folder.rmdir()
        raise
    return moved


def _make_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UnwritableError(f"{folder}: cannot be written to ({error.strerror}); name another folder") from error


def _prepend_lines(lines: bytes, file: Path) -> None:
    """Puts the lines of a file of the user's in front of those in ``file`` that it lacks."""
    own = [line for line in file.read_bytes().splitlines() if line not in lines.splitlines()]
    ending = b"" if not lines or lines.endswith(b"\n") else b"\n"
    file.write_bytes(lines + ending + b"".join(line + b"\n" for line in own))


def _select(project: Project) -> None:
    project.selection_file.write_text(selection_text(SCALE, project.select(SCALE, DATA_ROOT)), encoding="utf-8")
    params = project.initial_params(SCALE, DATA_ROOT, project.default_cluster(SCALE))
    project.params_file.write_text(params_text(params), encoding="utf-8")


def _refuse_conflicts(folder: Path, names: set[str]) -> None:
    there = {path.name for path in folder.iterdir()}
    if conflicts := sorted(names & there):
        raise ConflictError(
            f"{folder}: has {', '.join(conflicts)} already; name a new folder, or move these files away. Nothing was "
            "written"
        )
    if shadows := sorted({f"{package}{suffix}" for package in PACKAGES for suffix in ("", ".py")} & there):
        raise ConflictError(
            f"{folder}: Python would import {', '.join(shadows)} from there in place of the installed package of that "
            "name; name another folder. Nothing was written"
        )


def add_to_git(folder: Path, written: list[Path]) -> None:
    """Lets git track what was written, as `dvc init` does: in a repository of its own unless the folder is in one.

    Where there is no git, or it ignores the folder, DVC works without it.
    """

    def git(*arguments: str) -> int:
        return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, check=False).returncode

    try:
        if git("rev-parse", "--is-inside-work-tree") == 0 or git("init", "--quiet") == 0:
            git("add", "--", *(path.name for path in written))
    except FileNotFoundError:
        pass


@errors_as_messages()
def init(folder: Annotated[Path, typer.Argument(help="a new folder, or one that has none of these files")]) -> None:
    """Make a project: a folder with dvc.yaml, params.yaml, configs and what else `dvc repro` needs."""
    written = write_project(folder)
    add_to_git(folder, written)
    typer.echo(f"{folder}: wrote {', '.join(path.name for path in written)}")
    if note := match_git(folder):
        typer.echo(note)
    typer.echo(
        f"""
Next, in {folder}:
  dvc repro                                                   the demo, which is selected: minutes on two cores
  pointrend train --data annotations.json --images photos/    or train on your own data
`git commit` first, if you want to use `dvc exp`."""
    )
