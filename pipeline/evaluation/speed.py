"""How many images a second a trained instance model predicts, one at a time, beside nothing else of its job."""

import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from pydantic import PositiveFloat, PositiveInt, RootModel
from torch import Tensor

from pipeline.config.evaluations import EvaluationConfig, RenderingConfig
from pipeline.config.reader import Strict, load
from pipeline.data.dataset import EvaluationImages
from pipeline.data.transforms import to_float
from pipeline.evaluation.chunks import prefetched
from pipeline.evaluation.scores import Scores
from pipeline.evaluation.trained_run import TrainedRun
from pipeline.files import write_json
from pipeline.training.precision import float32_math
from pointrend.instance import MaskRCNN
from pointrend.specs import Rendering

METRIC = "images_per_second"  # also in `pipeline.report.tables.table`, which needs no torch
WARM_UP = 3  # calls before the first that counts: they initialise kernels and memory pools


class Speed(Strict):
    """What an image takes under one setting, from its pixels on the device to the masks of its regions.

    Detector and mask head are in it; reading the image and pasting the masks onto its pixels are not.
    """

    seconds: PositiveFloat  # the median
    images: PositiveInt
    device: str


class _Speeds(RootModel[dict[str, Speed]]):
    """The content of the file."""


def timed_settings(settings: EvaluationConfig) -> dict[str, RenderingConfig]:
    """The settings that are timed."""
    return {
        name: setting
        for name, setting in settings.root.items()
        if isinstance(setting, RenderingConfig) and setting.timed_images
    }


def write_speeds(run: TrainedRun, settings: EvaluationConfig, device: torch.device, chunks: Path) -> None:
    """Times the settings that are to be timed, and keeps the result in the folder of the predictions.

    Args:
        run: the trained run.
        settings: the evaluation settings.
        device: the device to time on. Nothing else should run on it.
        chunks: the folder of the predictions; what it has already is not timed again.
    """
    timed = timed_settings(settings)
    if not timed or _file(chunks).is_file():
        return
    model, dataset = run.model(device), run.dataset()
    assert isinstance(model, MaskRCNN)  # the configuration allows no other for these settings
    images, count = EvaluationImages(dataset, run.images), dataset.manifest("val").num_rows
    speeds = {}
    with float32_math(run.config.schedule.precision), torch.inference_mode():
        for name, setting in timed.items():
            assert setting.timed_images is not None
            seconds: list[float] = []
            for _, pixels in prefetched(images, range(min(setting.timed_images, count))):
                predict = partial(_predict, model, to_float(pixels.to(device)), setting.build())
                for _ in range(0 if seconds else WARM_UP):
                    predict()
                seconds.append(seconds_of(predict, device))
            speeds[name] = Speed(seconds=statistics.median(seconds), images=len(seconds), device=device_text(device))
    write_json(_file(chunks), {name: speed.model_dump() for name, speed in speeds.items()})


def _predict(model: MaskRCNN, image: Tensor, rendering: Rendering | None) -> None:
    model.region_masks(model.detect([image]), rendering)


def with_speeds(scores: dict[str, Scores], chunks: Path) -> dict[str, Scores]:
    """Scores, with the images a second of the settings that :func:`write_speeds` has timed, and where."""
    speeds = load(_Speeds, _file(chunks)).root if _file(chunks).is_file() else {}
    return scores | {
        name: scores[name]._replace(
            metrics={**scores[name].metrics, METRIC: 1 / speed.seconds},
            details={**scores[name].details, "timing": speed.model_dump()},
        )
        for name, speed in speeds.items()
    }


def seconds_of(call: Callable[[], object], device: torch.device) -> float:
    """The seconds that a call takes, until the device has done its work."""
    synchronise = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    synchronise()
    begun = time.perf_counter()
    call()
    synchronise()
    return time.perf_counter() - begun


def device_text(device: torch.device) -> str:
    """The device, and the threads of its process: "NVIDIA H100, 4 CPU threads"."""
    threads = torch.get_num_threads()
    cpu = f"{threads} CPU thread{'' if threads == 1 else 's'}"
    return f"{torch.cuda.get_device_name(device)}, {cpu}" if device.type == "cuda" else f"{cpu} ({platform.machine()})"


def _file(chunks: Path) -> Path:
    return chunks / "speed.json"
