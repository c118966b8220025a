"""How fast and how large trainings are: counted from the networks, and from what ``configs/throughput.yaml`` states.

Networks are built on the meta device, shapes without values: nothing is computed, and no weights are downloaded.

Shape letters: R regions, C channels, P points, H W rows and columns.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from pipeline.config.experiments import RunConfig
from pipeline.config.models import InstanceModelConfig
from pipeline.config.reader import Name, Strict
from pipeline.errors import UserError
from pipeline.training.model import build_run_model
from pointrend.backbones import freeze_stem_and_res2
from pointrend.instance import FourConvMaskHead, MaskRCNN
from pointrend.points import Size
from pointrend.semantic import SemanticSegmenter
from pointrend.specs import MODELS, Task
from pointrend.transform import next_multiple, resized_size

Precision = Literal["float32", "bfloat16"]


class ThroughputError(UserError, KeyError):
    """A figure that ``configs/throughput.yaml`` does not state."""

    def __str__(self) -> str:
        return str(self.args[0])


class Throughput(Strict):
    """``configs/throughput.yaml``: what an estimate takes for granted."""

    gpu: str = Field(description="the one that all figures are of")
    peak_tflops: dict[Precision, PositiveFloat] = Field(description="its peak, 10^12 operations a second")
    utilisation: dict[str, Annotated[float, Field(gt=0, le=1)]] = Field(
        description="what part of the peak training comes to, all waiting included, by backbone"
    )
    foreground: Annotated[float, Field(gt=0, le=0.25)] = Field(
        description="the share of the sampled proposals that train the mask head; at most a quarter (Appendix A)"
    )
    image_sizes: dict[Name, Annotated[list[PositiveInt], Field(min_length=2, max_length=2)]] = Field(
        description="[H, W] of a typical training image, by dataset; of drawn datasets their own configuration says it"
    )
    prediction_bytes: dict[Task, PositiveInt] = Field(description="of one val image, in one evaluation setting")

    def images_per_second(self, flops: int, backbone: str, precision: Precision) -> float:
        """Images that one GPU trains on in a second.

        Args:
            flops: operations of one image, forward and backward.
            backbone: as in :mod:`pointrend.specs`.
            precision: of the schedule.

        Raises:
            ThroughputError: for a backbone or a precision that has no figure.
        """
        return self._stated("peak_tflops", precision) * 1e12 * self._stated("utilisation", backbone) / flops

    def image_size(self, dataset: str) -> Size:
        """(H, W) of a typical training image, in pixels.

        Raises:
            ThroughputError: for a dataset that has no figure.
        """
        height, width = self._stated("image_sizes", dataset)
        return height, width

    def _stated(self, table: str, key: str) -> Any:
        figures = getattr(self, table)
        if key not in figures:
            raise ThroughputError(
                f"configs/throughput.yaml: {table} has no {key!r}; state it there (it has {', '.join(figures)})"
            )
        return figures[key]


@dataclass(frozen=True)
class Cost:
    """What a training takes.

    Attributes:
        flops: operations of one training image, forward and backward, two for a multiply-add.
        weights: bytes of its weights.
        checkpoint: bytes of one of its checkpoints: the weights, and SGD's momentum of those that train.
    """

    flops: int
    weights: int
    checkpoint: int


def training_size(config: RunConfig, image_size: Callable[[str], Size]) -> Size:
    """(H, W) of the network's input in training, in pixels: of instances at the mean of the shorter edges it may have.

    Args:
        config: the run.
        image_size: tells the (H, W) of a dataset's typical image; not asked where a model trains on crops.
    """
    network = config.model
    if isinstance(network, InstanceModelConfig):
        shorter = round(sum(network.train_min_sizes) / len(network.train_min_sizes))
        height, width = resized_size(image_size(config.dataset), shorter, network.max_size)
        return next_multiple(height, 32), next_multiple(width, 32)
    height, width = network.crop_size
    return height, width


class Counter:
    """Counts what trainings take. Backbones that several have in common are counted once."""

    def __init__(self) -> None:
        self._shapes: dict[tuple[str, Size], dict[str, torch.Size]] = {}
        self._backbones: dict[tuple[str, Size, bool, frozenset[str]], int] = {}

    def cost(self, config: RunConfig, size: Size, foreground: float) -> Cost:
        """What a run takes, from its network as it is built, with as many classes as its model has by default.

        Lookups, normalisation, and what chooses proposals and points count as nothing.

        Args:
            config: the run.
            size: (H, W) of the network's input, see :func:`training_size`.
            foreground: the share of the sampled proposals that train the mask head.
        """
        network = config.model
        with torch.device("meta"):
            model = build_run_model(config, MODELS[network.name].num_classes, pretrained=False)
            # Batch norm takes no statistics of a single image.
            model.eval()
            frozen = isinstance(network, InstanceModelConfig) and network.pretrained_backbone
            if frozen:
                freeze_stem_and_res2(model.backbone.body)  # type: ignore[arg-type]
            shapes = self._feature_shapes(model.backbone, size)
            features = {name: torch.empty(shape, requires_grad=True) for name, shape in shapes.items()}
            with operations_counter() as counter:
                if isinstance(model, MaskRCNN):
                    _backward(_instance_outputs(model, features, foreground))
                else:
                    _backward(_semantic_outputs(model, features))
            used = frozenset(name for name, feature in features.items() if feature.grad is not None)
            flops = counter.get_total_flops() + self._backbone_flops(model.backbone, size, frozen, used)
        weights = sum(_bytes(value) for value in model.state_dict().values())
        momentum = sum(_bytes(value) for value in model.parameters() if value.requires_grad)
        return Cost(flops, weights, weights + momentum)

    def _feature_shapes(self, backbone: nn.Module, size: Size) -> dict[str, torch.Size]:
        """The shapes of the features of one image, by name."""
        key = (str(backbone), size)
        if key not in self._shapes:
            with torch.no_grad():
                features = backbone(torch.empty(1, 3, *size))
            self._shapes[key] = {name: feature.shape for name, feature in features.items()}
        return self._shapes[key]

    def _backbone_flops(self, backbone: nn.Module, size: Size, frozen: bool, used: frozenset[str]) -> int:
        """The operations of a backbone, backward from those of its features that are used."""
        key = (str(backbone), size, frozen, used)
        if key not in self._backbones:
            with operations_counter() as counter:
                features = backbone(torch.empty(1, 3, *size))
                _backward(features[name] for name in used)
            self._backbones[key] = counter.get_total_flops()
        return self._backbones[key]


def operations_counter() -> FlopCounterMode:
    """Counts the operations of what runs in its block, forward and backward."""
    return FlopCounterMode(display=False, custom_mapping={torch.ops.aten.convolution_backward: _convolution_backward})


def _backward(outputs: Iterable[Tensor]) -> None:
    torch.stack([output.sum() for output in outputs]).sum().backward()


def _convolution_backward(
    gradient: list[int], features: list[int], weight: list[int], *arguments: Any, **results: Any
) -> int:
    """The gradients of a convolution's input and weight take as much as its output, each, if they are wanted.

    torch's own count takes the weight's gradient of a grouped convolution (ResNeXt) for that of a dense one.
    """
    *_, transposed, _, _, wanted = arguments
    return conv_flop_count(features, weight, gradient, transposed=transposed) * (wanted[0] + wanted[1])


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _instance_outputs(model: MaskRCNN, features: dict[str, Tensor], foreground: float) -> list[Tensor]:
    """What a Mask R-CNN's other layers make of the features of one image in training."""
    objectness, deltas = model.rpn.head(list(features.values()))
    channels = features["p2"].shape[1]
    heads = model.roi_heads
    sampler = heads.fg_bg_sampler
    masked = round(sampler.batch_size_per_image * foreground)

    def pooled(regions: int, side: int) -> Tensor:
        # What RoIAlign would give, which hands gradients on to the features.
        return torch.empty(regions, channels, side, side, requires_grad=True)

    boxes = heads.box_predictor(heads.box_head(pooled(sampler.batch_size_per_image, heads.pooled_size)))
    mask_head = model.mask_head
    regions = pooled(masked, mask_head.pooled_size)
    if isinstance(mask_head, FourConvMaskHead):
        masks = [mask_head.head.forward_class(regions, torch.zeros(masked, dtype=torch.int64))]
    else:
        coarse = mask_head.coarse_head(regions)
        points = mask_head.sampling.num_points
        assert points is not None  # an instance model's is a number
        fine = torch.empty(masked, channels, points, requires_grad=True)
        at_points = torch.empty(masked, coarse.shape[1], points, requires_grad=True)
        masks = [coarse, mask_head.point_head(fine, at_points)]
    return [*objectness, *deltas, *boxes, *masks]


def _semantic_outputs(model: SemanticSegmenter, features: dict[str, Tensor]) -> list[Tensor]:
    """What a semantic model's other layers make of the features of one crop in training."""
    coarse = model.head(features)
    if model.pointrend is None:
        return [coarse]
    num_points = model.pointrend.sampling.num_points
    assert num_points is not None  # an experiment with a point head states it
    points = torch.empty(1, num_points, 2)
    return [coarse, model.pointrend.point_logits(features, coarse, model.head.stride, points)]
