"""The ways in which a network can compute, and timing a network in each of them."""

import copy
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from float32_sums import emulates_bfloat16
from measure import measure
from torch import nn

from acceptance.rows import NotRunError, Result
from pipeline.training.precision import autocast, float32_math

PRECISIONS = ("float32", "tf32", "bfloat16")

#: The longest that a first, compiling run may take, in seconds.
COMPILING = 120


@dataclass(frozen=True)
class Recipe:
    """A way to compute, in the words of a schedule's settings."""

    precision: str = "float32"
    channels_last: bool = False
    compile: bool = False

    @property
    def name(self) -> str:
        parts = [self.precision]
        if self.channels_last:
            parts.append("channels last")
        if self.compile:
            parts.append("compiled backbone")
        return ", ".join(parts)

    @property
    def layout(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def apply(self, model: nn.Module) -> nn.Module:
        """A copy of a model in the recipe's layout, its backbone to be compiled, as a training's schedule does it."""
        model = copy.deepcopy(model).to(memory_format=self.layout)
        if self.compile:
            model.get_submodule("backbone").compile(dynamic=True)
        return model

    def forward(self, run: Callable[[], Any], device: torch.device) -> Callable[[], Any]:
        """A forward pass under the recipe's autocast, if it has one."""

        def under_autocast() -> Any:
            with autocast(device, self.precision):
                return run()

        return under_autocast


#: Every precision in both layouts.
PLAIN = [Recipe(precision, last) for precision in PRECISIONS for last in (False, True)]
#: With the backbone compiled, channels last: the likely fastest first, since compiling takes long.
COMPILED = [Recipe(precision, channels_last=True, compile=True) for precision in reversed(PRECISIONS)]


@contextmanager
def limited(seconds: int, what: str) -> Iterator[None]:
    """Ends the block with NotRunError if it takes longer."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise NotRunError(f"{what} took longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def timed(
    run: Callable[[], Any],
    recipe: Recipe,
    device: torch.device,
    repeats: int,
    describe: Callable[[Any], dict[str, float]] = lambda output: {},
) -> Result:
    """Times a run with the recipe's kind of float32 arithmetic.

    Args:
        run: computes as the recipe says in everything else, and returns its output.
        recipe: the recipe.
        device: the device.
        repeats: timed runs, after a warm-up.
        describe: figures of the output.

    Raises:
        NotRunError: for TF32 on a CPU, for bfloat16 on one without instructions for it, or if the backbone does not
            compile, or takes too long to.
    """
    if recipe.precision == "tf32" and device.type == "cpu":
        raise NotRunError("a CPU has no TF32")
    if recipe.precision == "bfloat16" and emulates_bfloat16(device):
        raise NotRunError("this CPU has no instructions for bfloat16")
    output: list[Any] = [None]

    def keep() -> None:
        output[0] = run()

    with float32_math(recipe.precision):
        try:
            if recipe.compile:
                _compile(run)
            (measured,) = measure({"": keep}, device, repeats)
        finally:
            if recipe.compile:
                torch.compiler.reset()  # what was compiled for this row is not taken for another's
        figures = describe(output[0])
    times = {"median ms": measured.seconds * 1000, "fastest ms": measured.fastest * 1000}
    return Result({**times, "peak MB": measured.peak_megabytes, **figures})


def _compile(run: Callable[[], Any]) -> None:
    """The first run, which compiles."""
    try:
        with limited(COMPILING, "compiling"):
            run()
    except NotRunError:
        raise
    except Exception as error:
        # A network that cannot be compiled here still runs without.
        raise NotRunError(f"does not compile: {type(error).__name__}: {error}") from error
