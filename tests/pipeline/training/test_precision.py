"""What a schedule's precision sets, without a device."""

import pytest
import torch
from toy_training import CPU, batches, learn, same, schedule, toy, weights

from pipeline.training.precision import autocast, float32_math


def flags() -> tuple[bool, bool]:
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize(("precision", "tf32"), [("float32", False), ("tf32", True), ("bfloat16", False)])
def test_tf32_is_for_convolutions_and_products_or_for_neither(precision: str, tf32: bool) -> None:
    before = flags()
    with float32_math(precision):
        assert flags() == (tf32, tf32)
    assert flags() == before
    with pytest.raises(KeyError), float32_math(precision):
        raise KeyError
    assert flags() == before


def test_only_bfloat16_is_autocast() -> None:
    found = {}
    for precision in ("float32", "tf32", "bfloat16"):
        with autocast(CPU, precision):
            found[precision] = torch.is_autocast_enabled("cpu")
    assert found == {"float32": False, "tf32": False, "bfloat16": True}


def test_the_loop_computes_in_its_schedule_s_precision() -> None:
    seen = set()
    for precision in ("float32", "tf32", "bfloat16"):
        learn(toy(), batches(1), schedule(precision=precision), on_update=lambda u, p=precision: seen.add((p, flags())))
    assert seen == {("float32", (False, False)), ("tf32", (True, True)), ("bfloat16", (False, False))}


def test_tf32_is_float32_on_the_cpu() -> None:
    found = []
    for precision in ("float32", "tf32"):
        model = toy()
        learn(model, batches(3), schedule(precision=precision))
        found.append(weights(model))
    assert same(*found)
