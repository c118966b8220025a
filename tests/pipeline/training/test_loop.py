import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.config.schedules import ScheduleConfig
from pipeline.data.dataset import Example
from pipeline.data.samplers import ALONE, Share
from pipeline.training.checkpoint import CheckpointStore
from pipeline.training.loop import DivergedTrainingError, Update, build_optimizer, train
from pipeline.training.schedule import learning_rate

CPU = torch.device("cpu")


def schedule(**changes: Any) -> ScheduleConfig:
    return ScheduleConfig.model_validate(
        {
            "batch_size": 2,
            "warmup": {"updates": 4, "learning_rate": 0.01},
            "phases": [{"updates": 30, "learning_rate": 0.1}, {"updates": 10, "learning_rate": 0.05}],
            "weight_decay": 0.001,
            **changes,
        }
    )


def batch(number: int) -> list[Example]:
    """Two examples of bright images labelled 1 and dark ones labelled 0, the same for a number every time."""
    generator = torch.Generator().manual_seed(number)
    examples = []
    for slot, label in enumerate((1.0, 0.0)):
        image = (torch.rand(3, 8, 8, generator=generator) + label) / 2
        examples.append(Example(1000 + 10 * number + slot, image, {"labels": torch.tensor([label])}))
    return examples


class Tiny(nn.Module):
    """Tells bright from dark; ``dropout`` draws random numbers in the forward pass."""

    def __init__(self, dropout: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.GroupNorm(2, 4)
        self.out = nn.Linear(4, 1)
        self.dropout = dropout
        self.dtypes: list[torch.dtype] = []

    def forward(self, images: Sequence[Tensor], targets: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        features = self.conv(torch.stack(list(images)))
        self.dtypes.append(features.dtype)
        if self.dropout:
            features = features * torch.rand_like(features)
        features = (self.norm(features) + features).mean((2, 3))
        logits = self.out(features)[:, 0].float()
        labels = torch.cat([target["labels"] for target in targets])
        loss = nn.functional.binary_cross_entropy_with_logits(logits, labels)
        return {"loss_label": loss, "loss_size": 0.001 * logits.square().mean()}


def tiny(seed: int = 0, **options: Any) -> Tiny:
    torch.manual_seed(seed)
    return Tiny(**options)


def run(
    model: nn.Module,
    batches: Iterable[Sequence[Example]],
    plan: ScheduleConfig | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    **options: Any,
) -> list[Update]:
    plan = plan or schedule()
    updates: list[Update] = []
    options = {"start": 0, "seed": 0, "share": ALONE, "on_update": updates.append, **options}
    train(model, optimizer or build_optimizer(model, plan), batches, plan, device=CPU, **options)
    return updates


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# Learning


def test_losses_fall() -> None:
    updates = run(tiny(), [batch(n) for n in range(40)])
    assert updates[0].losses["loss_label"] > 0.5
    assert max(u.losses["loss_label"] for u in updates[-5:]) < 0.2


def test_what_an_update_reports() -> None:
    updates = run(tiny(), [batch(n) for n in range(3)])
    assert [u.number for u in updates] == [1, 2, 3]
    assert [u.image_ids for u in updates] == [(1000, 1001), (1010, 1011), (1020, 1021)]
    for update in updates:
        assert set(update.losses) == {"loss_label", "loss_size"}
        assert update.loss == update.losses["loss_label"] + update.losses["loss_size"]
        assert update.gradient_norm > 0


def test_every_update_is_at_its_learning_rate() -> None:
    plan, model = schedule(), tiny()
    optimizer = build_optimizer(model, plan)
    used: list[tuple[float, set[float]]] = []
    run(
        model,
        [batch(n) for n in range(40)],
        plan,
        optimizer,
        on_update=lambda u: used.append((u.learning_rate, {g["lr"] for g in optimizer.param_groups})),
    )
    assert used == [(learning_rate(plan, n), {learning_rate(plan, n)}) for n in range(40)]
    assert [rate for rate, _ in used[:5]] == pytest.approx([0.01, 0.0325, 0.055, 0.0775, 0.1])
    assert used[29][0] == 0.1
    assert used[30][0] == 0.05


def test_a_resumed_run_counts_on() -> None:
    updates = run(tiny(), [batch(n) for n in range(29, 31)], start=29)
    assert [(u.number, u.learning_rate) for u in updates] == [(30, 0.1), (31, 0.05)]


def test_batches_past_the_schedule_are_an_error() -> None:
    with pytest.raises(ValueError, match="past the schedule's 40"):
        run(tiny(), [batch(40)], start=40)


def test_no_batches_are_no_updates() -> None:
    model = tiny()
    before = weights(model)
    assert run(model, []) == []
    assert equal(weights(model), before)


class Slopes(nn.Module):
    """A loss that is linear in its weights: every weight's gradient is the images' mean."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0]))
        self.frozen = nn.Parameter(torch.tensor([1.0]), requires_grad=False)
        self.norm = nn.GroupNorm(1, 1)
        self.batch_norm = nn.BatchNorm2d(1)

    def forward(self, images: Sequence[Tensor], targets: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        mean = torch.stack(list(images)).mean()
        affine = (self.norm.weight + self.norm.bias + self.batch_norm.weight + self.batch_norm.bias).sum()
        return {"weight": (self.weight * mean).sum(), "norm": affine * mean + 0 * self.frozen.sum()}


def flat(value: float) -> list[Example]:
    return [Example(1, torch.full((3, 2, 2), value), {})]


def test_sgd_by_hand() -> None:
    model = Slopes()
    plan = schedule(
        momentum=0.9,
        weight_decay=0.5,
        warmup={"updates": 1, "learning_rate": 0.1},
        phases=[{"updates": 10, "learning_rate": 0.2}],
    )
    updates = run(model, [flat(3.0), flat(2.0)], plan)
    # Update 1 at 0.1: momentum 3 + 0.5 * 1 = 3.5, weight 1 - 0.1 * 3.5 = 0.65.
    # Update 2 at 0.2: momentum 0.9 * 3.5 + 2 + 0.5 * 0.65 = 5.475, weight 0.65 - 0.2 * 5.475 = -0.445.
    assert model.weight.item() == pytest.approx(-0.445, rel=1e-5)
    # Without decay: momentum 3, then 0.9 * 3 + 2 = 4.7; 1 - 0.1 * 3 - 0.2 * 4.7 = -0.24. Biases begin at 0.
    assert model.norm.weight.item() == pytest.approx(-0.24, rel=1e-5)
    assert model.batch_norm.weight.item() == pytest.approx(-0.24, rel=1e-5)
    assert model.norm.bias.item() == pytest.approx(-1.24, rel=1e-5)
    assert model.batch_norm.bias.item() == pytest.approx(-1.24, rel=1e-5)
    assert model.frozen.item() == 1.0
    # Five weights with a gradient of 3 and then 2, before decay.
    assert [u.gradient_norm for u in updates] == pytest.approx([3 * math.sqrt(5), 2 * math.sqrt(5)], rel=1e-5)


def test_every_trainable_weight_is_in_the_optimizer_once() -> None:
    model = Slopes()
    optimizer = build_optimizer(model, schedule(weight_decay=0.5, momentum=0.8))
    decayed, undecayed = optimizer.param_groups
    assert [id(p) for p in decayed["params"]] == [id(model.weight)]
    expected = {id(p) for layer in (model.norm, model.batch_norm) for p in layer.parameters()}
    assert {id(p) for p in undecayed["params"]} == expected
    assert (decayed["weight_decay"], undecayed["weight_decay"]) == (0.5, 0.0)
    assert (decayed["momentum"], undecayed["momentum"]) == (0.8, 0.8)


def test_a_model_without_normalisation_has_one_group() -> None:
    optimizer = build_optimizer(nn.Linear(2, 2), schedule())
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.001]


# Divergence


class Diverging(nn.Module):
    """Losses that go wrong in a chosen way where an image is brighter than 1."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0]))
        self.root = nn.Parameter(torch.tensor([0.0]))

    def forward(self, images: Sequence[Tensor], targets: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        mean = torch.stack(list(images)).mean()
        losses = {"loss_fine": (self.weight * mean).sum() + 0 * self.root.sum()}
        if mean > 1:
            if self.kind == "nan loss":
                losses["loss_bad"] = (self.weight * math.nan).sum()
            if self.kind == "infinite loss":
                losses["loss_bad"] = (self.weight * math.inf).sum()
            if self.kind == "nan loss without gradient":
                losses["loss_bad"] = torch.tensor(math.nan)
            if self.kind == "infinite gradient":
                losses["loss_bad"] = self.root.sqrt().sum()  # 0, with a slope of infinity
        return losses


def ids(value: float, *image_ids: int) -> list[Example]:
    return [Example(image_id, torch.full((3, 2, 2), value), {}) for image_id in image_ids]


@pytest.mark.parametrize("kind", ["nan loss", "infinite loss", "nan loss without gradient", "infinite gradient"])
def test_divergence_is_named_and_does_not_reach_the_weights(kind: str) -> None:
    model, plan = Diverging(kind), schedule()
    optimizer = build_optimizer(model, plan)
    updates: list[Update] = []
    states: list[tuple[dict[str, Tensor], Tensor]] = []

    def on_update(update: Update) -> None:
        updates.append(update)
        states.append((weights(model), optimizer.state[model.weight]["momentum_buffer"].clone()))

    batches = [ids(0.5, 11, 12), ids(0.7, 13, 14), ids(5.0, 397133, 15), ids(0.5, 16, 17)]
    with pytest.raises(DivergedTrainingError) as caught:
        run(model, batches, plan, optimizer, on_update=on_update)
    message = str(caught.value)
    assert "update 3" in message
    assert "397133, 15" in message
    assert "loss_bad" in message
    assert len(updates) == 2
    before, momentum = states[-1]
    assert equal(weights(model), before)
    assert torch.equal(optimizer.state[model.weight]["momentum_buffer"], momentum)


def test_the_same_batches_without_the_fault_pass() -> None:
    assert len(run(Diverging("none"), [ids(0.5, 11), ids(5.0, 12)])) == 2


# Randomness


def state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    momentum = [entry["momentum_buffer"].clone() for entry in optimizer.state.values()]
    return weights(model) | {f"momentum {i}": buffer for i, buffer in enumerate(momentum)}


def test_six_updates_are_three_and_a_checkpoint_and_three(tmp_path: Path) -> None:
    plan = schedule()
    straight = tiny(dropout=True)
    straight_optimizer = build_optimizer(straight, plan)
    first_losses = run(straight, [batch(n) for n in range(6)], plan, straight_optimizer)

    store = CheckpointStore(tmp_path)
    interrupted = tiny(dropout=True)
    optimizer = build_optimizer(interrupted, plan)
    second_losses = run(interrupted, [batch(n) for n in range(3)], plan, optimizer)
    store.save(3, interrupted, optimizer)

    torch.rand(17)  # another process's randomness is somewhere else
    resumed = tiny(seed=99, dropout=True)
    resumed_optimizer = build_optimizer(resumed, plan)
    start = store.load_latest(resumed, resumed_optimizer, CPU)
    second_losses += run(resumed, [batch(n) for n in range(start, 6)], plan, resumed_optimizer, start=start)

    assert equal(state(resumed, resumed_optimizer), state(straight, straight_optimizer))
    assert [u.losses for u in second_losses] == [u.losses for u in first_losses]
    assert [u.number for u in second_losses] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("other", [{"seed": 1}, {"share": Share(rank=1, micro_batches=2)}], ids=["seed", "part"])
def test_the_models_randomness_depends_on_seed_and_part(other: dict[str, Any]) -> None:
    results = []
    for options in ({}, {}, other):
        model = tiny(dropout=True)
        run(model, [batch(0)], **options)
        results.append(weights(model))
    assert equal(results[0], results[1])
    assert not equal(results[0], results[2])


def test_every_update_has_its_own_randomness() -> None:
    losses = [run(tiny(dropout=True), [batch(0)], start=start)[0].losses["loss_label"] for start in range(5)]
    assert len(set(losses)) == 5


# Several parts of a batch on one worker


def test_an_update_follows_the_mean_gradient_of_its_parts() -> None:
    plan = schedule(
        momentum=0.0,
        weight_decay=0.0,
        warmup={"updates": 1, "learning_rate": 0.5},
        phases=[{"updates": 10, "learning_rate": 0.5}],
    )
    model = Slopes()
    parts = [flat(1.0), flat(2.0), flat(6.0), flat(5.0), flat(5.0), flat(5.0)]
    updates = run(model, parts, plan, share=Share(micro_batches=3))
    # Mean gradients 3 and 5: 1 - 0.5 * 3 - 0.5 * 5.
    assert model.weight.item() == pytest.approx(-3.0)
    assert [u.number for u in updates] == [1, 2]
    assert [u.gradient_norm for u in updates] == pytest.approx([3 * math.sqrt(5), 5 * math.sqrt(5)], rel=1e-5)
    assert updates[0].image_ids == (1, 1, 1)
    # A loss is the mean over the parts, too: the weight is 1 at update 1.
    assert updates[0].losses["weight"] == pytest.approx(3.0)


def test_every_part_has_its_own_randomness() -> None:
    one = [run(tiny(dropout=True), [batch(0)], share=Share(rank, 2, 2))[0].losses["loss_label"] for rank in (0, 1)]
    both = run(tiny(dropout=True), [batch(0), batch(0)], share=Share(micro_batches=2))[0].losses["loss_label"]
    assert one[0] != one[1]
    assert both == pytest.approx(sum(one) / 2)


def test_parts_that_make_up_no_update_are_an_error() -> None:
    with pytest.raises(ValueError, match="1 batches are left over, fewer than the 2 of an update"):
        run(tiny(), [batch(n) for n in range(3)], share=Share(micro_batches=2))


# Precision


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_precisions(precision: str) -> None:
    model = tiny()
    updates = run(model, [batch(n) for n in range(40)], schedule(precision=precision))
    assert set(model.dtypes) == {getattr(torch, precision)}
    assert updates[-1].losses["loss_label"] < 0.3 * updates[0].losses["loss_label"]
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
