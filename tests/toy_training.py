"""A small model to train in tests of the loop: it reads nothing from its device while it trains."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.config.schedules import ScheduleConfig
from pipeline.data.dataset import Example
from pipeline.data.samplers import ALONE
from pipeline.training.loop import Update, build_optimizer, train

CPU = torch.device("cpu")


def schedule(**changes: Any) -> ScheduleConfig:
    return ScheduleConfig.model_validate(
        {
            "batch_size": 2,
            "warmup": {"updates": 1, "learning_rate": 0.05},
            "phases": [{"updates": 1000, "learning_rate": 0.05}],
            **changes,
        }
    )


class Toy(nn.Module):
    """Predicts an image's label with two convolutions; a label of NaN makes its loss NaN, gradients included."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU()
        )
        self.out = nn.Linear(8, 1)

    def forward(self, images: Sequence[Tensor], targets: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        features = self.backbone(torch.stack(list(images)))
        logits = self.out(features.mean((2, 3)))[:, 0].float()
        labels = torch.cat([target["labels"] for target in targets])
        return {"loss_label": (logits - labels).square().mean(), "loss_size": 0.001 * logits.square().mean()}


def toy(seed: int = 0) -> Toy:
    torch.manual_seed(seed)
    return Toy()


def batch(number: int, label: float = 1.0, side: int = 8) -> list[Example]:
    """Two uint8 images, the same for a number every time: a bright one with this label, and a dark one with 0."""
    generator = torch.Generator().manual_seed(number)
    examples = []
    for slot, (offset, value) in enumerate(((100, label), (0, 0.0))):
        image = torch.randint(offset, offset + 156, (3, side, side), dtype=torch.uint8, generator=generator)
        examples.append(Example(10 * number + slot, image, {"labels": torch.tensor([value])}))
    return examples


def batches(count: int, bad: int | None = None) -> list[list[Example]]:
    """The batches of updates 1 to ``count``; that of update ``bad`` makes the loss NaN."""
    return [batch(n, math.nan if n == bad else 1.0) for n in range(1, count + 1)]


def learn(
    model: nn.Module,
    examples: Sequence[Sequence[Example]],
    plan: ScheduleConfig | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    device: torch.device = CPU,
    **options: Any,
) -> list[Update]:
    """Trains on the examples; returns the updates, whose numbers may not have been read yet."""
    plan = plan or schedule()
    updates: list[Update] = []
    options = {"start": 0, "seed": 0, "share": ALONE, "on_update": updates.append, **options}
    train(model, optimizer or build_optimizer(model, plan), examples, plan, device=device, **options)
    return updates


def fused(model: nn.Module, plan: ScheduleConfig | None = None) -> torch.optim.SGD:
    """The optimizer that a GPU has, on the CPU: it can skip a step without the host."""
    optimizer = build_optimizer(model, plan or schedule())
    for group in optimizer.param_groups:
        group["fused"] = True
    return optimizer


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
