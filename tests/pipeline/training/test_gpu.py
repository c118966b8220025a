"""The loop on a CUDA device."""

import copy
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset
from toy_training import CPU, batch, batches, learn, same, schedule, toy, weights

from pipeline.data.dataset import Example
from pipeline.data.samplers import Draw, TrainingBatches
from pipeline.data.semantic_transforms import draw_color_change
from pipeline.training.checkpoint import CheckpointStore
from pipeline.training.loading import load_batches
from pipeline.training.loop import DivergedTrainingError, Update, apply_layout, build_optimizer
from pointrend import build_model

pytestmark = pytest.mark.gpu
CUDA = torch.device("cuda")


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-4), ("tf32", 1e-2), ("bfloat16", 5e-2)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_losses_are_those_of_the_cpu(precision: str, tolerance: float, channels_last: bool) -> None:
    expected = [u.loss for u in learn(toy(), batches(3))]
    plan = schedule(precision=precision, channels_last=channels_last)
    model = toy().to(CUDA)
    apply_layout(model, plan)
    updates = learn(model, batches(3), plan, device=CUDA)
    assert [u.loss for u in updates] == pytest.approx(expected, rel=tolerance)
    assert all(np.isfinite(u.gradient_norm) for u in updates)


class Images(Dataset[Example]):
    def __getitem__(self, draw: Draw) -> Example:
        return batch(draw.image)[0]


def test_no_update_waits_for_the_device() -> None:
    model, plan = toy().to(CUDA), schedule()
    draws = TrainingBatches(np.zeros(4), batch_size=2, seed=0, start=0, stop=9)
    done: list[Update] = []

    def on_update(update: Update) -> None:
        # The first update also starts things up; the end of training is a check.
        done.append(update)
        torch.cuda.set_sync_debug_mode("error" if update.number < 8 else "default")

    try:
        learn(model, load_batches(Images(), draws, 0, CUDA), plan, device=CUDA, on_update=on_update)  # type: ignore[arg-type]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(done) == 9
    assert all(np.isfinite(update.loss) for update in done)


@pytest.mark.parametrize("bad", [1, 4, 13])
def test_weights_of_a_run_that_diverged_are_those_before_the_bad_update(bad: int) -> None:
    good, model = toy().to(CUDA), toy().to(CUDA)
    learn(good, batches(bad - 1), device=CUDA)
    with pytest.raises(DivergedTrainingError, match=f"update {bad}: not finite.* {10 * bad}, {10 * bad + 1}"):
        learn(model, batches(25, bad), device=CUDA)
    for name, value in weights(good).items():
        torch.testing.assert_close(weights(model)[name], value)


def test_a_resumed_run_goes_on_with_the_same_weights(tmp_path: Path) -> None:
    store, plan = CheckpointStore(tmp_path), schedule()
    model = toy().to(CUDA)
    optimizer = build_optimizer(model, plan)
    learn(model, batches(3), plan, optimizer, CUDA)
    store.save(3, model, optimizer)
    # On another kind of device, too.
    for device in (CUDA, CPU):
        resumed = toy(1).to(device)
        again = build_optimizer(resumed, plan)
        assert store.load_latest(resumed, again, device) == 3
        assert same(weights(resumed), weights(model))
        learn(resumed, batches(2), plan, again, device, start=3)


def examples() -> Iterator[Example]:
    generator = torch.Generator().manual_seed(0)
    for seed in range(8):
        image = torch.randint(0, 256, (40, 60, 3), dtype=torch.uint8, generator=generator).permute(2, 0, 1)
        colors = draw_color_change(torch.Generator().manual_seed(seed))
        yield Example(seed, image, {}, size=(50, 75) if seed % 2 else None, colors=colors)


def test_images_travel_as_bytes_and_become_the_same_floats() -> None:
    for example in examples():
        expected, _ = example.to_device(CPU)
        pinned = example._replace(image=example.image.pin_memory())
        found, _ = pinned.to_device(CUDA)
        assert found.device.type == "cuda"
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.cpu(), expected, atol=1e-4, rtol=0)


def test_loaded_examples_are_pinned_bytes() -> None:
    draws = TrainingBatches(np.zeros(4), batch_size=2, seed=0, start=0, stop=2)
    for loaded in load_batches(Images(), draws, 1, CUDA):
        assert all(isinstance(example, Example) for example in loaded)
        assert all(example.image.is_pinned() and example.image.dtype == torch.uint8 for example in loaded)


def test_a_compiled_backbone_computes_the_same_at_several_sizes() -> None:
    torch.manual_seed(0)
    model = build_model("pointrend_rcnn_tiny_fpn", num_classes=2, min_size=64, max_size=96).to(CUDA)
    plain = copy.deepcopy(model)
    names = list(model.state_dict())
    apply_layout(model, schedule(compile=True))
    for height, width in ((96, 160), (160, 192), (256, 320)):
        images = torch.rand(2, 3, height, width, device=CUDA)
        expected = plain.backbone(images)
        for name, feature in model.backbone(images).items():
            torch.testing.assert_close(feature, expected[name], atol=1e-2, rtol=1e-2)
        sum(feature.square().mean() for feature in model.backbone(images).values()).backward()
    assert list(model.state_dict()) == names
