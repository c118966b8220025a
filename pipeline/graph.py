"""Asks DVC which stages of ``dvc.yaml`` are stale, and which stages the DVC command that runs this process covers."""

import contextlib
import io
import json
import logging
import pickle
import subprocess
from argparse import Namespace
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import psutil

from pipeline.dvc_process import parent_dvcs
from pipeline.errors import UserError
from pipeline.files import write_json

QUEUED_OPTIONS = ".dvc/tmp/repro.dat"  # the options of `dvc exp run --queue`, in the experiment's stash commit
SCOPE_FILE = ".pointrend/stages.json"  # the stages that the last DVC command covers
TARGET_OPTIONS = ("targets", "single_item", "pipeline", "all_pipelines", "downstream", "recursive", "glob")


class GraphError(UserError):
    """DVC cannot read the project or its graph."""


def stages_to_run(root: Path, names: Iterable[str]) -> list[str]:
    """Selects the stages that `dvc repro` would run now. The others are unchanged or in DVC's cache.

    Only files that exist now are compared, so a stage whose inputs are still to be changed by another stage may be
    missing. A stage can call this while DVC waits for it, but must not ask about itself.

    Args:
        root: the project's folder. It must be the working directory, because DVC looks for some of its files there.
        names: names of stages, such as ``train@run``.

    Raises:
        GraphError: if DVC fails or has no stage of a name.
    """
    return _select(root, names, _would_run)


def unchanged_stages(root: Path, names: Iterable[str]) -> list[str]:
    """Selects the stages whose inputs and outputs exist and are as in ``dvc.lock``; see :func:`stages_to_run`."""
    return _select(root, names, lambda stage: not stage.changed())


def _select(root: Path, names: Iterable[str], fits: Callable[[Any], bool]) -> list[str]:
    """The names of the stages for which ``fits`` returns true."""
    # DVC takes a second to import, and most commands do not need it.
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    # At its usual level DVC would print messages about stages that it does not run here.
    logging.getLogger("dvc").setLevel(logging.WARNING)
    found = []
    try:
        with Repo(str(root)) as repo:
            with repo.lock:  # all at once: DVC takes half a second to read dvc.lock
                stages = {stage.name: stage for stage in repo.stage.load_all()}
            for name in names:
                if name not in stages:
                    raise GraphError(f"{root / 'dvc.yaml'} has no stage {name}; run `pointrend select` again")
                with repo.lock:
                    if fits(stages[name]):
                        found.append(name)
    except DvcException as error:
        raise GraphError(f"{root}: DVC cannot tell which stages are stale; see `dvc status` ({error})") from error
    return found


def _would_run(stage: Any) -> bool:
    """Whether a DVC stage is changed and its outputs are not in DVC's cache.

    A stage with a dependency that does not exist yet counts as one that runs.
    """
    from dvc.dependency.base import DependencyDoesNotExistError
    from dvc.stage.cache import RunCacheNotFoundError
    from dvc_data.hashfile.hash_info import HashInfo

    if not stage.changed():
        return False
    if stage.changed_stage() or not stage.deps_cached():
        # As `dvc repro` does: for new inputs only the run cache may have the outputs, not dvc.lock.
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


def stages_in_scope(names: Iterable[str]) -> list[str]:
    """Selects the stages that the DVC command that runs this process covers; all if no DVC command runs it."""
    under_way = stages_under_way()
    return [name for name in names if under_way is None or name in under_way]


class _PlainUnpickler(pickle.Unpickler):
    """Reads dicts, lists, strings and numbers, and refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"{QUEUED_OPTIONS}: holds a {module}.{name}; expected plain values")


def stages_under_way() -> list[str] | None:
    """The stages that the DVC command that runs this process covers, in its order, stale or not.

    None if no `dvc repro` or `dvc exp run` is among the parent processes.
    """
    for process, words in parent_dvcs():
        # The same for all stages of a command. DVC takes two seconds to find it.
        known = Path(SCOPE_FILE)
        asked = [process.pid, process.create_time(), words]
        if known.is_file() and (answer := json.loads(known.read_text()))["command"] == asked:
            return answer["stages"]
        if (args := _parse(words)) is not None:
            options = _queued_options(Path(args.infofile)) if args.func.__name__ == "CmdExecutorRun" else vars(args)
            stages = _plan({key: options.get(key) for key in TARGET_OPTIONS}, Path(process.cwd()))
            write_json(known, {"command": asked, "stages": stages})
            return stages
    return None


def goes_on_after_failure() -> bool:
    """Whether the DVC command that runs this process goes on where the data of a stage are missing."""
    options = {"-k", "--keep-going", "-i", "--ignore-errors", "--allow-missing"}
    return any(not options.isdisjoint(words) for _, words in parent_dvcs())


def _parse(words: list[str]) -> Namespace | None:
    """The arguments of a DVC command that runs stages; None if it is another command."""
    from dvc.cli import parse_args

    args = parse_args(words)
    return args if args.func.__name__ in ("CmdRepro", "CmdExperimentsRun", "CmdExecutorRun") else None


def _queued_options(infofile: Path) -> dict[str, Any]:
    """The options of a queued experiment. DVC removes their file before the first stage; the stash commit keeps it."""
    info = json.loads(infofile.read_text())
    dvc_dir = Path(info["dvc_dir"]).parent  # of a DVC project in a subfolder of the Git repository
    queued_options = (dvc_dir / QUEUED_OPTIONS).as_posix()
    show = ["git", "-C", info["root_dir"], "show", f"{infofile.stem}:{queued_options}"]
    return _PlainUnpickler(io.BytesIO(subprocess.run(show, check=True, capture_output=True).stdout)).load()["kwargs"]


def _plan(options: dict[str, Any], folder: Path) -> list[str]:
    """Finds the stages as `dvc.repo.reproduce.reproduce` does. Targets are relative to the folder that DVC runs in."""
    from dvc.repo import Repo
    from dvc.repo.reproduce import collect_stages, get_active_graph, plan_repro

    whole = options["all_pipelines"] or options["pipeline"]
    with contextlib.chdir(folder), Repo() as repo:
        stages = []
        if not options["all_pipelines"]:
            # `exp run` has no --glob
            targets = options["targets"] or ["dvc.yaml"]
            stages = collect_stages(repo, targets, recursive=options["recursive"], glob=options["glob"] or False)
        if not (options["single_item"] and not whole):
            downstream = options["downstream"] and not whole
            graph = get_active_graph(repo.index.graph)
            stages = plan_repro(graph, stages, pipeline=options["pipeline"], downstream=downstream)
        # `addressing` begins with ../dvc.yaml: if DVC was called in a subfolder. Files of `dvc add` have no command.
        return [stage.name for stage in stages if stage.cmd]


def refuse_while_running(root: Path) -> None:
    """Raises an error while a DVC command runs stages of a project: what they read must not change now.

    Raises:
        GraphError: naming the process.
    """
    locks = root / ".dvc" / "tmp" / "rwlock"
    try:
        written = json.loads(locks.read_text(encoding="utf-8")).get("write", {})
    except (OSError, ValueError):  # DVC has not run here, or is about to write the file
        return
    for holder in written.values():
        try:
            words = psutil.Process(holder["pid"]).cmdline()
        except psutil.Error:  # it was killed, and DVC drops its locks the next time
            continue
        if any("dvc" in Path(word).parts for word in words):
            raise GraphError(
                f"`{holder['cmd']}` runs here already (process {holder['pid']}), so nothing was changed; wait for it, "
                "or stop it with Ctrl-C (its jobs go on: `pointrend jobs list`)"
            )


def match_git(root: Path) -> str | None:
    """Makes DVC work without git if git does not track the project, as in an unpacked archive.

    Otherwise DVC would refuse to start, or use the git repository of a parent folder. The setting is written to
    ``.dvc/config.local``, which belongs to this checkout alone.

    Returns:
        a sentence for the user if DVC works without git, whether it has to or not; otherwise None.
    """
    from dvc.config import Config

    folder = root / ".dvc"
    if not folder.is_dir():
        return None
    without_git = Config(str(folder))["core"].get("no_scm", False)
    if _is_tracked(root / "dvc.yaml"):
        if without_git:
            return "DVC works without git here; `dvc config --local --unset core.no_scm` lets `dvc exp` use it"
        return None
    if not without_git:
        with Config(str(folder)).edit("local") as settings:
            settings.setdefault("core", {})["no_scm"] = True
    return "git does not track this folder: DVC works without it (core.no_scm in .dvc/config.local), `dvc exp` needs it"


def _is_tracked(file: Path) -> bool:
    try:
        return not subprocess.call(
            ["git", "ls-files", "--error-unmatch", file.name],
            cwd=file.parent,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    except FileNotFoundError:  # no git
        return False
