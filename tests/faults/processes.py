"""Trainings and Ray nodes as processes, to be killed for real."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
from mini_project import wait_for
from safetensors.torch import load_file
from torch import Tensor

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
MARK = "POINTREND_FAULT_TEST"  # in the environment of every process that a test has started


def environment(folder: Path, **more: str) -> dict[str, str]:
    """An environment without the user's own Ray, its address and its token."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_"))}
    return {
        **kept,
        MARK: str(folder),
        "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{HERE.parent}",
        "OMP_NUM_THREADS": "1",
        "DO_NOT_TRACK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "5" * 64,
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
        "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.2",
        # How long Ray waits for the place of a node that it does not yet know to be dead.
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "15",
        **more,
    }


def started_for(folder: Path) -> list[psutil.Process]:
    """The processes that a test has started, and their children."""
    found, mark = [], f"{MARK}={folder}\0"
    for process in psutil.process_iter():
        try:
            # psutil's own reading stops at the titles that Ray's processes write over their environment.
            environment_of = Path(f"/proc/{process.pid}/environ").read_text(errors="replace")
            if mark in environment_of and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (OSError, psutil.Error):
            continue
    return found


def kill_all(processes: list[psutil.Process]) -> None:
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(processes, timeout=20)


class Job:
    """One process of job.py, in a folder of its own; ``driver`` is the process."""

    def __init__(
        self,
        folder: Path,
        cluster: dict[str, Any],
        updates: int = 60,
        checkpoint_every: int = 5,
        *,
        evaluate: bool = False,
        **env: str,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self._output = folder, folder / "output.txt"
        with self._output.open("w") as stream:
            self.driver = subprocess.Popen(
                [
                    *(
                        sys.executable,
                        HERE / "job.py",
                        folder,
                        json.dumps(cluster),
                        str(updates),
                        str(checkpoint_every),
                    ),
                    *(["evaluate"] if evaluate else []),
                ],
                env=environment(folder, **env),
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return self._output.read_text(errors="replace")

    def checkpoints(self) -> list[int]:
        return sorted(int(path.stem.split("-")[1]) for path in self.folder.glob("runs/*/checkpoints/update-*.pt"))

    def wait_for_checkpoint(self, update: int) -> None:
        wait_for(
            lambda: self.driver.poll() is not None or max(self.checkpoints(), default=0) >= update,
            f"checkpoint {update}",
        )
        assert self.driver.poll() is None, self.output

    def predicted_chunks(self) -> int:
        """How many chunks of images are predicted, while the evaluation is under way."""
        return len(list(self.folder.glob("runs/*/evaluation-*/chunks/images-*")))

    def worker(self, rank: int) -> int:
        """The process id of the worker of a rank, of the newest group."""
        return int(re.findall(rf"pid=(\d+)\) world_rank={rank}\b", self.output)[-1])

    def kill(self) -> None:
        """Kills the driver and nothing else."""
        os.kill(self.driver.pid, signal.SIGKILL)
        self.driver.wait()

    def finish(self, seconds: float = 240) -> dict[str, Any]:
        """Waits for its end, which must be a good one; what train.json says."""
        try:
            status = self.driver.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"not done after {seconds} s:\n{self.output}") from None
        assert status == 0, self.output
        return json.loads((self.folder / "output" / "train.json").read_text())

    def predictions(self) -> dict[str, bytes]:
        """Every predicted file."""
        folder = self.folder / "output" / "predictions"
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.png")}

    def weights(self) -> dict[str, Tensor]:
        return load_file(self.folder / "output" / "model.safetensors")


class RayNodes:
    """A Ray of several nodes on this machine, as `ray start` makes them; each has room for one worker."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self.others: list[subprocess.Popen[bytes]] = []
        self.start_head()

    def start_head(self) -> None:
        """Starts the first node, with what is the cluster's memory."""
        self._head = self._start("--head", "--port", self.address.split(":")[1], "--dashboard-port", "0")
        wait_for(self.alive, "the head node")

    def kill_head(self) -> None:
        """Kills all processes of the first node."""
        node = psutil.Process(self._head.pid)
        kill_all([node, *node.children(recursive=True)])

    def driver_environment(self) -> dict[str, str]:
        """What a driver or a user of jobs needs in the environment to get in."""
        return {name: value for name, value in environment(self._folder).items() if name.startswith("RAY_")} | {
            MARK: str(self._folder),
            "RAY_ADDRESS": self.address,
        }

    def _ray(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "ray.scripts.scripts", *arguments]
        return subprocess.run(command, env=environment(self._folder), capture_output=True, text=True, check=False)

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        # Any free port for everything: all nodes are on one machine.
        ports = ("min-worker-port", "max-worker-port", "node-manager-port", "object-manager-port")
        ports += ("dashboard-agent-listen-port", "metrics-export-port", "dashboard-agent-grpc-port")
        with (self._folder / "nodes.txt").open("a") as stream:
            return subprocess.Popen(
                [
                    *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *arguments),
                    *("--node-ip-address", "127.0.0.1", "--num-cpus", "1", "--object-store-memory", "100000000"),
                    *(part for port in ports for part in (f"--{port}", "0")),
                ],
                env=environment(self._folder),
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def alive(self) -> list[str]:
        """The ids of the nodes that Ray counts as alive."""
        listed = self._ray("list", "nodes", "--address", self.address, "--format", "json", "--filter", "state=ALIVE")
        # An error or "No resource in the cluster", while it starts.
        return [node["node_id"] for node in json.loads(listed.stdout)] if listed.stdout.startswith("[") else []

    def add(self) -> str:
        """Starts one more node and returns its id."""
        before = set(self.alive())
        self.others.append(self._start("--address", self.address))
        wait_for(lambda: set(self.alive()) - before, "a new node")
        return (set(self.alive()) - before).pop()

    def kill_newest(self) -> None:
        """Kills all processes of the newest node."""
        node = psutil.Process(self.others.pop().pid)
        kill_all([node, *node.children(recursive=True)])

    def drain(self, node: str, seconds: float) -> None:
        """Announces that a node is going to be taken away."""
        drained = self._ray(
            *("drain-node", "--address", self.address, "--node-id", node),
            *("--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "taken back"),
            *("--deadline-remaining-seconds", str(seconds)),
        )
        assert drained.returncode == 0, drained.stdout + drained.stderr
