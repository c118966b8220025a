"""Compares the losses of training with two workers and with one worker that has twice the images per step.

Trains a tiny PointRend R-CNN on a prepared dataset, for several seeds, with one worker and with two (gloo). Prints the
mean loss over stretches of updates and its range over the seeds. The ranges of the two columns should overlap: the
images of every update are the same, but each worker samples proposals and points by itself.

    python benchmarks/two_workers.py --prepared outputs/demo/data/shapes --images outputs/demo/drawn/shapes
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

STRETCHES = 6


def worker(arguments: argparse.Namespace) -> None:
    """One worker of one run: writes the loss of every update, averaged over the workers, as JSON."""
    import torch
    import torch.distributed as dist

    from pipeline.config.schedules import Phase, ScheduleConfig, Warmup
    from pipeline.data.dataset import TrainingImages
    from pipeline.data.manifest import read_prepared
    from pipeline.data.samplers import Share, TrainingBatches
    from pipeline.data.storage import Storage
    from pipeline.training.loop import Update, build_optimizer, distribute, train
    from pointrend import build_model

    distributed = "RANK" in os.environ
    if distributed:
        dist.init_process_group("gloo")
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if distributed else (0, 1)
    share = Share(rank, world_size, micro_batches=world_size)
    torch.set_num_threads(2 // world_size)
    schedule = ScheduleConfig(
        batch_size=4,
        warmup=Warmup(updates=20, learning_rate=0.001),
        phases=[Phase(updates=arguments.updates, learning_rate=0.02)],
    )
    prepared = read_prepared(arguments.prepared)
    images = TrainingImages(prepared, Storage(str(arguments.images.resolve())), [128], 192)
    torch.manual_seed(arguments.seed)
    model = build_model("pointrend_rcnn_tiny_fpn", num_classes=len(prepared.categories))
    batches = TrainingBatches(
        images.groups,
        batch_size=schedule.batch_size,
        seed=arguments.seed,
        start=0,
        stop=schedule.updates,
        share=share,
    )
    losses: list[float] = []

    def on_update(update: Update) -> None:
        loss = torch.tensor(update.loss)
        if distributed:
            dist.all_reduce(loss)
        losses.append(loss.item() / world_size)

    train(
        distribute(model, world_size, torch.device("cpu")),
        build_optimizer(model, schedule),
        ([images[draw] for draw in batch] for batch in batches),
        schedule,
        start=0,
        seed=arguments.seed,
        share=share,
        device=torch.device("cpu"),
        on_update=on_update,
    )
    if rank == 0:
        arguments.output.write_text(json.dumps(losses))
    if distributed:
        dist.destroy_process_group()


def run(arguments: argparse.Namespace, workers: int, seed: int, output: Path) -> list[float]:
    """Trains in separate processes and returns the loss of every update."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"] if workers == 2 else []
    own = [
        "--prepared",
        str(arguments.prepared),
        "--images",
        str(arguments.images),
        "--updates",
        str(arguments.updates),
    ]
    command = [sys.executable, *launcher, __file__, *own, "--seed", str(seed), "--output", str(output)]
    subprocess.run(command, check=True)
    return json.loads(output.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepared", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--updates", type=int, default=120)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.output is not None:
        worker(arguments)
        return
    with tempfile.TemporaryDirectory() as folder:
        curves = {
            workers: [run(arguments, workers, seed, Path(folder) / "losses.json") for seed in range(arguments.seeds)]
            for workers in (1, 2)
        }
    length = arguments.updates // STRETCHES
    rows = []
    for first in range(0, length * STRETCHES, length):
        row: dict[str, float | int] = {"from": first + 1, "to": first + length}
        for workers, losses in curves.items():
            means = [statistics.fmean(curve[first : first + length]) for curve in losses]
            row |= {
                f"mean_{workers}": statistics.fmean(means),
                f"low_{workers}": min(means),
                f"high_{workers}": max(means),
            }
        rows.append(row)
    if arguments.json:
        print(json.dumps({"updates": arguments.updates, "seeds": arguments.seeds, "rows": rows}))
        return
    table = Table(
        "updates", "one worker", "two workers", title=f"mean loss, {arguments.seeds} seeds (lowest to highest)"
    )
    for row in rows:
        cells = [f"{row[f'mean_{w}']:.3f}  ({row[f'low_{w}']:.3f} to {row[f'high_{w}']:.3f})" for w in (1, 2)]
        table.add_row(f"{row['from']}-{row['to']}", *cells)
    Console().print(table)


if __name__ == "__main__":
    main()
