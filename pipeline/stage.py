"""Shared by all DVC stages: the project and its folders, the environment of processes, how errors are shown."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from pipeline.config.clusters import ClusterConfig
from pipeline.config.code import PACKAGES, code_folder, digest
from pipeline.config.datasets import DatasetConfig, load_dataset
from pipeline.config.evaluations import EvaluationConfig
from pipeline.config.experiments import RunConfig
from pipeline.config.locations import is_remote, join
from pipeline.config.params import Params
from pipeline.config.project import Project
from pipeline.config.reader import load
from pipeline.config.selection import Selection
from pipeline.data.storage import Storage
from pipeline.dvc_process import end_with_dvc
from pipeline.errors import UserError
from pipeline.full_disks import full_folders
from pointrend.runs import find_checkout

NO_PROXY = ("no_proxy", "NO_PROXY")
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Outputs:
    """The folders of one scale: ``outputs/<scale>/...``, the same names as in ``dvc.yaml``."""

    def __init__(self, root: Path, scale: str) -> None:
        self.root = root / "outputs" / scale

    def config(self, kind: str, name: str) -> Path:
        return self.root / "config" / kind / f"{name}.json"

    def code(self, kind: str, task: str) -> Path:
        """The file in which `configure` lists the code of a kind of stage."""
        return self.root / "config" / "code" / f"{kind}-{task}.json"

    def drawn(self, name: str) -> Path:
        """The files of a synthetic dataset, which the project draws itself: never in the user's data root."""
        return self.root / "drawn" / name

    def prepared(self, dataset: str) -> Path:
        return self.root / "data" / dataset

    def trained(self, run: str) -> Path:
        return self.root / "train" / run

    def predictions(self, run: str) -> Path:
        return self.root / "predictions" / run

    def sweep(self, name: str) -> Path:
        return self.root / "sweeps" / name

    @property
    def shown_sweeps(self) -> Path:
        return self.root / "sweeps" / "shown.json"

    def metrics(self, run: str) -> Path:
        """The file with the few metrics that DVC shows."""
        return self.root / "metrics" / f"{run}.json"

    def evaluation_record(self, run: str) -> Path:
        """The file with everything that the evaluations of a run have measured."""
        return self.root / "evaluations" / f"{run}.json"


EXPERIMENTS = (".dvc", "tmp", "exps")  # where DVC makes the workspaces of `dvc exp run --temp` and `--queue`


def original_project(root: Path) -> Path:
    """The project that a workspace belongs to: the folder itself, or the project that DVC made this temporary copy of.

    All workspaces share what is there: the trainings in progress, the Ray of this machine, MLflow's database.
    """
    parts = root.resolve().parts
    for at in range(len(parts) - len(EXPERIMENTS)):
        if parts[at : at + len(EXPERIMENTS)] == EXPERIMENTS:
            return Path(*parts[:at])
    return root.resolve()


class Stage:
    """The project that a stage runs in, which is the working directory."""

    def __init__(self) -> None:
        self.root = Path.cwd()
        self.home = original_project(self.root)
        self.project = Project(self.root)
        self.params: Params = self.project.params()
        self.selection: Selection = self.project.selection()
        self.outputs = Outputs(self.root, self.params.scale)

    def run(self, name: str) -> RunConfig:
        return load(RunConfig, self.outputs.config("train", name))

    @cached_property
    def cluster(self) -> ClusterConfig:
        return self.project.cluster(self.params.cluster)

    def evaluation(self, name: str) -> EvaluationConfig:
        return load(EvaluationConfig, self.outputs.config("evaluate", name))

    def dataset(self, name: str) -> DatasetConfig:
        return load_dataset(self.outputs.config("datasets", name))

    def code(self, kind: str, task: str) -> str:
        """A hash of the code of a kind of stage."""
        return digest(json.loads(self.outputs.code(kind, task).read_text(encoding="utf-8")))

    def data_root(self, dataset: DatasetConfig) -> str:
        """The folder or URI that a dataset's ``root`` is relative to: where it was drawn, or the user's data root."""
        if dataset.synthetic:
            return str(self.outputs.root / "drawn")
        root = self.params.data_root
        return root if is_remote(root) else str(self.home / root)

    def images(self, dataset: str) -> Storage:
        """The storage that the file names in a dataset's manifests are relative to."""
        config = self.dataset(dataset)
        return Storage(join(self.data_root(config), config.root))


class NoProjectError(UserError):
    """Neither the working directory nor a folder above it is a project."""


def enter_project() -> Project:
    """The project that the working directory lies in; its root becomes the working directory, which DVC asks for.

    Raises:
        NoProjectError: if there is none.
    """
    here = Path.cwd()
    if (root := find_checkout(here)) is None:
        raise NoProjectError(
            f"no project here: neither {here} nor a folder above it has dvc.yaml and configs/experiments; change to "
            "your project, or make one: `pointrend init FOLDER`"
        )
    os.chdir(root)
    return Project(root)


def seen_from(root: Path, here: Path, path: str) -> str:
    """A relative path that a user gave in the folder ``here``, as it has to be given in ``root``."""
    same = is_remote(path) or Path(path).is_absolute() or here == root
    return path if same else os.path.relpath(here / path, root)


def bypass_proxy_for_loopback() -> None:
    """Tells this process and its children to reach this machine without a proxy.

    Ray and MLflow are reached over HTTP at 127.0.0.1, also where ``http_proxy`` is set for the rest of the network.
    """
    listed = [host.strip() for name in NO_PROXY for host in os.environ.get(name, "").split(",")]
    hosts = ",".join(dict.fromkeys([*filter(None, listed), *LOOPBACK]))
    # Libraries differ in which of the two they read.
    os.environ.update(dict.fromkeys(NO_PROXY, hosts))


def code_version(root: Path) -> str:
    """The commit of a checkout, with ``-dirty`` if tracked files differ from it; "unknown" without git.

    In a project whose code is installed, the version of the package.
    """
    if code_folder(root) != root:
        return f"pointrend {version('pointrend')}"
    try:
        result = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=root,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:  # no git
        return "unknown"
    return result.stdout.strip() or "unknown"


@contextmanager
def errors_as_messages() -> Iterator[None]:
    """Runs a stage or command: an error that the user can fix becomes one message, without traceback, and status 1."""
    bypass_proxy_for_loopback()
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(130)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in PACKAGES:
            raise
        _show_error(f"this needs {error.name}, which is not installed: pip install 'pointrend[pipeline]'")
        sys.exit(1)
    except (UserError, OSError) as error:
        full = full_folders() if getattr(error, "errno", None) == errno.ENOSPC else ""
        _show_error(f"{error}; {full}" if full else str(error))
        sys.exit(1)


def _show_error(message: str) -> None:
    Console(stderr=True, highlight=False).print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True)


def run_stage(main: Callable[[], None]) -> None:
    """Runs the main function of a stage, see :func:`errors_as_messages`, which ends if its DVC is killed."""
    with errors_as_messages():
        end_with_dvc()
        main()
