"""The schema of ``configs/schedules``: SGD, its learning rates, the batch and the precision."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, TypeAdapter, model_validator

from pipeline.config.reader import Strict, load_derived

Precision = Literal["float32", "tf32", "bfloat16"]


class Phase(Strict):
    """A stretch of training at one learning rate."""

    updates: PositiveInt
    learning_rate: PositiveFloat


class Warmup(Strict):
    """A linear rise of the learning rate, from this one to that of the first phase."""

    updates: PositiveInt
    learning_rate: PositiveFloat


class Poly(Strict):
    """A learning rate that falls to zero as (1 - fraction of the updates done) ** power (Appendix B)."""

    updates: PositiveInt
    learning_rate: PositiveFloat
    power: PositiveFloat


class ScheduleConfig(Strict):
    """SGD, with a learning rate that falls in steps (Appendix A) or by the poly policy (Appendix B)."""

    batch_size: PositiveInt = Field(description="images per update, over all workers")
    warmup: Warmup
    phases: Annotated[list[Phase], Field(min_length=1)] | None = None
    poly: Poly | None = None
    head_multiplier: PositiveFloat = Field(
        1.0, description="factor of the learning rate of a semantic model's head: DeepLabV3's ASPP and prediction layer"
    )
    momentum: NonNegativeFloat = 0.9
    weight_decay: NonNegativeFloat = 0.0001
    precision: Precision = Field(
        "float32",
        description="float32: in full precision on GPUs as well; tf32: convolutions and matrix products in TF32, which "
        "a CPU computes in float32; bfloat16: autocast",
    )
    channels_last: bool = Field(False, description="keep weights and features channels last in memory (NHWC)")
    compile: bool = Field(False, description="compile the backbone with torch.compile, for images of any size")
    checkpoint_every: PositiveInt = 1000
    # Left out where they are not set, so that the hashes of trainings without validation do not depend on them.
    validate_every: PositiveInt | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="updates between two validations, of which the last update is one; the weights with the best score "
        "are kept beside the last ones and evaluated. null: no validation. Trials of sweeps are scored at their rungs",
    )
    stop_early: PositiveInt | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="end the training after so many validations in a row without a better score. The learning rates "
        "stay those of the full length",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.phases is None) == (self.poly is None):
            raise ValueError("expected either phases or poly")
        if self.stop_early is not None and self.validate_every is None:
            raise ValueError("stop_early needs validate_every")
        return self

    def validates_after(self, update: int) -> bool:
        """Whether a validation comes after so many updates."""
        every = self.validate_every
        return every is not None and update > 0 and (update % every == 0 or update == self.updates)

    @property
    def validations(self) -> int:
        """How many validations there are, unless the training stops early."""
        every = self.validate_every
        return 0 if every is None else -(-self.updates // every)

    @property
    def parts(self) -> Sequence[Phase | Poly]:
        """The stretches of training in order."""
        return self.phases or [self.poly]  # type: ignore[list-item]

    @property
    def updates(self) -> int:
        return sum(part.updates for part in self.parts)

    @property
    def learning_rate(self) -> float:
        """The learning rate at the end of the warm-up."""
        return self.parts[0].learning_rate


def load_schedule(path: Path) -> ScheduleConfig:
    """Reads a schedule's file and its bases, see :func:`pipeline.config.reader.load_derived`."""
    return load_derived(TypeAdapter(ScheduleConfig), path)
