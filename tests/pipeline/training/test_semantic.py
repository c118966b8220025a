"""Training semantic models: what a configuration builds, and that a resumed run equals an uninterrupted one."""

from pathlib import Path
from typing import Any

import pytest
import torch
from made_up_labels import OWN, prepared_labels
from torch import Tensor, nn
from torch.utils.data import DataLoader

from pipeline.config.experiments import RunConfig
from pipeline.config.models import SamplingConfig
from pipeline.config.project import Project
from pipeline.config.schedules import Poly, ScheduleConfig, Warmup
from pipeline.data.samplers import ALONE, TrainingBatches
from pipeline.data.storage import Storage
from pipeline.errors import UserError
from pipeline.training.checkpoint import CheckpointStore
from pipeline.training.loop import Update, build_optimizer, train
from pipeline.training.model import build_run_model
from pipeline.training.run import training_images, with_synchronised_batch_norm
from pointrend.semantic import SemanticSegmenter

CPU = torch.device("cpu")
UPDATES = 4


def config(repository: Path, model: str, **changes: Any) -> RunConfig:
    network = Project(repository).model(model).model_copy(update={"crop_size": [32, 32], **changes})
    return RunConfig(
        run="x",
        experiment="x",
        dataset="x",
        seed=5,
        model=network,
        sampling=SamplingConfig(strategy="biased", num_points=9, oversample_ratio=3.0, importance_sample_ratio=0.75)
        if network.has_point_head
        else None,
        schedule=ScheduleConfig(
            batch_size=2,
            warmup=Warmup(updates=1, learning_rate=0.001),
            poly=Poly(updates=UPDATES, learning_rate=0.01, power=0.9),
            head_multiplier=10.0,
        ),
    )


def build(run: RunConfig, seed: int = 0) -> SemanticSegmenter:
    torch.manual_seed(seed)
    model = build_run_model(run, 2, pretrained=False)
    assert isinstance(model, SemanticSegmenter)
    return model


def test_weights_carry_the_points_per_step(repository: Path) -> None:
    model = build(config(repository, "pointrend_semantic_fpn_tiny_camvid"))
    assert model.pointrend is not None
    assert model.pointrend.points_per_step == 675


def learn(run: RunConfig, data: Any, store: CheckpointStore, model: SemanticSegmenter, stop: int) -> list[Update]:
    """Trains from the newest checkpoint up to an update, and saves."""
    optimizer = build_optimizer(model, run.schedule)
    start = store.load_latest(model, optimizer, CPU)
    batches = TrainingBatches(data.groups, batch_size=2, seed=run.seed, start=start, stop=stop)
    updates: list[Update] = []
    loader = DataLoader(data, batch_sampler=batches, collate_fn=list)
    train(
        model,
        optimizer,
        loader,
        run.schedule,
        start=start,
        seed=run.seed,
        share=ALONE,
        device=CPU,
        on_update=updates.append,
    )
    store.save(stop, model, optimizer)
    return updates


# Dropout in DeepLabV3's head and batch norm's running statistics are all that a resumed run could get wrong.
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, repository: Path) -> None:
    run = config(repository, "pointrend_deeplabv3_tiny_camvid", norm="batch")
    prepared, storage = prepared_labels(tmp_path, OWN)
    data = training_images(run, prepared, Storage(storage.root))
    whole, half, rest = (build(run, seed) for seed in (0, 0, 1))
    updates = learn(run, data, CheckpointStore(tmp_path / "whole"), whole, UPDATES)
    learn(run, data, CheckpointStore(tmp_path / "parts"), half, 2)
    resumed = learn(run, data, CheckpointStore(tmp_path / "parts"), rest, UPDATES)
    assert [update.losses for update in updates[2:]] == [update.losses for update in resumed]
    assert set(updates[0].losses) == {"loss_semantic", "loss_semantic_point"}
    weights: dict[str, Tensor] = rest.state_dict()
    assert any("running_mean" in name for name in weights)
    assert all(torch.equal(weights[name], value) for name, value in whole.state_dict().items())


def test_the_head_learns_at_its_own_rate(repository: Path) -> None:
    # Appendix B: "the learning rate for ASPP and the prediction convolution are multiplied by 10"
    run = config(repository, "pointrend_deeplabv3_tiny_camvid")
    model = build(run)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    fast = {
        names[id(parameter)]
        for group in build_optimizer(model, run.schedule).param_groups
        if group["multiplier"] == 10
        for parameter in group["params"]
    }
    assert fast == {name for name in names.values() if name.startswith(("head.aspp.", "head.predictor."))}


def test_levels_reach_the_model(repository: Path) -> None:
    assert build(config(repository, "semantic_fpn_tiny_camvid", levels=["p3", "p4", "p5"])).head.stride == 8


def test_batch_norm_is_synchronised_over_workers_with_gpus(repository: Path) -> None:
    run = config(repository, "deeplabv3_tiny_camvid", norm="batch")
    model = build(run)
    layers = sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    parameters = [id(parameter) for parameter in model.parameters()]
    found = with_synchronised_batch_norm(model, run, torch.device("cuda"))
    assert sum(isinstance(module, nn.SyncBatchNorm) for module in found.modules()) == layers > 10
    assert [id(parameter) for parameter in found.parameters()] == parameters


def test_batch_norm_over_cpu_workers_is_refused(repository: Path) -> None:
    run = config(repository, "deeplabv3_tiny_camvid", norm="batch")
    with pytest.raises(UserError, match=r"run x: norm 'batch'.*take one worker, or norm 'group'"):
        with_synchronised_batch_norm(nn.Identity(), run, CPU)


def test_other_norms_stay(repository: Path) -> None:
    model = nn.Identity()
    assert with_synchronised_batch_norm(model, config(repository, "deeplabv3_tiny_camvid"), CPU) is model
