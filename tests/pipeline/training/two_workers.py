"""Trains a small model; run by test_distributed.py under torch.distributed.run, or alone.

Usage: two_workers.py OUTPUT_FOLDER [IMAGES_PER_WORKER]. Writes the weights and the image ids of every update of each
worker, and how several are distributed. With images per worker, the model draws random numbers, as many for each part
of a batch.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.config.schedules import Phase, ScheduleConfig, Warmup
from pipeline.data.dataset import Example
from pipeline.data.samplers import Draw, Share, TrainingBatches
from pipeline.training.loop import BUFFERS_OPTION, build_optimizer, distribute, train

IMAGES, BATCH, UPDATES = 10, 4, 6
SCHEDULE = ScheduleConfig(
    batch_size=BATCH, warmup=Warmup(updates=2, learning_rate=0.01), phases=[Phase(updates=UPDATES, learning_rate=0.1)]
)


class MeanOfImages(nn.Module):
    """Predicts a number per image; its loss is a mean over images, so equal shares of a batch average exactly."""

    def __init__(self, noise: float = 0.0) -> None:
        super().__init__()
        self.noise = noise
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 1, 3))

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        stacked = torch.stack(images)
        predicted = self.layers(stacked + self.noise * torch.randn_like(stacked)).mean(dim=(1, 2, 3))
        wanted = torch.stack([target["value"] for target in targets])
        return {"loss": nn.functional.mse_loss(predicted, wanted)}


def example(draw: Draw) -> Example:
    generator = torch.Generator().manual_seed(draw.seed)
    image = torch.full((3, 12, 12), draw.image / IMAGES) + torch.rand(3, 12, 12, generator=generator)
    return Example(draw.image, image, {"value": torch.tensor(draw.image / IMAGES)})


def main(folder: Path, images_per_worker: int | None) -> None:
    distributed = "RANK" in os.environ
    if distributed:
        dist.init_process_group("gloo")
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if distributed else (0, 1)
    # Sums in the same order everywhere: what may differ is the order of the workers' average alone.
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = MeanOfImages(noise=0.0 if images_per_worker is None else 0.1)
    share = Share.of_batch(BATCH, images_per_worker, rank, world_size)
    batches = TrainingBatches(
        np.zeros(IMAGES, dtype=bool),
        batch_size=BATCH,
        seed=7,
        start=0,
        stop=UPDATES,
        share=share,
    )
    seen: list[tuple[int, ...]] = []
    wrapped = distribute(model, world_size, torch.device("cpu"))
    train(
        wrapped,
        build_optimizer(model, SCHEDULE),
        ([example(draw) for draw in batch] for batch in batches),
        SCHEDULE,
        start=0,
        seed=7,
        share=share,
        device=torch.device("cpu"),
        on_update=lambda update: seen.append(update.image_ids),
    )
    torch.save(model.state_dict(), folder / f"weights{rank}.pt")
    (folder / f"images{rank}.json").write_text(json.dumps(seen))
    if isinstance(wrapped, DistributedDataParallel):
        settings = {name: getattr(wrapped, name) for name in (BUFFERS_OPTION, "gradient_as_bucket_view")}
        (folder / f"distributed{rank}.json").write_text(json.dumps(settings))
    if distributed:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None)
