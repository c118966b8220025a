"""The network of a run. Apart from training, so that evaluation starts without what only that needs."""

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config.experiments import RunConfig
from pipeline.config.models import InstanceModelConfig
from pipeline.errors import UserError
from pointrend.registry import build_model
from pointrend.weights import load_backbone, read_state_dict

if TYPE_CHECKING:
    from pointrend.instance import MaskRCNN
    from pointrend.semantic import SemanticSegmenter

#: What a run learns anew that begins with another's weights, because runs are compared by it: mask heads, and a
#: semantic model's heads.
RETRAINED_HEADS = ("mask_head.", "head.", "pointrend.")


def build_run_model(config: RunConfig, num_classes: int, *, pretrained: bool) -> "MaskRCNN | SemanticSegmenter":
    """The network of a run; with its ImageNet weights, where it has some, only if it is to be trained."""
    network = config.model
    sampling = config.sampling.build() if config.sampling else None
    head = config.point_head
    if isinstance(network, InstanceModelConfig):
        return build_model(
            network.name,
            num_classes=num_classes,
            min_size=network.test_min_size,
            max_size=network.max_size,
            pretrained_backbone=pretrained and network.pretrained_backbone,
            norm=network.norm,
            sampling=sampling,
            rois_per_image=network.rois_per_image,
            detections_per_image=network.detections_per_image,
            point_layers=head.layers if head else None,
            point_channels=head.channels if head else None,
        )
    model = build_model(
        network.name,
        num_classes=num_classes,
        pretrained_backbone=pretrained and network.pretrained_backbone == "torchvision",
        norm=network.norm,
        sampling=sampling,
        levels=tuple(network.levels) if network.levels else None,
        point_layers=head.layers if head else None,
        point_channels=head.channels if head else None,
    )
    if pretrained and network.pretrained_backbone not in (None, "torchvision"):
        load_backbone(model, network.pretrained_backbone)
    return model


def load_shared_weights(model: "MaskRCNN | SemanticSegmenter", weights: Path) -> int:
    """Takes over what a model shares with that of another run, in place: all that has the same name and shape.

    Of an instance model's it is the detector, of a semantic one's the backbone; the ResNet as a whole, which may be a
    deeper one of the same kind here. It stands in for ImageNet's weights, where networks have none.

    Args:
        model: the network of a run.
        weights: of the other run.

    Returns:
        how many tensors were taken.

    Raises:
        UserError: if a tensor of the other run's ResNet does not fit.
    """
    own, state = model.state_dict(), read_state_dict(weights)
    shared = {
        name: tensor
        for name, tensor in state.items()
        if not name.startswith(RETRAINED_HEADS) and name in own and own[name].shape == tensor.shape
    }
    # Any two ResNets share some: the stem's convolution, and many of 3x3.
    body = [name for name in state if name.startswith("backbone.body.")]
    wrong = next((f"{name} does not fit" for name in body if name not in shared), "" if body else "it has no ResNet")
    if wrong:
        raise UserError(
            f"{weights}: of another backbone than the network that is to begin with it (starts_from): {wrong}"
        )
    model.load_state_dict(shared, strict=False)
    return len(shared)
