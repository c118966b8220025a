"""Checks for NaN and infinity every few updates, as on a GPU: the steps are skipped on the device, here a fused CPU."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from toy_training import CPU, batches, fused, learn, same, schedule, toy, weights

from pipeline.training.checkpoint import CheckpointStore
from pipeline.training.loop import DivergedTrainingError, Update, build_optimizer


def test_checking_now_and_then_changes_no_weights_and_no_numbers() -> None:
    each, seldom = toy(), toy()
    first = learn(each, batches(7), optimizer=fused(each), check_every=1)
    second = learn(seldom, batches(7), optimizer=fused(seldom), check_every=3)
    assert same(weights(each), weights(seldom))
    assert [(u.number, u.losses, u.gradient_norm, u.image_ids) for u in first] == [
        (u.number, u.losses, u.gradient_norm, u.image_ids) for u in second
    ]


@pytest.mark.parametrize(("bad", "updates"), [(1, 3), (4, 3), (5, 7), (8, 7), (11, 11), (13, 13)])
def test_the_first_bad_update_is_named_at_the_next_check(bad: int, updates: int) -> None:
    model, good = toy(), toy()
    optimizer = fused(model)
    done: list[int] = []
    with pytest.raises(DivergedTrainingError) as caught:
        learn(model, batches(13, bad), optimizer=optimizer, check_every=4, on_update=lambda u: done.append(u.number))
    message = str(caught.value)
    assert f"update {bad}: not finite" in message
    assert f"images of this worker: {10 * bad}, {10 * bad + 1}." in message
    assert "loss_label nan" in message
    # Checks come before on_update of every fourth update, and after the last one.
    assert done == list(range(1, updates + 1))
    # Weights and momentum are those before the bad update, although more updates followed it.
    other = fused(good)
    learn(good, batches(bad - 1), optimizer=other, check_every=4)
    assert same(weights(model), weights(good))
    for name, parameter in good.named_parameters():
        if bad > 1:
            expected: Tensor = other.state[parameter]["momentum_buffer"]
            assert torch.equal(optimizer.state[model.get_parameter(name)]["momentum_buffer"], expected)


@pytest.mark.parametrize("read", ["check", "losses", "loss", "gradient_norm"])
def test_whoever_reads_an_update_is_told_at_once(read: str) -> None:
    model = toy()

    def on_update(update: Update) -> None:
        if update.number == 3:
            value = getattr(update, read)
            if read == "check":
                value()

    with pytest.raises(DivergedTrainingError, match="update 2: not finite"):
        learn(model, batches(10, bad=2), optimizer=fused(model), check_every=100, on_update=on_update)


def test_a_checkpoint_that_is_checked_first_never_holds_a_stopped_run(tmp_path: Path) -> None:
    store, model = CheckpointStore(tmp_path), toy()
    optimizer = fused(model)

    def on_update(update: Update) -> None:
        if update.number % 2 == 0:
            update.check()
            store.save(update.number, model, optimizer)

    with pytest.raises(DivergedTrainingError):
        learn(model, batches(8, bad=5), optimizer=optimizer, check_every=100, on_update=on_update)
    assert store.load_latest(toy(), fused(toy()), CPU) == 4


def test_numbers_read_after_training_are_those_of_their_update() -> None:
    model = toy()
    kept = learn(model, batches(5), optimizer=fused(model), check_every=2)
    read: list[float] = []
    other = toy()
    learn(other, batches(5), optimizer=fused(other), check_every=2, on_update=lambda u: read.append(u.loss))
    assert [u.loss for u in kept] == read


def test_a_plain_optimizer_cannot_skip_a_step() -> None:
    model = toy()
    with pytest.raises(ValueError, match="check_every is 2: only a fused optimizer"):
        learn(model, batches(1), optimizer=build_optimizer(model, schedule()), check_every=2)


def test_a_checkpoint_of_a_gpu_is_resumed_on_the_cpu_and_back(tmp_path: Path) -> None:
    store, there = CheckpointStore(tmp_path), toy()
    optimizer = fused(there)
    learn(there, batches(2), optimizer=optimizer, check_every=2)
    store.save(2, there, optimizer)
    here = toy(1)
    plain = build_optimizer(here, schedule())
    assert store.load_latest(here, plain, CPU) == 2
    assert [group["fused"] for group in plain.param_groups] == [None, None]
    learn(here, batches(1), optimizer=plain, start=2)
    store.save(3, here, plain)
    back = toy(2)
    again = fused(back)
    assert store.load_latest(back, again, CPU) == 3
    learn(back, batches(2), optimizer=again, start=3, check_every=2)
