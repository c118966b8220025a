"""Outputs of an earlier commit, from DVC's cache or its remote."""

import subprocess
from collections.abc import Iterable
from pathlib import Path

from pipeline.errors import UserError


class RevisionError(UserError):
    """A commit cannot be read, or lacks what is asked for."""


def commit_of(root: Path, revision: str) -> str:
    """The short hash of the commit that a revision of git names: a branch, a tag, a hash, or ``HEAD~1``.

    Raises:
        RevisionError: if there is none, or the project is not in git.
    """
    command = ["git", "-C", str(root), "rev-parse", "--short", "--verify", "--end-of-options", f"{revision}^{{commit}}"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode:
        reason = (found.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise RevisionError(f"{revision}: git knows no such commit of {root} ({reason})")
    return found.stdout.strip()


def copy_outputs(root: Path, commit: str, paths: Iterable[str], folder: Path) -> None:
    """Copies outputs of DVC, as they were at a commit, to the same paths in a folder.

    Args:
        root: the project's folder.
        commit: of git.
        paths: files and folders, relative to the project.
        folder: where to copy them.

    Raises:
        RevisionError: if one of them is no output of that commit, or neither DVC's cache nor its remote has it.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        try:
            Repo.get(str(root), path, out=str(folder / path), rev=commit)
        except (DvcException, FileNotFoundError) as error:
            raise RevisionError(
                f"commit {commit} has no {path}: its dvc.lock lacks it (`git add dvc.lock` after `dvc repro`), or "
                f"neither DVC's cache nor its remote has the file ({str(error).splitlines()[0]})"
            ) from error
