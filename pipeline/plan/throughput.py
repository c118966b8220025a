"""How fast and how large trainings are: counted from the networks and the figures of ``configs/throughput.yaml``.

Networks are built on the meta device, which has shapes but no values: nothing is computed or downloaded.

Shape letters: R regions, C channels, P points, H W rows and columns.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Self, TypeVar

import torch
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from pipeline.config.experiments import RunConfig
from pipeline.config.models import InstanceModelConfig
from pipeline.config.reader import Name, Strict
from pipeline.config.schedules import Precision
from pipeline.errors import UserError
from pipeline.training.model import build_run_model, freeze
from pointrend.instance import FourConvMaskHead, MaskRCNN
from pointrend.points import Size
from pointrend.semantic import SemanticSegmenter
from pointrend.specs import MODELS, Task
from pointrend.transform import next_multiple, resized_size

V = TypeVar("V")


class ThroughputError(UserError, LookupError):
    """A figure is missing in ``configs/throughput.yaml``."""


class Gpu(Strict):
    """The published figures of a GPU."""

    name: str
    source: str = Field(description="where the peaks are published")
    peak_tflops: dict[Precision, PositiveFloat] = Field(description="10^12 operations a second, without sparsity")
    utilisation: dict[Precision, str] = Field(description="a key of Throughput.utilisation for each of the precisions")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.peak_tflops.keys() != self.utilisation.keys():
            raise ValueError("peak_tflops and utilisation have different precisions")
        return self


class Throughput(Strict):
    """The schema of ``configs/throughput.yaml``: the figures behind the estimates."""

    gpu: Name = Field(description="the key of the GPU that estimates are for, unless --gpu names another one")
    gpus: dict[Name, Gpu]
    utilisation: dict[Name, dict[str, Annotated[float, Field(gt=0, le=1)]]] = Field(
        description="the share of a peak that training reaches, including all waiting, by backbone"
    )
    foreground: Annotated[float, Field(gt=0, le=0.25)] = Field(
        description="the share of the sampled proposals that train the mask head; at most a quarter (Appendix A)"
    )
    image_sizes: dict[Name, Annotated[list[PositiveInt], Field(min_length=2, max_length=2)]] = Field(
        description="[H, W] of a typical training image, by dataset; that of drawn datasets is in configs/synthetic"
    )
    prediction_bytes: dict[Task, PositiveInt] = Field(
        description="bytes for one val image in one evaluation setting, by task"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.gpu not in self.gpus:
            raise ValueError(f"gpu is {self.gpu!r}, expected one of {', '.join(self.gpus)}")
        for name, gpu in self.gpus.items():
            if unknown := set(gpu.utilisation.values()) - self.utilisation.keys():
                raise ValueError(f"gpus.{name}.utilisation names what utilisation has not: {', '.join(unknown)}")
        return self

    def chosen(self, gpu: str | None) -> "Throughput":
        """The figures with another GPU as the one that estimates are for, by its key; None for the same.

        Raises:
            ThroughputError: if there is no such GPU.
        """
        if gpu is not None and gpu not in self.gpus:
            raise ThroughputError(
                f"--gpu {gpu}: configs/throughput.yaml has {', '.join(self.gpus)}; state the figures of others there"
            )
        return self if gpu is None else self.model_copy(update={"gpu": gpu})

    def images_per_second(self, flops: int, backbone: str, precision: Precision) -> float:
        """The images that the chosen GPU trains on in a second.

        Args:
            flops: operations of one image, forward and backward.
            backbone: as in :mod:`pointrend.specs`.
            precision: the schedule's.

        Raises:
            ThroughputError: if there is no figure for the backbone or the precision.
        """
        gpu = self.gpus[self.gpu]
        peak = _figure(f"gpus.{self.gpu}.peak_tflops", gpu.peak_tflops, precision)
        shares = gpu.utilisation[precision]
        return peak * 1e12 * _figure(f"utilisation.{shares}", self.utilisation[shares], backbone) / flops

    def image_size(self, dataset: str) -> Size:
        """(H, W) of a typical training image, in pixels.

        Raises:
            ThroughputError: if there is none for the dataset.
        """
        height, width = _figure("image_sizes", self.image_sizes, dataset)
        return height, width


def _figure(table: str, figures: Mapping[Any, V], key: str) -> V:
    if key not in figures:
        raise ThroughputError(
            f"configs/throughput.yaml: {table} has no {key!r}; state it there (it has {', '.join(figures)})"
            + (", or run `dvc repro prepare` first" if table == "image_sizes" else "")
        )
    return figures[key]


@dataclass(frozen=True)
class Cost:
    """The cost of a training.

    Attributes:
        flops: operations for one training image, forward and backward; a multiply-add is two.
        forward: operations of its forward pass alone.
        weights: bytes of the weights.
        checkpoint: bytes of one checkpoint: the weights, and SGD's momentum of those that are trained.
    """

    flops: int
    forward: int
    weights: int
    checkpoint: int


def validation_area(config: RunConfig, size: Size) -> int:
    """The pixels of the network's input for a val image of (H, W) pixels."""
    height, width = size
    if isinstance(config.model, InstanceModelConfig):
        height, width = resized_size(size, config.model.test_min_size, config.model.max_size)
    return next_multiple(height, 32) * next_multiple(width, 32)


def training_size(config: RunConfig, image_size: Callable[[str], Size]) -> Size:
    """(H, W) of the network's input in training, in pixels; for instances at the mean of the configured shorter edges.

    Args:
        config: the run.
        image_size: returns the (H, W) of a dataset's typical image; not called for models that train on crops.
    """
    network = config.model
    if isinstance(network, InstanceModelConfig):
        shorter = round(sum(network.train_min_sizes) / len(network.train_min_sizes))
        height, width = resized_size(image_size(config.dataset), shorter, network.max_size)
        return next_multiple(height, 32), next_multiple(width, 32)
    height, width = network.crop_size
    return height, width


class Counter:
    """Counts the cost of trainings. A backbone that several of them share is counted once."""

    def __init__(self) -> None:
        self._shapes: dict[tuple[str, Size], dict[str, torch.Size]] = {}
        self._backbones: dict[tuple[str, Size, bool, frozenset[str]], int] = {}

    def cost(self, config: RunConfig, size: Size, foreground: float) -> Cost:
        """The cost of a run, counted on its network, with the model's default number of classes.

        Lookups, normalisation and the selection of proposals and points are not counted.

        Args:
            config: the run.
            size: (H, W) of the network's input, see :func:`training_size`.
            foreground: the share of the sampled proposals that train the mask head.
        """
        network = config.model
        with torch.device("meta"):
            model = build_run_model(config, MODELS[network.name].num_classes, pretrained=False)
            # In training mode batch norm raises an error for a single image.
            model.eval()
            freeze(model, config)
            frozen = not all(parameter.requires_grad for parameter in model.backbone.parameters())
            trained = config.train == "all"
            shapes = self._feature_shapes(model.backbone, size)
            features = {name: torch.empty(shape, requires_grad=trained) for name, shape in shapes.items()}
            with operations_counter() as forward:
                outputs = (
                    _instance_outputs(model, features, foreground)
                    if isinstance(model, MaskRCNN)
                    else _semantic_outputs(model, features)
                )
            with operations_counter() as backward:
                _backward(outputs)
            used = frozenset(name for name, feature in features.items() if feature.grad is not None)
            heads = forward.get_total_flops()
            ahead = heads + self._backbone_flops(model.backbone, size, frozen, frozenset())
            trained_backbone = self._backbone_flops(model.backbone, size, frozen, used)
            flops = heads + backward.get_total_flops() + trained_backbone
        weights = sum(_bytes(value) for value in model.state_dict().values())
        momentum = sum(_bytes(value) for value in model.parameters() if value.requires_grad)
        return Cost(flops, ahead, weights, weights + momentum)

    def _feature_shapes(self, backbone: nn.Module, size: Size) -> dict[str, torch.Size]:
        """The shapes of the features of one image, by name."""
        key = (str(backbone), size)
        if key not in self._shapes:
            with torch.no_grad():
                features = backbone(torch.empty(1, 3, *size))
            self._shapes[key] = {name: feature.shape for name, feature in features.items()}
        return self._shapes[key]

    def _backbone_flops(self, backbone: nn.Module, size: Size, frozen: bool, used: frozenset[str]) -> int:
        """The operations of a backbone: forward, and backward from those of its features that are used."""
        key = (str(backbone), size, frozen, used)
        if key not in self._backbones:
            with operations_counter() as counter:
                features = backbone(torch.empty(1, 3, *size))
                if used:
                    _backward(features[name] for name in used)
            self._backbones[key] = counter.get_total_flops()
        return self._backbones[key]


def operations_counter() -> FlopCounterMode:
    """A context that counts the operations inside it, forward and backward."""
    return FlopCounterMode(display=False, custom_mapping={torch.ops.aten.convolution_backward: _convolution_backward})


def _backward(outputs: Iterable[Tensor]) -> None:
    torch.stack([output.sum() for output in outputs]).sum().backward()


def _convolution_backward(
    gradient: list[int], features: list[int], weight: list[int], *arguments: Any, **results: Any
) -> int:
    """The operations of a convolution's gradients: for the input and for the weight as many each as for the output.

    torch's own count of the weight's gradient treats a grouped convolution (ResNeXt) as a dense one.
    """
    *_, transposed, _, _, wanted = arguments
    return conv_flop_count(features, weight, gradient, transposed=transposed) * (wanted[0] + wanted[1])


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _instance_outputs(model: MaskRCNN, features: dict[str, Tensor], foreground: float) -> list[Tensor]:
    """The outputs of a Mask R-CNN's heads for the features of one image, with the regions of a training."""
    # At every cell, as in the trainings that the shares of a GPU's peak were measured on. Here the RPN's backward pass
    # is that of sampled anchors alone; what this saves on a GPU has not been measured.
    objectness, deltas = model.rpn.head(list(features.values()))
    channels = features["p2"].shape[1]
    heads = model.roi_heads
    sampler = heads.fg_bg_sampler
    masked = round(sampler.batch_size_per_image * foreground)

    def pooled(regions: int, side: int) -> Tensor:
        # Stands for the output of RoIAlign.
        return torch.empty(regions, channels, side, side, requires_grad=not model.detector_is_frozen)

    boxes = heads.box_predictor(heads.box_head(pooled(sampler.batch_size_per_image, heads.pooled_size)))
    mask_head = model.mask_head
    regions = pooled(masked, mask_head.pooled_size)
    if isinstance(mask_head, FourConvMaskHead):
        masks = [mask_head.head.forward_class(regions, torch.zeros(masked, dtype=torch.int64))]
    else:
        coarse = mask_head.coarse_head(regions)
        points = mask_head.sampling.num_points
        assert points is not None  # an instance model's is a number
        fine = torch.empty(masked, channels, points, requires_grad=not model.detector_is_frozen)
        at_points = torch.empty(masked, coarse.shape[1], points, requires_grad=True)
        masks = [coarse, mask_head.point_head(fine, at_points)]
    return [*objectness, *deltas, *boxes, *masks]


def _semantic_outputs(model: SemanticSegmenter, features: dict[str, Tensor]) -> list[Tensor]:
    """The outputs of a semantic model's heads for the features of one crop."""
    coarse = model.head(features)
    if model.pointrend is None:
        return [coarse]
    num_points = model.pointrend.sampling.num_points
    assert num_points is not None  # an experiment with a point head states it
    points = torch.empty(1, num_points, 2)
    return [coarse, model.pointrend.point_logits(features, coarse, model.head.stride, points)]
