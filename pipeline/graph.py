"""The graph of ``dvc.yaml``: which of its stages are to run, and which code each depends on."""

import hashlib
import logging
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import psutil
import yaml

from pipeline.errors import UserError


class GraphError(UserError):
    """DVC does not answer."""


def stages_to_run(root: Path, names: Iterable[str]) -> list[str]:
    """Those of some stages that `dvc repro` would run now, rather than leave or take from its cache.

    It looks at the files that are there: what they would be after other stages, it does not know. Can be called from
    within a stage, while DVC waits for it; what that stage is, DVC does not tell.

    Args:
        root: of the project, the working directory: DVC looks for some of its files from there.
        names: of stages, ``train@run``.

    Raises:
        GraphError: if DVC cannot tell.
    """
    return _those(root, names, _runs)


def unchanged_stages(root: Path, names: Iterable[str]) -> list[str]:
    """Those of some stages whose inputs and results are here, and as DVC has left them.

    Args:
        root: of the project, the working directory.
        names: of stages, ``prepare@dataset``.

    Raises:
        GraphError: if DVC cannot tell.
    """
    return _those(root, names, lambda stage: not stage.changed())


def _those(root: Path, names: Iterable[str], fits: Callable[[Any], bool]) -> list[str]:
    """The names of the stages that fit."""
    # A second to import, and wanted only where something is to run.
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    # It would say what it does not do.
    logging.getLogger("dvc").setLevel(logging.WARNING)
    found = []
    try:
        with Repo(str(root)) as repo:
            for name in names:
                with repo.lock:
                    if fits(repo.stage.load_one(name=name)):
                        found.append(name)
    except DvcException as error:
        raise GraphError(f"{root}: DVC cannot tell what is to run ({error})") from error
    return found


def _runs(stage: Any) -> bool:
    """Whether a stage of DVC is changed, and its results are not in the cache either.

    One whose dependencies another stage is yet to make counts as one that runs.
    """
    from dvc.dependency.base import DependencyDoesNotExistError
    from dvc.stage.cache import RunCacheNotFoundError
    from dvc_data.hashfile.hash_info import HashInfo

    if not stage.changed():
        return False
    if stage.changed_stage() or not stage.deps_cached():
        # As DVC does it: with new inputs it is the run cache that may have the results, not the lock file.
        try:
            stage.save_deps()
        except DependencyDoesNotExistError:
            return True
        for out in stage.outs:
            out.hash_info = HashInfo()
    try:
        stage.repo.stage_cache.restore(stage, dry=True)
    except RunCacheNotFoundError:
        return True
    return False


def runs_everything() -> bool:
    """Whether this process is a stage of a `dvc repro` without targets."""
    for parent in psutil.Process().parents():
        words = parent.cmdline()
        if "repro" in words:
            return all(word.startswith("-") for word in words[words.index("repro") + 1 :])
    return False


def match_git(root: Path) -> str | None:
    """Has DVC work without git where git does not track the project, as in an unpacked archive.

    DVC would refuse to start there, or take the repository of a folder further up for the project's. The setting goes
    to ``.dvc/config.local``, which is for this checkout alone.

    Args:
        root: of the project.

    Returns:
        a sentence for the user if DVC works without git or could work with it, else None.
    """
    from dvc.config import Config

    folder = root / ".dvc"
    if not folder.is_dir():
        return None
    without_git = Config(str(folder))["core"].get("no_scm", False)
    if _is_tracked(root / "dvc.yaml"):
        return (
            "DVC works without git here; `dvc config --local --unset core.no_scm` lets `dvc exp` use it"
            if without_git
            else None
        )
    if not without_git:
        with Config(str(folder)).edit("local") as settings:
            settings.setdefault("core", {})["no_scm"] = True
    return "git does not track this folder: DVC works without it (core.no_scm in .dvc/config.local), `dvc exp` needs it"


def _is_tracked(file: Path) -> bool:
    try:
        asked = subprocess.run(
            ["git", "ls-files", "--error-unmatch", file.name],
            cwd=file.parent,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    except FileNotFoundError:
        return False
    return asked.returncode == 0


def code_digest(root: Path, stage: str) -> str:
    """A hash of the code that a stage of ``dvc.yaml`` depends on.

    Raises:
        UserError: if a file of it is missing.
    """
    graph = yaml.safe_load((root / "dvc.yaml").read_text(encoding="utf-8"))
    digest = hashlib.sha256()
    for dependency in sorted(d for d in graph["stages"][stage]["do"]["deps"] if "${" not in d):
        path = root / dependency
        if not path.exists():
            raise UserError(f"{path}: missing; dvc.yaml says that {stage} depends on it")
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(f"{file.relative_to(root)}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()
