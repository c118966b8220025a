"""Checks trainings on any CPU: small images and batches, drawn data, and two processes joined by gloo, without Ray.

What it finds is what small sizes can show: parameters without a gradient, settings that do not go together, losses that
are not finite, a checkpoint that lacks something, an evaluation that fails. Its times and memory mean nothing.
"""

import multiprocessing
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.check.drawn import draw_dataset
from pipeline.check.remedies import explain
from pipeline.check.scale import CheckedScale, Outcome, Report
from pipeline.check.task import CheckTask, Failure, Found, Kind, read_failure, three_updates
from pipeline.config.clusters import ClusterConfig
from pipeline.config.datasets import CocoDataset, LabelDataset
from pipeline.config.experiments import RunConfig, is_weights_file
from pipeline.config.models import InstanceModelConfig
from pipeline.config.reader import load
from pipeline.data.manifest import read_prepared
from pipeline.synthetic.shapes import CATEGORIES
from pointrend.specs import MODELS

WORKERS = 2
#: The longest that one training may take.
SECONDS = 600.0
POLL_SECONDS = 0.02
#: Imported once, in the server that the workers are forked from.
LIBRARIES = ["pipeline.check.processes"]

SHORT, LONG = 64, 128  # edges of images and crops, in pixels
ROIS, DETECTIONS = 16, 4  # of an image


def shrunk(config: RunConfig) -> RunConfig:
    """A training with a batch of one image for each worker, small images, and without pretrained weights.

    Its network is the same, but for batch norm: torch computes its statistics over several workers only on GPUs, so
    group norm takes its place.
    """
    model = config.model
    changes: dict[str, object]
    if isinstance(model, InstanceModelConfig):
        changes = {"train_min_sizes": [SHORT, SHORT + 32], "test_min_size": SHORT, "max_size": LONG}
        changes |= {"rois_per_image": ROIS, "detections_per_image": DETECTIONS}
    else:
        height, width = model.crop_size
        shorter = min(height, width)
        changes = {"crop_size": [max(round(side * SHORT / shorter / 32), 1) * 32 for side in (height, width)]}
        if model.norm == "batch":
            changes |= {"norm": "group", "pretrained_backbone": None}
    small = model.model_copy(update=changes)
    fine_tune = config.fine_tune or (bool(small.pretrained_backbone) and config.starts_from is None)
    schedule = three_updates(config.schedule).model_copy(update={"batch_size": WORKERS})
    return config.model_copy(update={"model": small, "schedule": schedule, "fine_tune": fine_tune, "validation": None})


def starts_at_random(config: RunConfig) -> bool:
    """Whether a shrunk training starts from drawn weights in place of pretrained ones."""
    return bool(config.model.pretrained_backbone) and not is_weights_file(config.starts_from)


class _Shrunk:
    """Makes the shrunk checks of a scale in a folder of their own."""

    def __init__(self, checked: CheckedScale, folder: Path) -> None:
        self._checked, self._folder = checked, folder
        self._drawn: dict[tuple[str, int], tuple[Path, Path]] = {}

    def task(self, kind: Kind) -> CheckTask:
        """The shrunk check of a training; draws its dataset the first time that one asks for it."""
        config = shrunk(kind.first)
        prepared, images = self._data(kind.first)
        weights, start = None, None
        if is_weights_file(config.starts_from):
            weights, _ = self._checked.start(config)
        elif config.starts_from is not None:
            start = shrunk(self._checked.configs[config.starts_from])
        return CheckTask(
            name=config.run,
            key=kind.key,
            config=config,
            start=start,
            settings=kind.settings,
            cluster=ClusterConfig(workers=WORKERS),
            prepared=str(prepared),
            images=str(images),
            weights=weights,
            folder=str(self._folder / config.run),
            random=starts_at_random(config) or start is not None,
        )

    def _data(self, config: RunConfig) -> tuple[Path, Path]:
        """The prepared dataset that stands in for a run's, and its images."""
        stage = self._checked.stage
        dataset, prepared = stage.project.dataset(config.dataset), stage.outputs.prepared(config.dataset)
        if (prepared / "dataset.json").is_file():
            classes = read_prepared(prepared).num_classes
        elif isinstance(dataset, CocoDataset | LabelDataset) and dataset.classes:
            classes = len(dataset.classes)
        elif isinstance(dataset, CocoDataset) and dataset.synthetic:
            classes = len(CATEGORIES)
        else:
            classes = MODELS[config.model.name].num_classes
        key = config.dataset, classes
        if key not in self._drawn:
            self._drawn[key] = draw_dataset(config.dataset, dataset, classes, self._folder / "data")
        return self._drawn[key]


def check_shrunk(checked: CheckedScale, on_end: Callable[[Outcome], None]) -> Report:
    """Checks the distinct trainings of a scale one after the other, each with two worker processes.

    Args:
        checked: the scale.
        on_end: called when the check of a training has ended.
    """
    parent = checked.stage.home.resolve() / ".pointrend" / "check"
    parent.mkdir(parents=True, exist_ok=True)
    report = Report(checked.stage.params.scale, cluster=None)
    report.notes.append(
        f"shrunk: {WORKERS} workers on this machine's CPU, a batch of {WORKERS} drawn images of about {SHORT} pixels; "
        "seconds and memory say nothing about the real trainings"
    )
    # Where processes cannot be forked safely, each imports torch anew.
    context = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
    if sys.platform == "linux":
        context.set_forkserver_preload(LIBRARIES)
    random, regrouped = list[str](), list[str]()
    with tempfile.TemporaryDirectory(dir=parent, prefix="shrunk-") as folder:
        shrinking = _Shrunk(checked, Path(folder))
        for kind in checked.kinds:
            task = shrinking.task(kind)
            if (norm := task.config.model.norm) != kind.first.model.norm:
                regrouped.append(kind.first.experiment)
            if task.random or norm != kind.first.model.norm:
                random.append(kind.first.experiment)
            ended = _check(task, context)
            if isinstance(ended, Failure):
                outcome = Outcome(kind, failure=explain(ended, task, "two_cpu_workers"))
            else:
                outcome = Outcome(kind, ended)
            report.outcomes.append(outcome)
            on_end(outcome)
    if random:
        whose = "all networks" if len(random) == len(checked.kinds) else ", ".join(random)
        report.notes.append(f"started at random, without pretrained weights: {whose}")
    if regrouped:
        report.notes.append(f"with group norm, as CPUs cannot share batch norm's statistics: {', '.join(regrouped)}")
    return report


def _check(task: CheckTask, context: multiprocessing.context.BaseContext) -> Found | Failure:
    from pipeline.check.processes import conclude, work  # imports torch

    shutil.rmtree(task.path, ignore_errors=True)
    task.path.mkdir(parents=True)
    text = task.model_dump_json()
    processes = [context.Process(target=work, args=(text, rank)) for rank in range(WORKERS)]  # type: ignore[attr-defined]
    ended = _wait(processes)
    if all(code == 0 for code in ended):
        ended = _wait([context.Process(target=conclude, args=(text,))])  # type: ignore[attr-defined]
    if task.result.is_file():
        return load(Found, task.result)
    failure = read_failure(task.path) or Failure(kind="killed", message=_why(ended), fixable=True)
    shutil.rmtree(task.path)
    return failure


def _why(codes: Sequence[int | None]) -> str:
    """Why processes have ended that could not say it themselves."""
    if any(code == -signal.SIGKILL for code in codes):
        return "a worker was killed, as the system does when memory is out; close other programs, or check one run"
    return f"no end within {SECONDS:.0f} s, or a worker died (exit codes {', '.join(map(str, codes))})"


def _wait(processes: Sequence[multiprocessing.process.BaseProcess]) -> list[int | None]:
    """Runs processes to their ends. If one fails or time is out, the others are killed: they would wait for it."""
    for process in processes:
        process.start()
    end = time.monotonic() + SECONDS
    try:
        while any(process.is_alive() for process in processes) and time.monotonic() < end:
            if any(process.exitcode for process in processes):
                time.sleep(1.0)  # the others may be about to say why, too
                break
            time.sleep(POLL_SECONDS)
        return [process.exitcode for process in processes]
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
            process.join()
