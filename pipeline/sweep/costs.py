"""What a setting costs: multiply-adds, counted, and seconds of rendering, measured."""

import functools
import json
import statistics
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from pipeline.cluster.prediction import predict_in_chunks
from pipeline.config.clusters import ClusterConfig
from pipeline.config.evaluations import EvaluationSetting, RenderingConfig
from pipeline.config.experiments import RunConfig
from pipeline.data.dataset import EvaluationImages
from pipeline.evaluation.chunks import prefetched
from pipeline.evaluation.trained_run import TrainedRun
from pointrend.complexity import spec_complexity
from pointrend.instance import MaskRCNN
from pointrend.specs import MODELS, InstanceSpec


def multiply_adds(config: RunConfig, num_classes: int, setting: EvaluationSetting) -> int | None:
    """Of the mask head for one region, coarse prediction and subdivision; none of a semantic model, which has none."""
    spec = MODELS[config.model.name]
    size = config.point_head_size
    if not isinstance(spec, InstanceSpec) or not isinstance(setting, RenderingConfig) or size is None:
        return None
    layers, channels = size
    spec = replace(spec, point_layers=layers, point_channels=channels)
    rendering = setting.build()
    assert rendering is not None  # a model with a point head has a number of points
    return spec_complexity(spec, num_classes, rendering).multiply_adds


class RenderingTimer:
    """Times every setting on the same boxes and features, image by image, as a worker of ``predict_in_chunks``."""

    def __init__(self, run: TrainedRun, settings: Mapping[str, RenderingConfig], device: torch.device) -> None:
        model = run.model(device)
        assert isinstance(model, MaskRCNN)
        self._model, self._settings, self._device = model, settings, device
        self._images = EvaluationImages(run.dataset(), run.images)
        self._warm = False

    @torch.inference_mode()
    def __call__(self, chunk: range, folder: Path) -> None:
        seconds: dict[str, list[float]] = {name: [] for name in self._settings}
        for _, image in prefetched(self._images, chunk):
            found = self._model.detect([image.to(self._device)])
            for _ in range(1 if self._warm else 2):  # the first time also starts things up
                taken = {name: self._time(found, setting) for name, setting in self._settings.items()}
            self._warm = True
            for name, value in taken.items():
                seconds[name].append(value)
        (folder / "seconds.json").write_text(json.dumps(seconds))

    def _time(self, found: object, setting: RenderingConfig) -> float:
        self._synchronise()
        begun = time.perf_counter()
        self._model.region_masks(found, setting.build())  # type: ignore[arg-type]
        self._synchronise()
        return time.perf_counter() - begun

    def _synchronise(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize()


def rendering_seconds(
    run: TrainedRun, settings: Mapping[str, RenderingConfig], images: int, cluster: ClusterConfig, folder: Path
) -> dict[str, float]:
    """Seconds that the mask head takes for an image under each setting: the median over the first images.

    The detector's own time is the same for all settings and not in it.

    Args:
        run: the run.
        settings: by name.
        images: how many to time.
        cluster: where; one worker of it is enough, and has no other beside it.
        folder: an existing one, that the worker can reach.
    """
    images = min(images, run.dataset().manifest("val").num_rows)
    alone = cluster.model_copy(update={"workers": min(cluster.workers, 1)})
    parts = predict_in_chunks(
        functools.partial(RenderingTimer, run, settings), images, folder, alone, f"time {run.config.run}"
    )
    chunks = [json.loads((part / "seconds.json").read_text()) for part in parts]
    return {name: statistics.median(value for chunk in chunks for value in chunk[name]) for name in settings}
