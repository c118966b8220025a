"""All trainings of the paper as jobs that sleep, on a Ray that says it has 64 nodes of 8 GPUs: how full is it?

    python benchmarks/cluster_simulation.py --nodes 64 --seconds-per-unit 480

Jobs are submitted as the `train` stage does it, the longest first, each taking a whole node. Reported is the share of
the nodes that worked, from the first submission until no job waits any more: after that, the last jobs run out and
nothing can fill their nodes. It ends there, and stops what still runs. Needs about 100 MB of memory per node.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import ray
from rich.progress import track

from pipeline.cluster.connection import free_agent_port
from pipeline.cluster.jobs import Job, Jobs

GPUS = 8
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


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--nodes", type=int, default=64)
    parser.add_argument("--seconds-per-unit", type=float, default=480, help="how long a Mask R-CNN R50 1x sleeps")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    lengths = {
        f"{name}-{seed}": units * arguments.seconds_per_unit
        for name, (seeds, units) in TRAININGS.items()
        for seed in range(seeds)
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with free_agent_port():
            context = ray.init(
                address="local",
                num_cpus=arguments.nodes,
                num_gpus=arguments.nodes * GPUS,
                include_dashboard=True,
                dashboard_host="127.0.0.1",
                _node_ip_address="127.0.0.1",
            )
        jobs = Jobs(f"http://{context.dashboard_url}")
        first = time.time()
        for name in track(sorted(lengths, key=lengths.__getitem__, reverse=True), "submit"):
            command = f"date +%s.%N > {name}.begin; sleep {lengths[name]}; date +%s.%N > {name}.end"
            jobs.submit(Job(name, ["bash", "-c", command], folder, gpus=GPUS))
        submitted = time.time()
        while len(list(folder.glob("*.begin"))) < len(lengths):
            time.sleep(1)
        full = time.time()
        spans = []
        for begin in folder.glob("*.begin"):
            end = begin.with_suffix(".end")
            text = end.read_text() if end.exists() else ""
            spans.append((float(begin.read_text()), float(text) if text else full))
        ray.shutdown()
    used = sum(end - begin for begin, end in spans) / (full - first) / arguments.nodes
    ramp = sorted(begin for begin, _ in spans)[min(arguments.nodes, len(spans)) - 1] - first
    figures = {
        "jobs": len(lengths),
        "nodes": arguments.nodes,
        "seconds to submit": submitted - first,
        "seconds until every node works": ramp,
        "seconds until no job waits": full - first,
        "utilisation until then, %": 100 * used,
    }
    if arguments.json:
        print(json.dumps(figures))
    else:
        print("\n".join(f"{name}: {value:.1f}" for name, value in figures.items()))


if __name__ == "__main__":
    main()
