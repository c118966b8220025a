"""A short real training of each task with the pipeline's own loop, and its scores with the pipeline's own metrics."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from checkout import ROOT

from acceptance.rows import Budget, DisagreementError, NotRunError, Result, Task

if TYPE_CHECKING:
    from pipeline.config.experiments import RunConfig
    from pipeline.data.discover import Source
    from pointrend.specs import Task as Kind

WEIGHTS = ROOT / "pipeline" / "synthetic" / "weights"  # the tiny networks', which quick trainings start from
LEARNING_RATE = {"instance": 0.01, "semantic": 0.02}
SETTING = "acceptance"


def _settings(kind: "Kind", device: torch.device, quick: bool) -> "RunConfig":
    """What is trained: ResNets from scratch, or with ``quick`` a few updates of tiny networks with shipped weights."""
    from pipeline.config.experiments import RunConfig

    updates, batch = (8, 2) if quick else (400, 8)
    rate = LEARNING_RATE[kind]
    model: dict[str, Any] = {"pretrained_backbone": None, "norm": "group"}
    schedule: dict[str, Any] = {"batch_size": batch, "checkpoint_every": updates}
    schedule |= {"warmup": {"updates": updates // 8, "learning_rate": rate / 20}}
    if device.type == "cuda":
        schedule |= {"precision": "bfloat16", "channels_last": True}
    if kind == "instance":
        side = 192 if quick else 512
        model |= {"name": "pointrend_rcnn_tiny_fpn" if quick else "pointrend_rcnn_r50_fpn_coco"}
        model |= {"train_min_sizes": [side - 32, side, side + 32], "test_min_size": side, "max_size": 2 * side}
        model |= {"detections_per_image": 50 if quick else 300, "rois_per_image": 128 if quick else 512}
        last = updates // 5
        phases = [(updates - last, rate), (last, rate / 10)]
        schedule["phases"] = [{"updates": count, "learning_rate": value} for count, value in phases]
        points = 196
    else:
        side = 128 if quick else 320
        model |= {"name": "pointrend_semantic_fpn_tiny" if quick else "pointrend_semantic_fpn_r101_cityscapes"}
        model |= {"crop_size": [side, side * 3 // 2], "scales": {"smallest": 0.75, "largest": 1.25, "step": 16}}
        model |= {"color_augmentation": True, "max_class_share": None}
        schedule["poly"] = {"updates": updates, "learning_rate": rate, "power": 0.9}
        points = side * side // 64
    start = WEIGHTS / f"{'shapes_detector' if kind == 'instance' else 'streets_segmenter'}.safetensors"
    sampling = {"strategy": "biased", "num_points": points, "oversample_ratio": 3.0, "importance_sample_ratio": 0.75}
    return RunConfig.model_validate(
        {
            "run": f"{kind}-0",
            "experiment": kind,
            "dataset": kind,
            "seed": 0,
            "starts_from": str(start) if quick else None,
            "fine_tune": quick,
            "model": model,
            "sampling": sampling,
            "schedule": schedule,
        }
    )


def train(kind: "Kind", source: "Source", device: torch.device, quick: bool, budget: Budget) -> Result:
    """Prepares a dataset, trains on it, and predicts and scores its val images.

    Raises:
        DisagreementError: if the loss has not fallen.
        NotRunError: if the time is over before the end of the training.
        UserError: if the data are of the other task, or cannot be read.
    """
    from pipeline.config.evaluations import EvaluationConfig
    from pipeline.data.cpus import usable_cpus
    from pipeline.data.discover import discover
    from pipeline.data.manifest import read_prepared
    from pipeline.data.prepare import expected_images, prepare
    from pipeline.data.storage import Storage
    from pipeline.errors import UserError
    from pipeline.evaluation.run import predict, score
    from pipeline.evaluation.trained_run import TrainedRun
    from pipeline.progress import progress
    from pipeline.training.loop import Update
    from pipeline.training.run import Workers, train_run
    from pipeline.training.training import Training

    config = _settings(kind, device, quick)
    if kind == "instance":
        rendering = {"resolution": 28 if quick else 224, "num_points": 784}
    else:
        rendering = {"num_points": 1024 if quick else 8096}
    settings = EvaluationConfig.model_validate({SETTING: rendering})
    losses: list[float] = []

    def observe(update: Update) -> None:
        budget.check(f" after update {update.number} of {config.schedule.updates}")
        if update.number % 10 == 0 or update.number == 1 or quick:  # reading a loss waits for the device
            losses.append(update.loss)

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        dataset = discover(source)
        bar = progress("check the data", expected_images(dataset))
        prepare(dataset, ".", folder / "prepared", folder / "pictures.parquet", bar)
        prepared, images = read_prepared(folder / "prepared"), Storage(dataset.root)
        if prepared.task != kind:
            raise UserError(f"{source.data}: holds {prepared.task} labels; expected {kind} ones")
        start = Path(config.starts_from) if config.starts_from else None
        training = Training(config, folder / "prepared", images, "acceptance", folder / "runs", start)
        alone = Workers(0, 1, device, lambda value: value, lambda metrics: None, lambda: False)
        processes = 0 if quick else min(8, usable_cpus())
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        begun = time.monotonic()
        train_run(
            training, alone, images_per_worker=None, loader_processes=processes, notify=lambda: None, observe=observe
        )
        trained = time.monotonic() - begun
        peak = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None
        (folder / "output").mkdir()
        run = TrainedRun(config, folder / "prepared", images, training.weights)
        predict(run, settings, device, folder / "chunks", folder / "output")
        metrics = score(prepared, folder / "output", SETTING, settings.root[SETTING]).metrics
        evaluated = time.monotonic() - begun - trained
        names = {"AP": "mask AP", "boundary_AP": "boundary AP", "mIoU": "mIoU"}
        quarter = max(1, len(losses) // 4)
        first, last = (sum(part) / len(part) for part in (losses[:quarter], losses[-quarter:]))
        figures = {
            **{label: round(metrics[name], 2) for name, label in names.items() if name in metrics},
            "updates": config.schedule.updates,
            "train s": trained,
            "evaluate s": evaluated,
            "peak MB": peak,
            "first loss": first,
            "last loss": last,
            "train images": prepared.manifest("train").num_rows,
            "val images": prepared.manifest("val").num_rows,
        }
        if not quick and not last < first:
            raise DisagreementError("the loss has not fallen", figures)
        start_text = f"from {start.name}" if start else "from scratch"
        layout = ", channels last" if config.schedule.channels_last else ""
        note = f"{start_text}, batch {config.schedule.batch_size}, {config.schedule.precision}{layout}"
        return Result(figures, checked=not quick, note=note)


def tasks(
    instances: tuple[Path, ...] | None, semantic: Path | None, device: torch.device, quick: bool, budget: Budget
) -> Iterator[Task]:
    """One row for each kind of data.

    Args:
        instances: an instances file in COCO's format and the folder of its images, to train on and to score on.
        semantic: a folder of images and label PNGs in a layout that ``pointrend train`` takes.
        device: trains and predicts.
        quick: a few updates of tiny networks, whose scores mean nothing.
        budget: a training ends when it is used up.
    """

    def with_instances() -> Result:
        if instances is None:
            raise NotRunError("no data was given; name it with --instances")
        from pipeline.data.discover import Source

        data, images, val, val_images = instances
        source = Source(data, images=images, val=val, val_images=val_images)
        return train("instance", source, device, quick, budget)

    def with_labels() -> Result:
        if semantic is None:
            raise NotRunError("no data was given; name it with --semantic")
        from pipeline.data.discover import Source

        return train("semantic", Source(semantic), device, quick, budget)

    yield "instances", with_instances
    yield "semantic labels", with_labels
