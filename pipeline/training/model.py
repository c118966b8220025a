"""Builds the network of a run. Separate from the training loop, because evaluation needs only this."""

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config.experiments import RunConfig
from pipeline.config.models import InstanceModelConfig
from pipeline.data.manifest import PreparedDataset
from pipeline.errors import UserError
from pointrend.metadata import ClassInfo
from pointrend.registry import build_model
from pointrend.weights import load_backbone, read_state_dict

if TYPE_CHECKING:
    from pointrend.instance import MaskRCNN
    from pointrend.semantic import SemanticSegmenter

#: Prefixes of the weights that a run never takes from another one: mask heads and a semantic model's heads. Runs are
#: compared by these heads, so each run trains its own from scratch.
RETRAINED_HEADS = ("mask_head.", "head.", "pointrend.")


def build_run_model(config: RunConfig, num_classes: int, *, pretrained: bool) -> "MaskRCNN | SemanticSegmenter":
    """Builds the network of a run.

    Args:
        config: the run.
        num_classes: the number of classes of its dataset.
        pretrained: whether to load the backbone weights that the configuration names, as a training does. Evaluation
            loads a run's own weights instead.
    """
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


def class_infos(prepared: PreparedDataset) -> tuple[ClassInfo, ...]:
    """The classes of a dataset as weights name them, in the order of a network's outputs."""
    if prepared.task == "instance":
        return tuple(ClassInfo(category.id, category.name) for category in prepared.categories)
    return tuple(
        ClassInfo(number, name) for number, name in zip(prepared.labels.ids, prepared.labels.names, strict=True)
    )


def build_initial_model(config: RunConfig, num_classes: int, weights: Path | None) -> "MaskRCNN | SemanticSegmenter":
    """Builds the network of a run as its training starts, with the weights that it starts from.

    Raises:
        UserError: if those weights do not fit, or lack a part of a detector that is not trained.
    """
    model = build_run_model(config, num_classes, pretrained=True)
    if weights is not None:
        loaded = load_shared_weights(model, weights)
        missing = [name for name in model.state_dict() if not name.startswith(RETRAINED_HEADS) and name not in loaded]
        if config.train != "all" and missing:
            raise UserError(
                f"{weights}: run {config.run} trains nothing but its {config.train}, and these weights have no "
                f"{missing[0]} of its shape; set starts_from to weights of the same network and classes, or train to "
                "'all'"
            )
    freeze(model, config)
    return model


def freeze(model: "MaskRCNN | SemanticSegmenter", config: RunConfig) -> None:
    """Freezes what a run does not train."""
    if config.train == "mask_head":
        from pointrend.instance import MaskRCNN

        assert isinstance(model, MaskRCNN)
        model.freeze_detector()
    elif config.train == "head":
        model.backbone.requires_grad_(False)


def load_shared_weights(model: "MaskRCNN | SemanticSegmenter", weights: Path) -> set[str]:
    """Loads the weights of another run into a model, in place: every tensor of the same name and shape, but no head.

    For instance models these are the weights of the detector, for semantic models those of the backbone. Every tensor
    of the other run's ResNet must be among them; the model's own ResNet may have more blocks. Runs without ImageNet
    weights start this way.

    Args:
        model: the network of a run.
        weights: the file with the other run's weights.

    Returns:
        the names of the tensors that were loaded.

    Raises:
        UserError: if the other run has no ResNet, or a tensor of its ResNet does not fit.
    """
    own, state = model.state_dict(), read_state_dict(weights)
    shared = {
        name: tensor
        for name, tensor in state.items()
        if not name.startswith(RETRAINED_HEADS) and name in own and own[name].shape == tensor.shape
    }
    # A check for any shared tensor would not do: two different ResNets share the stem and many 3x3 convolutions.
    body = [name for name in state if name.startswith("backbone.body.")]
    wrong = next((f"{name} does not fit" for name in body if name not in shared), "" if body else "it has no ResNet")
    if wrong:
        raise UserError(
            f"{weights}: of another backbone than the network of the run that starts from it: {wrong}; set starts_from "
            "to a run with the same backbone"
        )
    model.load_state_dict(shared, strict=False)
    return set(shared)
