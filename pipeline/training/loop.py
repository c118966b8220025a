"""The training loop: plain torch, on one process or on several under DistributedDataParallel."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import get_total_norm

from pipeline.config.schedules import ScheduleConfig
from pipeline.data.dataset import Example
from pipeline.data.samplers import Share, draw_seed
from pipeline.errors import UserError
from pipeline.training.schedule import learning_rate
from pointrend.semantic import SemanticSegmenter

NORM_LAYERS = (nn.BatchNorm2d, nn.SyncBatchNorm, nn.GroupNorm, nn.LayerNorm)


class DivergedTrainingError(UserError, RuntimeError):
    """A loss or gradient that is NaN or infinite; the weights are those before the update."""


@dataclass(frozen=True)
class Update:
    """What one update did, on this worker."""

    number: int  # from 1
    losses: dict[str, float]  # means over its parts of the batch
    learning_rate: float
    gradient_norm: float
    seconds: float
    image_ids: tuple[int, ...]

    @property
    def loss(self) -> float:
        return sum(self.losses.values())


def build_optimizer(model: nn.Module, schedule: ScheduleConfig) -> torch.optim.SGD:
    """SGD over the trainable parameters; those of normalisation layers are not decayed.

    Each group has a ``multiplier`` of the learning rate: the schedule's own for a semantic model's head, otherwise 1.
    """
    norm = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, NORM_LAYERS)
        for parameter in module.parameters(recurse=False)
    }
    head = {id(p) for p in model.head.parameters()} if isinstance(model, SemanticSegmenter) else set()
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = []
    for multiplier, of_head in ((1.0, False), (schedule.head_multiplier, True)):
        for weight_decay, of_norm in ((schedule.weight_decay, False), (0.0, True)):
            parameters = [p for p in trainable if (id(p) in head, id(p) in norm) == (of_head, of_norm)]
            groups.append({"params": parameters, "weight_decay": weight_decay, "multiplier": multiplier})
    return torch.optim.SGD([g for g in groups if g["params"]], lr=0.0, momentum=schedule.momentum)


def distribute(model: nn.Module, world_size: int, device: torch.device) -> nn.Module:
    """The model with its gradients averaged over the workers; itself where there is one worker."""
    if world_size == 1:
        return model
    return DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[Sequence[Example]],
    schedule: ScheduleConfig,
    *,
    start: int,
    seed: int,
    share: Share,
    device: torch.device,
    on_update: Callable[[Update], None],
) -> None:
    """Trains from update ``start`` to the end of the batches.

    An update follows the mean of the gradients of all parts of its batch. Randomness inside the model is reseeded at
    every part from (seed, update, part), so that it, too, is a function of the update's number: a resumed run repeats
    what an uninterrupted one does, whoever does which part.

    Args:
        model: maps (images, targets) to a dict of losses; wrapped in DistributedDataParallel or not.
        optimizer: over the model's parameters.
        batches: this worker's examples, part by part, the first one being of update ``start``.
        schedule: learning rates and precision.
        start: updates that are behind us.
        seed: of the run.
        share: what this worker does of each batch.
        device: where the model lies.
        on_update: called after each update.

    Raises:
        DivergedTrainingError: at the first loss or gradient that is not finite, before it reaches the weights; it
            names the update and the images.
    """
    model.train()
    # Workers' gradients are averaged: each counts as if there were as many parts as workers.
    weight = share.world_size / share.parts
    for number, parts in enumerate(_by_update(batches, len(share.own)), start=start):
        begun = time.perf_counter()
        rate = learning_rate(schedule, number)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["multiplier"]
        optimizer.zero_grad(set_to_none=True)

        totals: dict[str, Tensor] = {}
        for part, examples in zip(share.own, parts, strict=True):
            torch.manual_seed(draw_seed(seed, number, part))
            images = [example.image.to(device, non_blocking=True) for example in examples]
            targets = [{k: v.to(device, non_blocking=True) for k, v in e.target.items()} for e in examples]
            with _gradients_stay_here(model) if part != share.own[-1] else nullcontext():
                with autocast(device, schedule.precision):
                    losses: dict[str, Tensor] = model(images, targets)
                    loss = torch.stack(list(losses.values())).sum()
                (loss * weight).backward()
            for name, value in losses.items():
                totals[name] = totals[name] + value.detach() if name in totals else value.detach()

        # Gradients are averaged over the workers by now, so that all of them see a NaN and stop at the same update.
        gradient_norm = get_total_norm([p.grad for p in model.parameters() if p.grad is not None]).item()
        means = torch.stack(list(totals.values())) / len(share.own)
        values = dict(zip(totals, means.tolist(), strict=True))
        image_ids = tuple(example.image_id for examples in parts for example in examples)
        if not torch.isfinite(torch.tensor([gradient_norm, *values.values()])).all():
            shown = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
            raise DivergedTrainingError(
                f"update {number + 1}: not finite: gradient norm {gradient_norm:.4g}, {shown}; images of this worker: "
                f"{', '.join(map(str, image_ids))}. Check their annotations, or lower the learning rate ({rate:.4g})"
            )
        optimizer.step()
        on_update(Update(number + 1, values, rate, gradient_norm, time.perf_counter() - begun, image_ids))


def _by_update(batches: Iterable[Sequence[Example]], parts: int) -> Iterator[list[Sequence[Example]]]:
    """A worker's parts of one update after the other; what is no whole update is an error of the caller's."""
    found: list[Sequence[Example]] = []
    for examples in batches:
        found.append(examples)
        if len(found) == parts:
            yield found
            found = []
    if found:
        raise ValueError(f"{len(found)} batches are left over, fewer than the {parts} of an update")


def _gradients_stay_here(model: nn.Module) -> AbstractContextManager[None]:
    """Keeps a backward pass from averaging its gradients over the workers: that of the last part does it for all."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()


def autocast(device: torch.device, precision: str) -> torch.autocast | nullcontext[None]:
    """The autocast context of a precision: "float32" or "bfloat16"."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, precision))
