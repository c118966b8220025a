"""Submits runs that sleep instead of training, with the product's own code, to a Ray that pretends to have GPUs.

    python benchmarks/cluster_simulation.py box --gpus 8 --runs 20
    python benchmarks/cluster_simulation.py nodes --nodes 64 --seconds-per-unit 480

No other Ray may run on the machine: the jobs could connect to it.

``box`` is one machine with runs of 2 to 4 workers of one GPU each. A run's job holds one GPU per worker while it
"trains" and then "evaluates" in the same workers, which report the numbers of their GPUs. It prints the timeline, the
most GPUs in use at a time, whether a GPU was given to two runs at once, and the most drivers alive.

``nodes`` is a cluster of nodes with 8 GPUs each. Each training of the paper takes a whole node. It prints the share of
nodes in use until no run waits any more, from the first submission, and from when every node works: this machine starts
one job after the other. Then it ends and stops the runs that are left, because no other run could use their nodes when
they end. Needs about 100 MB of memory per node.
"""

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import ray

from pipeline.cluster.connection import free_agent_port
from pipeline.cluster.jobs import Job, Jobs
from pipeline.cluster.needs import WAITING_JOBS, Needs, Resources, needs_of_run
from pipeline.cluster.submission import Place, Request, in_order, submit_what_fits, wait_for
from pipeline.config.clusters import ClusterConfig

GPUS_PER_NODE = 8
#: Trainings of Tables 1 and 4 to 8 and Section 4.2, with the number of their seeds and how long one takes, in units of
#: Mask R-CNN R50 1x on one node. Tables 2 and 3 train nothing of their own.
TRAININGS = {
    "coco_4xconv_r50": (3, 1.0),
    "coco_pointrend_r50": (3, 1.15),
    "coco_pointrend_r50_grid": (3, 1.15),
    "coco_pointrend_r50_uniform": (3, 1.15),
    "coco_pointrend_r50_heavy": (3, 1.15),
    "coco_pointrend_r50_wide": (3, 1.2),
    "coco_pointrend_r50_deep": (3, 1.2),
    "coco_pointrend_r50_49_points": (3, 1.1),
    "coco_4xconv_r50_3x": (3, 3.0),
    "coco_pointrend_r50_3x": (3, 3.4),
    "coco_4xconv_r101_3x": (3, 4.0),
    "coco_pointrend_r101_3x": (3, 4.4),
    "coco_4xconv_x101_3x": (3, 7.0),
    "coco_pointrend_x101_3x": (3, 7.4),
    "cityscapes_4xconv_r50": (5, 0.35),
    "cityscapes_pointrend_r50": (5, 0.4),
    "cityscapes_deeplabv3_r103": (5, 1.6),
    "cityscapes_deeplabv3_pointrend_r103": (5, 1.7),
    "cityscapes_semantic_fpn_r101": (5, 1.3),
    "cityscapes_semantic_fpn_pointrend_r101": (5, 1.4),
    "cityscapes_semantic_fpn_p3_r101": (5, 1.2),
    "cityscapes_semantic_fpn_p3_pointrend_r101": (5, 1.3),
}


@contextmanager
def simulated_ray(cpus: int, gpus: int) -> Iterator[Jobs]:
    """A Ray on this machine that pretends to have ``cpus`` CPUs and ``gpus`` GPUs."""
    with free_agent_port():
        context = ray.init(
            address="local",
            num_cpus=cpus,
            num_gpus=gpus,
            include_dashboard=True,
            dashboard_host="127.0.0.1",
            _node_ip_address="127.0.0.1",
            log_to_driver=False,
        )
    os.environ["RAY_ADDRESS"] = f"http://{context.dashboard_url}"
    try:
        yield Jobs(os.environ["RAY_ADDRESS"], context.address_info["gcs_address"])
    finally:
        del os.environ["RAY_ADDRESS"]
        ray.shutdown()


class Worker:
    """One worker of a simulated run."""

    def gpus(self) -> list[int]:
        """The numbers of the GPUs that Ray has given to this worker."""
        return [int(number) for number in ray.get_gpu_ids()]

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def drive(folder: Path, name: str, workers: int, seconds: float) -> None:
    """The driver of a simulated run: starts its workers as Ray Train does, trains, evaluates, and writes the times."""
    noted = {"driver": time.time()}
    ray.init(log_to_driver=False)
    group = ray.util.placement_group([{"CPU": 1, "GPU": 1}] * workers)
    ray.get(group.ready())
    options = {"num_cpus": 1, "num_gpus": 1, "placement_group": group}
    crew = [ray.remote(Worker).options(**options).remote() for _ in range(workers)]
    gpus = sorted(number for of_one in ray.get([worker.gpus.remote() for worker in crew]) for number in of_one)
    noted["train"] = time.time()
    ray.get([worker.sleep.remote(seconds) for worker in crew])
    noted["evaluate"] = time.time()
    ray.get([worker.sleep.remote(seconds / 4) for worker in crew])
    noted["end"] = time.time()
    for worker in crew:
        ray.kill(worker)
    ray.util.remove_placement_group(group)
    (folder / f"{name}.json").write_text(json.dumps({**noted, "gpus": gpus, "work": workers * seconds}))


def box(arguments: argparse.Namespace) -> dict[str, object]:
    """Runs of 2 to 4 GPUs on one machine."""
    draw = random.Random(0)
    with tempfile.TemporaryDirectory() as temporary, simulated_ray(4 * arguments.gpus, arguments.gpus) as jobs:
        folder = Path(temporary)
        requests = []
        for number in range(arguments.runs):
            name, workers, seconds = f"run-{number:02}", draw.randint(2, 4), draw.uniform(8, 24)
            cluster = ClusterConfig(workers=workers, gpus_per_worker=1, driver_memory_gb=0.2)
            command = [sys.executable, __file__, "drive", str(folder), name, str(workers), f"{seconds:.1f}"]
            job = Job(name, command, folder, needs_of_run(cluster, workers), (f"train:{name}",))
            done = (folder / f"{name}.json").is_file
            requests.append(Request(name, job, seconds, done))
        place = Place(folder, ClusterConfig(workers=4, gpus_per_worker=1))
        alive: list[int] = []

        def others() -> Sequence[Request]:
            return requests[1:]

        # As in `dvc repro`: one stage after another waits for its run, and all of them keep the cluster full.
        for request in requests:
            wait_for(request, others, place)
            alive.append(sum(job.status == "RUNNING" for job in jobs.live()))
        spans = {request.name: json.loads((folder / f"{request.name}.json").read_text()) for request in requests}
    first = min(span["driver"] for span in spans.values())
    edges = sorted({span[edge] for span in spans.values() for edge in ("train", "end")})
    used, shared = 0, 0
    for begin, end in pairwise(edges):
        held = [g for span in spans.values() if span["train"] <= begin and end <= span["end"] for g in span["gpus"]]
        used, shared = max(used, len(held)), shared + (len(held) != len(set(held)))
    drivers = max(
        sum(other["driver"] <= span["driver"] < other["end"] for other in spans.values()) for span in spans.values()
    )
    timeline = [
        {
            "run": name,
            "gpus": span["gpus"],
            **{edge: round(span[edge] - first, 1) for edge in ("driver", "train", "evaluate", "end")},
        }
        for name, span in sorted(spans.items(), key=lambda item: item[1]["driver"])
    ]
    return {
        "runs": len(spans),
        "GPUs": arguments.gpus,
        "most GPUs in use": used,
        "moments at which a GPU had two runs": shared,
        "most drivers alive": drivers,
        "runs that may wait beside those that fit": WAITING_JOBS,
        "seconds": round(edges[-1] - first, 1),
        "timeline": timeline,
    }


def nodes(arguments: argparse.Namespace) -> dict[str, object]:
    """All trainings of the paper on machines of 8 GPUs."""
    with tempfile.TemporaryDirectory() as temporary, simulated_ray(arguments.nodes, arguments.nodes * 8) as jobs:
        folder = Path(temporary)
        requests = []
        for experiment, (seeds, units) in TRAININGS.items():
            for seed in range(seeds):
                name, seconds = f"{experiment}-{seed}", units * arguments.seconds_per_unit
                command = f"date +%s.%N > {name}.begin; sleep {seconds}; date +%s.%N > {name}.end"
                job = Job(name, ["bash", "-c", command], folder, Needs(Resources(gpus=GPUS_PER_NODE)))
                requests.append(Request(name, job, seconds, (folder / f"{name}.end").is_file))
        place = Place(folder, ClusterConfig(workers=0, gpus_per_worker=8))
        first = time.time()
        queue = in_order(requests)
        submitted = None
        while len(list(folder.glob("*.begin"))) < len(requests):
            queue = submit_what_fits(jobs, queue, place)
            submitted = submitted or time.time()
            time.sleep(1)
        full = time.time()
        spans = []
        for begin in folder.glob("*.begin"):
            end = begin.with_suffix(".end")
            text = end.read_text() if end.exists() else ""
            spans.append((float(begin.read_text()), float(text) if text else full))
    started = sorted(begin for begin, _ in spans)[min(arguments.nodes, len(spans)) - 1]

    def utilisation(since: float) -> float:
        """The share of the nodes in use, in percent, until no run waits."""
        used = sum(max(end - max(begin, since), 0) for begin, end in spans)
        return round(100 * used / (full - since) / arguments.nodes, 1)

    return {
        "runs": len(requests),
        "nodes": arguments.nodes,
        "seconds to submit what fits": round((submitted or first) - first, 1),
        "seconds until every node works": round(started - first, 1),
        "seconds until no run waits": round(full - first, 1),
        "utilisation until then, %": utilisation(first),
        "utilisation from when every node works until then, %": utilisation(started),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("box", help="one machine, runs of 2 to 4 GPUs")
    one.add_argument("--gpus", type=int, default=8)
    one.add_argument("--runs", type=int, default=20)
    many = commands.add_parser("nodes", help="machines of 8 GPUs, all trainings of the paper")
    many.add_argument("--nodes", type=int, default=64)
    many.add_argument("--seconds-per-unit", type=float, default=480, help="seconds that a Mask R-CNN R50 1x sleeps")
    for command in (one, many):
        command.add_argument("--json", action="store_true", help="print one JSON object")
    worker = commands.add_parser("drive", help="used by the simulation itself")
    worker.add_argument("folder", type=Path)
    worker.add_argument("name")
    worker.add_argument("workers", type=int)
    worker.add_argument("seconds", type=float)
    arguments = parser.parse_args()
    if arguments.command == "drive":
        drive(arguments.folder, arguments.name, arguments.workers, arguments.seconds)
        return
    figures = box(arguments) if arguments.command == "box" else nodes(arguments)
    if arguments.json:
        print(json.dumps(figures))
        return
    timeline = figures.pop("timeline", [])
    print("\n".join(f"{name}: {value}" for name, value in figures.items()))
    for row in timeline:  # type: ignore[attr-defined]
        numbers = ",".join(map(str, row["gpus"]))
        print(
            f"{row['run']}  GPUs {numbers:8} driver {row['driver']:6.1f}  trains {row['train']:6.1f}  "
            f"evaluates {row['evaluate']:6.1f}  ends {row['end']:6.1f}"
        )


if __name__ == "__main__":
    main()
