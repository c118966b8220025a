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

#: Updates on a GPU between two checks that all losses and gradients were finite: the host waits for the device then.
#: Losses are logged equally often, so one wait serves both.
UPDATES_PER_CHECK = 10


class DivergedTrainingError(UserError, RuntimeError):
    """A loss or gradient is NaN or infinite. The weights are those before the first such update."""


@dataclass(frozen=True)
class Update:
    """The losses and other measurements of one update, on this worker.

    Losses and gradient norm stay on the device. Reading one calls ``check`` first, which waits for the device.

    Attributes:
        number: the number of the update, from 1.
        mean_losses: each loss, a tensor () or a number: the mean over this worker's micro-batches.
        learning_rate: the learning rate of the update.
        norm: the Euclidean norm of all gradients, a tensor () or a number.
        seconds: the time on the host. On a GPU the device may still be busy then, so only sums over several updates
            mean anything.
        image_ids: the ids of this worker's images.
        check: waits for the device and raises DivergedTrainingError if this or an earlier update was not finite. Call
            it before saving weights: after such an update they no longer change.
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
        """The mean of each loss over this worker's micro-batches."""
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
    """An update that was not checked yet, with what an error message would say about it."""

    number: int
    names: tuple[str, ...]
    measured: Tensor  # the losses and the gradient norm
    learning_rate: float
    image_ids: tuple[int, ...]


class _FiniteCheck:
    """Checks on the device that losses and gradients are finite, and reads the outcome only when asked.

    Attributes:
        failed: () float32 on the device: 0 until the first update that was not finite, 1 from then on. Used as the
            ``found_inf`` of a fused optimizer, it makes the optimizer skip steps: weights and momentum do not change.
    """

    def __init__(self, device: torch.device) -> None:
        self.failed = torch.zeros((), device=device)
        self._unchecked: list[_Unchecked] = []

    def add(self, update: _Unchecked) -> None:
        """Adds an update to those to check, without waiting for the device."""
        torch.maximum(self.failed, 1 - torch.isfinite(update.measured).all().float(), out=self.failed)
        self._unchecked.append(update)

    def check(self) -> None:
        """Waits for the device and checks all updates that were added since the last check.

        Raises:
            DivergedTrainingError: if an update was not finite; the message names the first one and its images.
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
    """SGD over the trainable parameters, without weight decay for those of normalisation layers.

    Each parameter group has a ``multiplier`` of the learning rate: ``head_multiplier`` of the schedule for a semantic
    model's head, 1 for everything else. On a GPU the optimizer is fused, because only a fused one can skip a step
    without the host. The model must be on its device already.
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
        # The first step creates the momentum. If a fused optimizer skipped that step, the momentum would be
        # uninitialised memory. Starting from 0 gives the same first step.
        for parameter in trainable:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def apply_layout(model: nn.Module, schedule: ScheduleConfig) -> None:
    """Applies ``channels_last`` and ``compile`` of a schedule to a model, in place.

    Names and values of the weights stay the same. Call it before :func:`distribute`, whose gradient buckets take the
    layout of the weights. The backbone is compiled in its first forward pass, for images of any size.

    Raises:
        ValueError: if a model without a backbone is to be compiled.
    """
    if schedule.channels_last:
        model.to(memory_format=torch.channels_last)
    if schedule.compile:
        backbone = getattr(model, "backbone", None)
        if not isinstance(backbone, nn.Module):
            raise ValueError(f"schedule.compile: {type(model).__name__} has no backbone to compile")
        # Compiled in place: the wrapper that `torch.compile` returns would rename the weights.
        backbone.compile(dynamic=True)


def distribute(model: nn.Module, world_size: int, device: torch.device) -> nn.Module:
    """Wraps the model so that its gradients are averaged over the workers; returns it unchanged for one worker.

    Weights are sent from worker 0 to all others once, buffers never. All workers build the same model, from the same
    seed or files, and their buffers stay equal: frozen batch norm never changes its buffers, synchronised batch norm
    computes the same statistics on every worker, and group norm has no buffers.
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
    on_update: Callable[[Update], bool | None],
    check_every: int | None = None,
) -> None:
    """Trains from update ``start`` to the end of the batches, or until ``on_update`` ends it.

    A batch is split into micro-batches, and an update uses the mean of their gradients (gradient accumulation).
    Randomness inside the model is reseeded before every micro-batch from (seed, update, micro-batch), so that a resumed
    run repeats what an uninterrupted run does, whichever worker processes which micro-batch.

    A loss or gradient that is not finite never reaches the weights. On the CPU every update is checked before its step.
    On a GPU the device marks the first such update and skips its step and all later ones. The host raises the error at
    the next check, so it does not wait for the device in between.

    Args:
        model: maps (images, targets) to a dict of losses; wrapped in DistributedDataParallel or not.
        optimizer: over the model's parameters, from :func:`build_optimizer`.
        batches: the examples of this worker's micro-batches in order, beginning with update ``start``.
        schedule: learning rates and precision.
        start: the number of updates done already.
        seed: the run's seed.
        share: this worker's micro-batches of each batch.
        device: the model's device.
        on_update: called after each update; training ends if it returns True. Reading losses from the update may wait
            for the device.
        check_every: updates between two checks, which come before ``on_update`` and after the last update. By default
            1 on the CPU, otherwise :data:`UPDATES_PER_CHECK`. More than 1 needs a fused optimizer.

    Raises:
        DivergedTrainingError: if a loss or gradient is not finite; the message names the first such update and its
            images. The weights are those before that update.
        ValueError: if ``check_every`` needs a fused optimizer, or the last update lacks micro-batches.
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
        for number, micro_batches in enumerate(_by_update(batches, len(share.own)), start=start):
            begun = time.perf_counter()
            rate = learning_rate(schedule, number)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["multiplier"]
            optimizer.zero_grad(set_to_none=True)
            losses = _accumulate_gradients(model, micro_batches, schedule, number, seed, share, device)
            # The gradients are averaged over the workers already, so all workers see a NaN in the same update.
            norm = get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
            means = torch.stack(list(losses.values())) / len(share.own)
            image_ids = tuple(example.image_id for examples in micro_batches for example in examples)
            finite.add(_Unchecked(number + 1, tuple(losses), torch.cat((means, norm[None])), rate, image_ids))
            if (number + 1) % check_every == 0:
                finite.check()
            optimizer.step()
            seconds, by_name = time.perf_counter() - begun, dict(zip(losses, means.unbind(), strict=True))
            if on_update(Update(number + 1, by_name, rate, norm, seconds, image_ids, finite.check)):
                break
        finite.check()


def _accumulate_gradients(
    model: nn.Module,
    micro_batches: Sequence[Sequence[Example]],
    schedule: ScheduleConfig,
    number: int,
    seed: int,
    share: Share,
    device: torch.device,
) -> dict[str, Tensor]:
    """Runs this worker's micro-batches of update ``number`` forward and backward.

    Returns:
        the sum of each loss over the micro-batches.
    """
    # DistributedDataParallel averages over the workers; the update needs the mean over all micro-batches.
    weight = share.world_size / share.micro_batches
    totals: dict[str, Tensor] = {}
    for index, examples in zip(share.own, micro_batches, strict=True):
        torch.manual_seed(draw_seed(seed, number, index))
        images, targets = zip(*(example.to_device(device) for example in examples), strict=True)
        with _without_gradient_sync(model) if index != share.own[-1] else nullcontext():
            with autocast(device, schedule.precision):
                losses: dict[str, Tensor] = model(list(images), list(targets))
                loss = torch.stack(list(losses.values())).sum()
            (loss * weight).backward()
        for name, value in losses.items():
            totals[name] = totals[name] + value.detach() if name in totals else value.detach()
    return totals


def _by_update(batches: Iterable[Sequence[Example]], micro_batches: int) -> Iterator[list[Sequence[Example]]]:
    """Groups a worker's micro-batches by update, ``micro_batches`` for each.

    Raises:
        ValueError: if the last update lacks micro-batches.
    """
    found: list[Sequence[Example]] = []
    for examples in batches:
        found.append(examples)
        if len(found) == micro_batches:
            yield found
            found = []
    if found:
        raise ValueError(f"{len(found)} batches are left over, fewer than the {micro_batches} of an update")


def _without_gradient_sync(model: nn.Module) -> AbstractContextManager[None]:
    """Skips averaging gradients over the workers: the backward pass of the last micro-batch averages their sum."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()
