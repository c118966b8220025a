"""The training loop: plain torch, on one process or on several under DistributedDataParallel."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from inspect import signature
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import get_total_norm

from pipeline.config.schedules import ScheduleConfig
from pipeline.data.dataset import Example
from pipeline.data.samplers import Share, draw_seed
from pipeline.errors import UserError
from pipeline.training.precision import autocast, float32_math
from pipeline.training.schedule import learning_rate

NORM_LAYERS = (nn.BatchNorm2d, nn.SyncBatchNorm, nn.GroupNorm, nn.LayerNorm)

#: DistributedDataParallel's option for sending buffers before each forward pass, which newer versions of torch renamed.
BUFFERS_OPTION = (
    "forward_sync_buffers"
    if "forward_sync_buffers" in signature(DistributedDataParallel).parameters
    else "broadcast_buffers"
)

#: How often training on a GPU waits for the device to learn whether all was finite: as often as losses are logged.
UPDATES_PER_CHECK = 10


class DivergedTrainingError(UserError, RuntimeError):
    """A loss or gradient is NaN or infinite. The weights are those before the update that it happened in."""


@dataclass(frozen=True)
class Update:
    """What one update did, on this worker.

    Losses and gradient norm stay on the device until they are read. Reading one waits for the device and calls
    ``check`` first.

    Attributes:
        number: of the update, from 1.
        mean_losses: each loss, () or a number: its mean over this worker's parts of the batch.
        learning_rate: of the update.
        norm: of all gradients, () or a number.
        seconds: that it took on the host. On a GPU the device may not be done by then: sum over several updates.
        image_ids: of this worker's images.
        check: waits for the device; raises DivergedTrainingError if this update or one before it was not finite. To
            be called before the weights are saved: after such an update they do not change any more.
    """

    number: int
    mean_losses: Mapping[str, float | Tensor]
    learning_rate: float
    norm: float | Tensor
    seconds: float
    image_ids: tuple[int, ...]
    check: Callable[[], None] = lambda: None

    @cached_property
    def losses(self) -> dict[str, float]:
        """The mean of each loss over this worker's parts of the batch."""
        self.check()
        return {name: float(value) for name, value in self.mean_losses.items()}

    @property
    def loss(self) -> float:
        """The sum of the losses."""
        return sum(self.losses.values())

    @cached_property
    def gradient_norm(self) -> float:
        """The Euclidean norm of all gradients, averaged over the workers."""
        self.check()
        return float(self.norm)


class _Unchecked(NamedTuple):
    """What an error message says of an update."""

    number: int
    names: tuple[str, ...]
    measured: Tensor  # the losses and the gradient norm
    learning_rate: float
    image_ids: tuple[int, ...]


class _FiniteCheck:
    """Checks on the device that losses and gradients are finite, and reads the outcome only when asked.

    Attributes:
        failed: () float32 on the device: 0, and 1 from the first update on that was not finite. A fused optimizer
            whose ``found_inf`` it is changes neither weights nor momentum while it is 1.
    """

    def __init__(self, device: torch.device) -> None:
        self.failed = torch.zeros((), device=device)
        self._unchecked: list[_Unchecked] = []

    def add(self, update: _Unchecked) -> None:
        """Takes an update into account, without waiting for the device."""
        torch.maximum(self.failed, 1 - torch.isfinite(update.measured).all().float(), out=self.failed)
        self._unchecked.append(update)

    def check(self) -> None:
        """Waits for the device.

        Raises:
            DivergedTrainingError: if an update was not finite; it names the first one and its images.
        """
        if self.failed.item():
            self._raise_first()
        self._unchecked.clear()

    def _raise_first(self) -> None:
        for update in self._unchecked:
            *losses, norm = update.measured.tolist()
            if all(map(math.isfinite, (*losses, norm))):
                continue
            shown = ", ".join(f"{name} {value:.4g}" for name, value in zip(update.names, losses, strict=True))
            raise DivergedTrainingError(
                f"update {update.number}: not finite: gradient norm {norm:.4g}, {shown}; images of this worker: "
                f"{', '.join(map(str, update.image_ids))}. Check their annotations, or lower the learning rate "
                f"({update.learning_rate:.4g})"
            )


def build_optimizer(model: nn.Module, schedule: ScheduleConfig) -> torch.optim.SGD:
    """SGD over the trainable parameters; those of normalisation layers are not decayed.

    Each group has a ``multiplier`` of the learning rate: the schedule's own for a semantic model's head, otherwise 1.
    On a GPU the optimizer is a fused one, which can skip a step without a word from the host; so the model must be on
    its device already.
    """
    norm = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, NORM_LAYERS)
        for parameter in module.parameters(recurse=False)
    }
    head = {id(parameter) for name, parameter in model.named_parameters() if name.startswith("head.")}
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = []
    for multiplier, of_head in ((1.0, False), (schedule.head_multiplier, True)):
        for weight_decay, of_norm in ((schedule.weight_decay, False), (0.0, True)):
            parameters = [p for p in trainable if (id(p) in head, id(p) in norm) == (of_head, of_norm)]
            groups.append({"params": parameters, "weight_decay": weight_decay, "multiplier": multiplier})
    fused = True if trainable and all(parameter.is_cuda for parameter in trainable) else None
    optimizer = torch.optim.SGD([g for g in groups if g["params"]], lr=0.0, momentum=schedule.momentum, fused=fused)
    if fused and schedule.momentum:
        # A fused first step that is skipped would leave the momentum that it makes unset. From 0 it is the same.
        for parameter in trainable:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def apply_layout(model: nn.Module, schedule: ScheduleConfig) -> None:
    """Puts a model's weights into the memory layout of the schedule and has its backbone compiled, in place.

    Names and values of the weights stay. To be called before :func:`distribute`, whose buckets have the layout of the
    weights. The backbone is compiled at its first pass, for images of any size.

    Raises:
        ValueError: if a model without a backbone is to be compiled.
    """
    if schedule.channels_last:
        model.to(memory_format=torch.channels_last)
    if schedule.compile:
        backbone = getattr(model, "backbone", None)
        if not isinstance(backbone, nn.Module):
            raise ValueError(f"schedule.compile: {type(model).__name__} has no backbone to compile")
        # In place: a wrapper would rename the weights.
        backbone.compile(dynamic=True)


def distribute(model: nn.Module, world_size: int, device: torch.device) -> nn.Module:
    """The model with its gradients averaged over the workers; itself where there is one worker.

    Weights are sent from the first worker to all others once, buffers never. All workers build the same model, from the
    same seed or files, and no buffer comes to differ: frozen batch norm never changes its own, synchronised batch norm
    computes the same statistics on every worker, and group norm has none.
    """
    if world_size == 1:
        return model
    options: dict[str, Any] = {BUFFERS_OPTION: False, "gradient_as_bucket_view": True}
    return DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None, **options)


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
    check_every: int | None = None,
) -> None:
    """Trains from update ``start`` to the end of the batches.

    An update follows the mean of the gradients of all parts of its batch. Randomness inside the model is reseeded at
    every part from (seed, update, part), so that it, too, is a function of the update's number: a resumed run repeats
    what an uninterrupted one does, whoever does which part.

    A loss or gradient that is not finite never reaches the weights. On the CPU every update is checked before its step.
    On a GPU the device notes the first bad update by itself and skips its step and all later ones; the host finds out,
    and raises the error, at the next check: so it need not wait for the device in between.

    Args:
        model: maps (images, targets) to a dict of losses; wrapped in DistributedDataParallel or not.
        optimizer: over the model's parameters, from :func:`build_optimizer`.
        batches: this worker's examples, part by part, the first one being of update ``start``.
        schedule: learning rates and precision.
        start: how many updates are done already.
        seed: of the run.
        share: this worker's parts of each batch.
        device: where the model is.
        on_update: called after each update. What it reads of the update may wait for the device.
        check_every: updates between two checks, which come before ``on_update`` and after the last update. By default
            1 on the CPU, otherwise :data:`UPDATES_PER_CHECK`. More than 1 needs a fused optimizer.

    Raises:
        DivergedTrainingError: if a loss or gradient is not finite; it names the first such update and its images. The
            weights are those before that update.
        ValueError: if ``check_every`` needs a fused optimizer, or the batches do not make up whole updates.
    """
    if check_every is None:
        check_every = 1 if device.type == "cpu" else UPDATES_PER_CHECK
    finite = _FiniteCheck(device)
    if check_every > 1:
        if not all(group["fused"] for group in optimizer.param_groups):
            raise ValueError(f"check_every is {check_every}: only a fused optimizer can skip a step on the device")
        optimizer.found_inf = finite.failed  # type: ignore[attr-defined]
    model.train()
    with float32_math(schedule.precision):
        for number, parts in enumerate(_by_update(batches, len(share.own)), start=start):
            begun = time.perf_counter()
            rate = learning_rate(schedule, number)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["multiplier"]
            optimizer.zero_grad(set_to_none=True)
            losses = _accumulate_gradients(model, parts, schedule, number, seed, share, device)
            # Averaged over the workers by now: all of them see the same NaN and stop at the same update.
            norm = get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
            means = torch.stack(list(losses.values())) / len(share.own)
            image_ids = tuple(example.image_id for examples in parts for example in examples)
            finite.add(_Unchecked(number + 1, tuple(losses), torch.cat((means, norm[None])), rate, image_ids))
            if (number + 1) % check_every == 0:
                finite.check()
            optimizer.step()
            seconds, by_name = time.perf_counter() - begun, dict(zip(losses, means.unbind(), strict=True))
            on_update(Update(number + 1, by_name, rate, norm, seconds, image_ids, finite.check))
        finite.check()


def _accumulate_gradients(
    model: nn.Module,
    parts: Sequence[Sequence[Example]],
    schedule: ScheduleConfig,
    number: int,
    seed: int,
    share: Share,
    device: torch.device,
) -> dict[str, Tensor]:
    """Runs this worker's parts of update ``number`` forward and backward; returns the sum of each loss over them."""
    # Workers' gradients are averaged: each counts as if there were as many parts as workers.
    weight = share.world_size / share.parts
    totals: dict[str, Tensor] = {}
    for part, examples in zip(share.own, parts, strict=True):
        torch.manual_seed(draw_seed(seed, number, part))
        images, targets = zip(*(example.to_device(device) for example in examples), strict=True)
        with _without_gradient_sync(model) if part != share.own[-1] else nullcontext():
            with autocast(device, schedule.precision):
                losses: dict[str, Tensor] = model(list(images), list(targets))
                loss = torch.stack(list(losses.values())).sum()
            (loss * weight).backward()
        for name, value in losses.items():
            totals[name] = totals[name] + value.detach() if name in totals else value.detach()
    return totals


def _by_update(batches: Iterable[Sequence[Example]], parts: int) -> Iterator[list[Sequence[Example]]]:
    """A worker's parts of one update after the other.

    Raises:
        ValueError: if the last update lacks parts.
    """
    found: list[Sequence[Example]] = []
    for examples in batches:
        found.append(examples)
        if len(found) == parts:
            yield found
            found = []
    if found:
        raise ValueError(f"{len(found)} batches are left over, fewer than the {parts} of an update")


def _without_gradient_sync(model: nn.Module) -> AbstractContextManager[None]:
    """Keeps a backward pass from averaging gradients over the workers: the last part's pass does it for all parts."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()
