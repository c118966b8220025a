"""A resumed training against one that was not interrupted."""

import pytest
import torch
from torch import Tensor
from toy_training import CPU, batches, learn, schedule, toy, weights

from pipeline.check.result import ResumeError, compare
from pipeline.training.checkpoint import CheckpointStore
from pipeline.training.loop import build_optimizer


@pytest.fixture
def trained(tmp_path) -> tuple[dict[str, Tensor], dict[str, Tensor], CheckpointStore]:
    """The weights after three updates and after two, and a checkpoint of the latter."""
    plan, model, examples = schedule(), toy(), batches(3)
    optimizer = build_optimizer(model, plan)
    learn(model, examples[:2], plan, optimizer)
    before, store = weights(model), CheckpointStore(tmp_path)
    store.save(2, model, optimizer)
    learn(model, examples[2:], plan, optimizer, start=2)
    return weights(model), before, store


def resumed(store: CheckpointStore, *, momentum: bool = True, label: float = 1.0) -> dict[str, Tensor]:
    plan, model = schedule(), toy(seed=5)
    optimizer = build_optimizer(model, plan)
    store.load(2, model, optimizer, CPU)
    if not momentum:
        optimizer.state.clear()
    from toy_training import batch

    learn(model, [batch(3, label)], plan, optimizer, start=2)
    return weights(model)


def test_all_that_a_checkpoint_has_gives_equal_bits(trained) -> None:
    whole, before, store = trained
    assert compare(whole, resumed(store), before, exact=True) == "equal bits"


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("changes", [{"momentum": False}, {"label": -1.0}])
def test_a_lost_momentum_or_another_batch_is_refused(trained, changes: dict, exact: bool) -> None:
    whole, before, store = trained
    with pytest.raises(ResumeError, match="ends with other weights"):
        compare(whole, resumed(store, **changes), before, exact)


def test_rounding_is_accepted_where_arithmetic_is_not_deterministic(trained) -> None:
    whole, before, store = trained
    rounded = {name: value * (1 + 1e-6) for name, value in resumed(store).items()}
    assert "of an update" in compare(whole, rounded, before, exact=False)
    with pytest.raises(ResumeError):
        compare(whole, rounded, before, exact=True)


def test_an_update_that_changes_nothing_is_refused() -> None:
    same = {"weight": torch.ones(2)}
    with pytest.raises(ResumeError, match="changed no weight"):
        compare(same, same, same, exact=True)
