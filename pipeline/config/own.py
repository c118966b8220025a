"""A training of somebody's own data: its settings, derived from the data and the device, and its files in configs/."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from pipeline.config.datasets import DatasetConfig
from pipeline.config.project import Project
from pipeline.config.reader import ConfigError
from pipeline.files import atomic_file
from pointrend.specs import (
    IMAGENET_WEIGHTS,
    MODELS,
    PAPER_RENDERING,
    PAPER_SAMPLING,
    BackboneSource,
    DeepLabV3Spec,
    Task,
    task_of,
)
from pointrend.wording import counted

Head = Literal["pointrend", "4xconv", "dense"]

STEP = 32  # image sizes are multiples of it
EPOCHS, MIN_UPDATES, MAX_UPDATES = 15, 500, 20_000
#: The largest shorter edge, and the batch, that a device is given by default.
CPU_SIZE, CPU_CROP, GPU_SIZE, CPU_BATCH = 320, 192, 800, 4
#: Objects that are smaller, in pixels, are enlarged with their images, by at most this factor.
SMALL_OBJECT, ENLARGED = 32, 1.5
MANY_OBJECTS = 8  # of an image; half a batch has as much to learn from then
GIGABYTES_PER_IMAGE = 4  # of GPU memory, at GPU_SIZE
#: By default so many validations, or fewer, so that they predict at most this share of the images that are trained on.
VALIDATIONS, VALIDATED_SHARE = 10, 0.25
#: Of a batch of 16, as in Appendix A and B; tiny networks, whose batches differ little, have it at any batch.
LEARNING_RATE: dict[Task, float] = {"instance": 0.02, "semantic": 0.01}


@dataclass(frozen=True)
class Data:
    """What the settings depend on.

    Attributes:
        task: of the dataset.
        images: of the train split.
        height: the median of their shorter edges in pixels.
        width: the median of their longer edges in pixels.
        objects: the most objects of an image; 0 for semantic labels.
        mean_objects: their mean over images that have any.
        object_side: the median of the square roots of their areas in pixels; 0 for semantic labels.
        val_images: of the val split.
    """

    task: Task
    images: int
    height: int
    width: int
    objects: int = 0
    mean_objects: float = 0.0
    object_side: float = 0.0
    val_images: int = 0


@dataclass(frozen=True)
class Device:
    """What trains: a GPU of so many gigabytes, or CPU cores.

    Attributes:
        gpu_gigabytes: of memory; None without a GPU.
        cpus: CPU cores.
        assumed: whether the memory is not known, but taken to be as much.
    """

    gpu_gigabytes: float | None
    cpus: int
    assumed: bool = False

    @property
    def text(self) -> str:
        if not self.gpu_gigabytes:
            return counted(self.cpus, "CPU core")
        return f"a GPU{', taken to be one' if self.assumed else ''} of {self.gpu_gigabytes:.0f} GB"


@dataclass(frozen=True)
class Weights:
    """What a training starts from: a file, ImageNet's weights, or nothing.

    Attributes:
        file: the path of a file, relative to the project or absolute.
        norm: of the network that the file is of.
        imagenet: start from ImageNet's weights: torchvision's, or Detectron2's if torchvision has none.
        source: whose ImageNet weights those of a file with batch norm go back to.
    """

    file: str | None = None
    norm: str = "group"
    imagenet: bool = False
    source: BackboneSource = "torchvision"

    def pretrained_backbone(self, backbone: str) -> BackboneSource | None:
        """The setting of this name in a model's file."""
        if self.imagenet:
            return next(source for source, known in IMAGENET_WEIGHTS.items() if backbone in known)
        return self.source if self.norm == "frozen_batch" else None


@dataclass(frozen=True)
class Wishes:
    """The settings that the user gives; None leaves one to the data and the device.

    ``validate_every`` is 0 for no validation; ``stop_early`` is None for a training of the full length.
    """

    head: Head
    backbone: str
    updates: int | None = None
    image_size: int | None = None
    batch: int | None = None
    negatives: bool = False
    validate_every: int | None = None
    stop_early: int | None = None


def model_name(task: Task, backbone: str, head: Head) -> str:
    """The model of a task with a backbone and a head.

    Raises:
        ConfigError: if there is none; the message says what there is.
    """
    pointrend = head == "pointrend"
    if head == ("dense" if task == "instance" else "4xconv"):
        raise ConfigError(
            f"--head {head}: {task} models have {'4xconv' if task == 'instance' else 'dense'} or pointrend"
        )
    names = [name for name, spec in MODELS.items() if task_of(spec) == task and spec.has_pointrend == pointrend]
    fitting = [name for name in names if MODELS[name].backbone == backbone]
    if not fitting:
        known = ", ".join(dict.fromkeys(MODELS[name].backbone for name in names))
        raise ConfigError(f"--backbone {backbone}: no {task} model has it; expected one of {known}")
    return min(fitting, key=lambda name: isinstance(MODELS[name], DeepLabV3Spec))  # SemanticFPN where there are both


def image_size(data: Data, device: Device) -> int:
    """The shorter edge of images (of crops, for label PNGs): their median, more for small objects, if it fits."""
    largest = GPU_SIZE if device.gpu_gigabytes else CPU_SIZE if data.task == "instance" else CPU_CROP
    enlarged = min(ENLARGED, max(1.0, SMALL_OBJECT / data.object_side)) if data.object_side else 1.0
    return max(2 * STEP, min(largest, STEP * round(data.height * enlarged / STEP)))


def batch_size(data: Data, device: Device, size: int) -> int:
    """Images per update: few on CPUs, and as many as fit the GPU's memory, at most 16."""
    if not device.gpu_gigabytes:
        return min(CPU_BATCH // 2 if data.mean_objects > MANY_OBJECTS else CPU_BATCH, data.images)
    room = device.gpu_gigabytes / GIGABYTES_PER_IMAGE * (GPU_SIZE / size) ** 2
    return max(1, min(16, 2 ** int(math.log2(max(1.0, room))), data.images))


def number_of_updates(data: Data, batch: int) -> int:
    """Enough for ``EPOCHS`` epochs, in hundreds, between the fewest and the most."""
    return max(MIN_UPDATES, min(MAX_UPDATES, math.ceil(EPOCHS * data.images / batch / 100) * 100))


def validate_every(data: Data, batch: int, updates: int) -> int:
    """Updates between two validations; 0 if the val split is so large that even two would take too long."""
    affordable = VALIDATED_SHARE * updates * batch / max(1, data.val_images)
    count = min(VALIDATIONS, updates, int(affordable))
    return math.ceil(updates / count) if count >= 2 else 0


def settings(name: str, data: Data, device: Device, weights: Weights, wishes: Wishes) -> dict[str, dict[str, Any]]:
    """The model, schedule, experiment and cluster of a training, as the files of configs/ have them, by their kind."""
    network = model_name(data.task, wishes.backbone, wishes.head)
    size = wishes.image_size or image_size(data, device)
    batch = wishes.batch or batch_size(data, device, size)
    updates = wishes.updates or number_of_updates(data, batch)
    every = validate_every(data, batch, updates) if wishes.validate_every is None else wishes.validate_every
    if wishes.stop_early and not every:
        raise ConfigError(
            f"--stop-early {wishes.stop_early}: there are no validations to stop after; give --validate-every N"
        )
    validation = ({"validate_every": every} if every else {}) | (
        {"stop_early": wishes.stop_early} if wishes.stop_early else {}
    )
    instance, pointrend = data.task == "instance", wishes.head == "pointrend"
    experiment: dict[str, Any] = {
        "description": f"{name}: {network}, from {weights.file or ('ImageNet' if weights.imagenet else 'scratch')}",
        "dataset": name,
        "model": name,
        "schedule": name,
        "seeds": [0],
    }
    if weights.file:
        experiment |= {"starts_from": weights.file, "fine_tune": True}
    if wishes.negatives:
        experiment["negatives"] = True
    # Crops are small beside the paper's, so a denser map than that of stride 16 has as many points as they need.
    least = PAPER_SAMPLING.num_points or 0
    points = least if instance else max(least, size * size // 64)
    if pointrend:
        experiment["sampling"] = asdict(PAPER_SAMPLING) | {"num_points": points}
    if instance:
        rendering = {"num_points": PAPER_RENDERING.num_points} if pointrend else {}
        resolutions = (28, PAPER_RENDERING.resolution) if pointrend else (28,)
        experiment["evaluations"] = {f"{side}x{side}": {"resolution": side, **rendering} for side in resolutions}
        model = _instance_model(network, data, weights, size)
    else:
        stride = {"output_stride": 16} if isinstance(MODELS[network], DeepLabV3Spec) else {}
        experiment["evaluations"] = {"full": stride | ({"num_points": 4 * points} if pointrend else {})}
        # The weights carry the number of points, so that predictions are what was measured.
        model = _semantic_model(network, data, weights, size) | ({"points_per_step": 4 * points} if pointrend else {})
    whole = {"workers": 0, "driver_memory_gb": 2}
    gpu = {"gpus_per_worker": 1, "loader_processes": min(8, device.cpus)}
    return {
        "models": model,
        "schedules": _schedule(wishes.backbone, data.task, batch, updates, device) | validation,
        "experiments": experiment,
        "clusters": whole | (gpu if device.gpu_gigabytes else {"cpus_per_worker": device.cpus}),
    }


def _instance_model(network: str, data: Data, weights: Weights, size: int) -> dict[str, Any]:
    # Sizes around the one of inference are cheap augmentation.
    sizes = sorted({max(STEP, STEP * round(size * factor / STEP)) for factor in (0.8, 1.0, 1.2)})
    pretrained = weights.pretrained_backbone(MODELS[network].backbone)
    longer = STEP * math.ceil(max(2.0, data.width / data.height) * size * 1.2 / STEP)
    model = {
        "name": network,
        "pretrained_backbone": pretrained,
        "norm": "frozen_batch" if pretrained else "group",
        "train_min_sizes": sizes,
        "test_min_size": size,
        "max_size": longer,
    }
    if "tiny" in network and data.mean_objects > MANY_OBJECTS:
        model["rois_per_image"] = 128
    if data.objects > 100:  # the usual limit of detections
        model["detections_per_image"] = 100 * math.ceil(1.5 * data.objects / 100)
    return model


def _semantic_model(network: str, data: Data, weights: Weights, size: int) -> dict[str, Any]:
    width = min(2 * size, max(size, STEP * round(size * data.width / data.height / STEP)))
    pretrained = weights.pretrained_backbone(MODELS[network].backbone)
    norm = MODELS[network].norm if pretrained else "group"
    return {
        "name": network,
        "pretrained_backbone": pretrained,
        "norm": norm,
        "crop_size": [size, width],
        # Inference is at the image's own size, so training is about there.
        "scales": {"smallest": 0.75, "largest": 1.25, "step": STEP // 2},
        "color_augmentation": not network.endswith("tiny"),
        "max_class_share": None,
    }


def _schedule(backbone: str, task: Task, batch: int, updates: int, device: Device) -> dict[str, Any]:
    rate = LEARNING_RATE[task] * (1 if backbone.startswith("tiny") else batch / 16)
    warmup = {"updates": max(1, min(1000, updates // 10)), "learning_rate": round(rate / 20, 6)}
    last = max(1, updates // 5)
    if task == "semantic":
        shape: dict[str, Any] = {"poly": {"updates": updates, "learning_rate": round(rate, 6), "power": 0.9}}
    else:
        shape = {
            "phases": [
                {"updates": max(1, updates - last), "learning_rate": round(rate, 6)},
                {"updates": last, "learning_rate": round(rate / 10, 6)},
            ]
        }
    faster = {"precision": "bfloat16", "channels_last": True} if device.gpu_gigabytes else {"channels_last": True}
    return {"batch_size": batch, "warmup": warmup, **shape, "checkpoint_every": 100, **faster}


# Files


def config_files(project: Project, name: str, dataset: DatasetConfig, found: Mapping[str, Any]) -> dict[Path, str]:
    """The files of a training and their texts."""
    header = "# Written by `pointrend train`.\n"
    contents = {
        "datasets": dataset.model_dump(mode="json", exclude_defaults=True) | {"source": dataset.source},
        **found,
    }
    return {
        project.configs / (f"experiments/{name}" if kind == "experiments" else kind) / f"{name}.yaml": header
        + yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=110)
        for kind, content in contents.items()
    }


def write_files(files: Mapping[Path, str]) -> bool:
    """Writes the files of a training; returns False if all of them are there already, as they would be written.

    Raises:
        ConfigError: if a file is there with another content, and then nothing is written.
    """
    if different := [path for path, text in files.items() if path.exists() and path.read_text("utf-8") != text]:
        name = different[0].stem
        shown = "\n  ".join(f"{path}: {_difference(path.read_text('utf-8'), files[path])}" for path in different)
        raise ConfigError(
            f"scale {name} is there already, with other settings:\n  {shown}\nTo train with these, choose another "
            f"name with --name; to go on with what is there, run `pointrend select {name}` and `dvc repro`"
        )
    fresh = [path for path in files if not path.exists()]
    for path in fresh:
        with atomic_file(path) as stream:
            stream.write(files[path])
    return bool(fresh)


def _difference(there: str, wanted: str) -> str:
    """The keys of two YAML files that differ: "batch_size is 4, not 1"."""
    try:
        old, new = (yaml.safe_load(text) for text in (there, wanted))
    except yaml.YAMLError:
        return "is no YAML"
    if not isinstance(old, dict):
        return "is no mapping"
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return ", ".join(f"{key} is {_value(old, key)}, not {_value(new, key)}" for key in keys) or "has other comments"


def _value(settings: Mapping[str, Any], key: str) -> str:
    return str(settings[key]) if key in settings else "not set"
