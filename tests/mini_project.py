"""A whole project in miniature, to run as a user would."""

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import yaml
from mlflow import MlflowClient

from pipeline.config.project import Project
from pipeline.config.selection_files import params_text, selection_text

REPOSITORY = Path(__file__).parent.parent
EXPERIMENTS = ("coco_4xconv_r50", "coco_pointrend_r50")


@dataclass(frozen=True)
class MiniProject:
    """A copy of the repository whose demo takes seconds: four-update trainings on a dozen small images."""

    root: Path
    variables: dict[str, str] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        kept = {k: v for k, v in os.environ.items() if k not in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "PYTHONPATH")}
        return {**kept, "PATH": path, "RAY_USAGE_STATS_ENABLED": "0", "DO_NOT_TRACK": "1", **self.variables}

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Starts a command in a process group of its own, as a shell does."""
        return subprocess.Popen(
            command,
            cwd=self.root,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            # Where these tests run in the background of a script, they and what they start ignore Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def run(self, *command: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end; its whole output is in ``stdout``."""
        process = self.start(*command)
        try:
            output, _ = process.communicate(timeout=timeout)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        return subprocess.CompletedProcess(command, process.returncode, output, "")

    def mlflow(self) -> MlflowClient:
        """What MLflow's database has now, as a copy: a process that has read a file once does not see it replaced."""
        copy = Path(tempfile.mkdtemp(dir=self.root.parent)) / "mlflow.db"
        with (
            closing(sqlite3.connect(f"{(self.root / 'mlflow.db').as_uri()}?mode=ro", uri=True)) as now,
            closing(sqlite3.connect(copy)) as then,
        ):
            now.backup(then)
        return MlflowClient(f"sqlite:///{copy}")

    def repro(self, *targets: str) -> list[str]:
        """`dvc repro`: the stages that ran, in order, but for those that always run."""
        result = self.run("dvc", "repro", *targets)
        assert result.returncode == 0, result.stdout
        ran = re.findall(r"^Running stage '([^']+)'", result.stdout, flags=re.MULTILINE)
        assert set(ran) >= ({"configure"} if targets else {"configure", "track"}), result.stdout
        return [stage for stage in ran if stage not in ("configure", "track")]

    def copy(self, root: Path) -> "MiniProject":
        """A copy of this project and of all that it has made, in a folder that is yet to be.

        The files of DVC's cache are hard links: DVC never writes into them.
        """

        def link_or_copy(source: str, target: str) -> str:
            if Path(source).is_relative_to(self.root / ".dvc/cache"):
                os.link(source, target)
                return target
            return shutil.copy2(source, target)

        temporary = shutil.ignore_patterns("__pycache__", "ray", "rwlock*", "mlflow.db.lock")
        shutil.copytree(self.root, root, copy_function=link_or_copy, ignore=temporary)
        with closing(sqlite3.connect(root / "mlflow.db")) as database, database:
            # MLflow keeps the whole path of each run's artifacts.
            for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
                database.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (str(self.root), str(root)))
        return replace(self, root=root)

    def on_ray(self, address: str) -> "MiniProject":
        """This project with its jobs on a Ray that runs already."""
        ray = {"RAY_ADDRESS": address, "RAY_AUTH_MODE": "token", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
        return replace(self, variables={**self.variables, **ray})

    def edit(self, file: str, old: str, new: str) -> None:
        """Replaces text in a file of the project; it must be there."""
        path = self.root / file
        text = path.read_text()
        assert old in text, f"{old!r} is not in {file}"
        path.write_text(text.replace(old, new))


@dataclass(frozen=True)
class FirstRepro:
    """The first `dvc repro` of a miniature project.

    Attributes:
        project: after it.
        stages: those that ran, in order, but for those that always run.
    """

    project: MiniProject
    stages: list[str]


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 120) -> None:
    """Waits until a condition holds.

    Args:
        condition: asked twenty times a second.
        what: it waits for, for the message.
        seconds: that it waits at most.

    Raises:
        AssertionError: if it does not come.
    """
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.05)


def job_drivers(project: MiniProject, stage: str) -> list[psutil.Process]:
    """The processes of a project's jobs that run a module of ``stages``, such as ``run_job``."""
    return [
        process
        for process in psutil.process_iter(["cmdline", "cwd"])
        if process.info["cwd"] == str(project.root) and f"stages.{stage}" in (process.info["cmdline"] or [])
    ]


def make_project(root: Path) -> MiniProject:
    """Copies the repository to an existing folder and shrinks its demo."""
    for name in ("configs", "pipeline", "pointrend", "stages"):
        shutil.copytree(REPOSITORY / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "dvc.yaml", root)
    # Shapes alone: street scenes go the same way. Sweeps have tests of their own.
    shutil.rmtree(root / "configs/sweeps/demo")
    shutil.rmtree(root / "configs/experiments/demo")
    (root / "configs/experiments/demo").mkdir()
    for name in EXPERIMENTS:
        experiment = Project(REPOSITORY).experiment("demo", name).model_dump(exclude_none=True)
        del experiment["starts_from"], experiment["train"]
        experiment["schedule"] = "demo"
        for setting in experiment["evaluations"].keys() - {"28x28", "224x224"}:
            del experiment["evaluations"][setting]
        text = yaml.safe_dump(experiment, sort_keys=False, default_flow_style=None, width=200)
        (root / f"configs/experiments/demo/{name}.yaml").write_text(text)
    project = Project(root)
    project.selection_file.write_text(selection_text("demo", project.select("demo", "data")))
    project.params_file.write_text(params_text(project.initial_params("demo", "data", "laptop")))
    (root / ".dvc").mkdir()
    (root / ".dvc" / "config").write_text(
        "[core]\n    no_scm = true\n    analytics = false\n    check_update = false\n"
    )
    mini = MiniProject(root)
    (root / "configs/synthetic/shapes.yaml").write_text(
        "draws: shapes\ntrain_images: 8\nval_images: 3\nimage_size: 64\nmax_objects: 2\n"
        "polygon_tolerance: 1.0\nseed: 0\n"
    )
    (root / "configs/schedules/demo.yaml").write_text(
        "batch_size: 2\nwarmup: {updates: 1, learning_rate: 0.001}\nphases:\n"
        "  - {updates: 4, learning_rate: 0.01}\ncheckpoint_every: 2\n"
    )
    for model in ("mask_rcnn_tiny_shapes", "pointrend_tiny_shapes"):
        path = root / f"configs/models/{model}.yaml"
        text = re.sub(r"train_min_sizes: .*", "train_min_sizes: [64]", path.read_text())
        text = re.sub(r"test_min_size: .*", "test_min_size: 64", text)
        path.write_text(re.sub(r"max_size: .*", "max_size: 96", text))
    return mini
