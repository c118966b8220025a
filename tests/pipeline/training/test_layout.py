"""channels_last and compile: the same numbers, under the same names."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from toy_training import CPU, batch, batches, learn, schedule, toy, weights

from pipeline.training.checkpoint import CheckpointStore
from pipeline.training.loop import apply_layout, build_optimizer
from pointrend import build_model, load_weights, save_weights

LAST = schedule(channels_last=True)


def test_both_are_off_by_default() -> None:
    model = toy()
    apply_layout(model, schedule())
    assert all(weight.is_contiguous() for weight in model.parameters())
    assert model.backbone._compiled_call_impl is None


def test_channels_last_learns_the_same() -> None:
    model, other = toy(), toy()
    apply_layout(other, LAST)
    assert other.backbone[0].weight.is_contiguous(memory_format=torch.channels_last)
    losses = [u.loss for u in learn(model, batches(5))]
    assert [u.loss for u in learn(other, batches(5), LAST)] == pytest.approx(losses, rel=1e-4)
    for name, value in weights(model).items():
        torch.testing.assert_close(weights(other)[name], value, rtol=1e-4, atol=1e-5)


def test_a_whole_model_in_channels_last() -> None:
    torch.manual_seed(0)
    model = build_model("pointrend_rcnn_tiny_fpn", num_classes=2, min_size=64, max_size=96)
    images = [torch.rand(3, 64, 80), torch.rand(3, 60, 96)]
    masks = torch.zeros(1, 64, 80, dtype=torch.bool)
    masks[:, 10:40, 20:60] = True
    target = {"boxes": torch.tensor([[20.0, 10, 60, 40]]), "labels": torch.tensor([1]), "masks": masks}
    targets = [target, {**target, "masks": torch.nn.functional.pad(masks, (0, 16))[:, :60]}]

    def losses() -> dict[str, float]:
        torch.manual_seed(1)
        return {name: loss.item() for name, loss in model(images, targets).items()}

    expected = losses()
    apply_layout(model, LAST)
    assert losses() == pytest.approx(expected, rel=1e-3)


def test_weights_and_checkpoints_of_channels_last_are_ordinary_ones(tmp_path: Path) -> None:
    model = toy()
    apply_layout(model, LAST)
    optimizer = build_optimizer(model, LAST)
    learn(model, batches(2), LAST, optimizer)
    save_weights(model, tmp_path / "model.safetensors")
    plain = toy(1)
    load_weights(plain, tmp_path / "model.safetensors")
    assert all(torch.equal(weights(plain)[name], value) for name, value in weights(model).items())

    store = CheckpointStore(tmp_path / "checkpoints")
    store.save(2, model, optimizer)
    resumed = toy(1)
    apply_layout(resumed, LAST)
    again = build_optimizer(resumed, LAST)
    start = store.load_latest(resumed, again, CPU)
    learn(model, batches(1), LAST, optimizer, start=2)
    learn(resumed, batches(1), LAST, again, start=start)
    assert all(torch.equal(weights(resumed)[name], value) for name, value in weights(model).items())


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The graphs that are compiled: traced as ever, but not turned into machine code, which takes minutes."""
    compiled: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        compiled.append(graph)
        return graph.forward

    def compile_module(module: nn.Module, **options: Any) -> None:
        module._compiled_call_impl = torch.compile(module._call_impl, backend=backend, **options)

    monkeypatch.setattr(nn.Module, "compile", compile_module)
    torch._dynamo.reset()
    yield compiled
    torch._dynamo.reset()


def test_a_compiled_backbone_takes_every_size_in_one_graph(graphs: list[Any]) -> None:
    torch.manual_seed(0)
    model = build_model("pointrend_rcnn_tiny_fpn", num_classes=2, min_size=64, max_size=96)
    sizes = [(2, 96, 160), (3, 160, 192), (2, 256, 320)]
    images = [torch.rand(count, 3, height, width) for count, height, width in sizes]
    expected = [model.backbone(image)["p2"].detach() for image in images]
    names = list(model.state_dict())
    apply_layout(model, schedule(compile=True))
    for image, p2 in zip(images, expected, strict=True):
        torch.testing.assert_close(model.backbone(image)["p2"], p2)
    assert len(graphs) == 1
    assert list(model.state_dict()) == names


def test_a_compiled_model_trains_and_is_saved_under_its_own_names(graphs: list[Any], tmp_path: Path) -> None:
    plan, model, plain = schedule(compile=True), toy(), toy()
    apply_layout(model, plan)
    examples = [batch(1), batch(2, side=12), batch(3, side=9)]
    losses = [u.loss for u in learn(plain, examples)]
    assert [u.loss for u in learn(model, examples, plan)] == pytest.approx(losses, rel=1e-4)
    assert graphs
    save_weights(model, tmp_path / "model.safetensors")
    load_weights(toy(1), tmp_path / "model.safetensors")


def test_a_model_without_a_backbone_is_not_compiled() -> None:
    with pytest.raises(ValueError, match="Linear has no backbone"):
        apply_layout(nn.Linear(2, 2), schedule(compile=True))
