"""The cost of a setting: multiply-adds, which are counted, and seconds of rendering, which are measured."""

import statistics
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import torch

from pipeline.config.evaluations import EvaluationSetting, RenderingConfig
from pipeline.config.experiments import RunConfig
from pipeline.data.dataset import EvaluationImages
from pipeline.data.transforms import to_float
from pipeline.evaluation.chunks import prefetched
from pipeline.evaluation.speed import seconds_of
from pipeline.evaluation.trained_run import TrainedRun
from pointrend.complexity import spec_complexity
from pointrend.instance import MaskRCNN
from pointrend.specs import MODELS, InstanceSpec


def multiply_adds(config: RunConfig, num_classes: int, setting: EvaluationSetting) -> int | None:
    """The multiply-adds of the mask head for one region; None for a model without a mask head or point head."""
    spec = MODELS[config.model.name]
    size = config.point_head_size
    if not isinstance(spec, InstanceSpec) or not isinstance(setting, RenderingConfig) or size is None:
        return None
    layers, channels = size
    spec = replace(spec, point_layers=layers, point_channels=channels)
    rendering = setting.build()
    assert rendering is not None  # a model with a point head has a number of points
    return spec_complexity(spec, num_classes, rendering).multiply_adds


@torch.inference_mode()
def rendering_seconds(
    run: TrainedRun, settings: Mapping[str, RenderingConfig], images: int, device: torch.device
) -> dict[str, float]:
    """The seconds that the mask head takes per image under each setting: the median over some val images.

    Every setting is timed on the same boxes and features. The time of the detector, which all settings share, is not
    included. ``images`` is the number of val images to time.
    """
    model = run.model(device)
    assert isinstance(model, MaskRCNN)
    dataset = run.dataset()
    indices = range(min(images, dataset.manifest("val").num_rows))
    seconds: dict[str, list[float]] = {name: [] for name in settings}
    for number, (_, image) in enumerate(prefetched(EvaluationImages(dataset, run.images), indices)):
        found = model.detect([to_float(image.to(device))])
        for _ in range(1 if number else 2):  # the first call also initialises kernels and memory pools
            taken = {
                name: seconds_of(partial(model.region_masks, found, s.build()), device) for name, s in settings.items()
            }
        for name, value in taken.items():
            seconds[name].append(value)
    return {name: statistics.median(values) for name, values in seconds.items()}
