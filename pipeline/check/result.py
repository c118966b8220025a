"""Ends a check once its workers have: compares weights, joins and scores predictions, says what was found or failed."""

import json
import shutil
import statistics

import torch
from torch import Tensor

from pipeline.check.task import CheckTask, Found
from pipeline.check.worker import RESUMED, WHOLE, checkpoint_file, evaluated_run, read_workers, training_of
from pipeline.data.manifest import read_prepared
from pipeline.errors import UserError
from pipeline.evaluation.outputs import labels_folder, predictions_file
from pipeline.evaluation.run import gather, score
from pipeline.files import write_json
from pipeline.training.checkpoint import CheckpointStore
from pipeline.training.record import SUMMARY, WEIGHTS
from pointrend.weights import read_state_dict

#: The most that weights of a resumed training may differ where arithmetic is not deterministic, as a share of what the
#: last update changed. A lost momentum, or another batch, differs by about as much as the update itself.
ROUNDING = 0.1
#: Two summands have one sum; more of them are added in an order that DistributedDataParallel may change.
DETERMINISTIC_WORKERS = 2


class ResumeError(UserError):
    """A training that was resumed ended with other weights than one that was not."""


def finish(task: CheckTask) -> Found:
    """Writes the result of a check whose workers have all ended, and deletes everything else in its folder.

    Raises:
        ResumeError: if the resumed training differs from the other one.
        UserError: if the predictions are incomplete or cannot be scored.
    """
    workers = read_workers(task)
    first = workers[0]
    whole, resumed = training_of(task, WHOLE), training_of(task, RESUMED)
    exact = first["device_memory"] is None and first["workers"] <= DETERMINISTIC_WORKERS
    states = [read_state_dict(each.storage / WEIGHTS) for each in (whole, resumed)]
    before = torch.load(checkpoint_file(CheckpointStore(whole.storage / "checkpoints")), weights_only=True, mmap=True)
    resume = compare(states[0], states[1], before["model"], exact)

    run = evaluated_run(task, task.config)
    predictions = task.path / "predictions"
    predictions.mkdir()
    gather(run, task.settings, task.path / "chunks", predictions)
    dataset, masks = read_prepared(task.path / "prepared"), 0
    for name, setting in task.settings.root.items():
        score(dataset, predictions, name, setting.model_copy(update={"resamples": 0}))
        results = predictions_file(predictions, name)
        folder = labels_folder(predictions, name)
        masks += len(json.loads(results.read_text())) if results.is_file() else len(list(folder.rglob("*.png")))
    found = Found(
        seconds_per_update=statistics.fmean(first["seconds"]),
        memory=max(each["memory"] for each in workers),
        device_memory=first["device_memory"],
        device=first["device"],
        workers=first["workers"],
        passes=json.loads((whole.storage / SUMMARY).read_text())["passes"],
        losses=first["losses"],
        resume=resume,
        masks=masks,
    )
    for path in task.path.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    write_json(task.result, found.model_dump())
    return found


def compare(whole: dict[str, Tensor], resumed: dict[str, Tensor], before: dict[str, Tensor], exact: bool) -> str:
    """How far a resumed training's weights are from those of one that was not interrupted.

    Args:
        whole, resumed: the weights of each.
        before: the weights in the checkpoint, before the last update.
        exact: whether the arithmetic is deterministic, so that the weights must be equal.

    Raises:
        ResumeError: if they differ, by more than rounding where ``exact`` is false; or if the update changed nothing.
    """
    step = max(_distance(whole[name], before[name]) for name in whole)
    if step == 0:
        raise ResumeError("the last update changed no weight; the learning rate is 0, or nothing is trained")
    if all(torch.equal(value, resumed[name]) for name, value in whole.items()):
        return "equal bits"
    worst = max(whole, key=lambda name: _distance(whole[name], resumed[name]))
    share = _distance(whole[worst], resumed[worst]) / step
    if exact or share > ROUNDING:
        raise ResumeError(
            f"resumed from its checkpoint, the training ends with other weights: {worst} differs by {share:.2g} of "
            "what the last update changed; the checkpoint lacks a part of its state, or its batches depend on "
            "more than seed and update"
        )
    return f"within {share:.1g} of an update"


def _distance(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).abs().max()) if a.numel() else 0.0
