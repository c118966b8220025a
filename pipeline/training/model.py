"""Builds the network of a run. Separate from the training loop, because evaluation needs only this."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config.experiments import RunConfig
from pipeline.config.models import InstanceModelConfig
from pipeline.data.manifest import PreparedDataset
from pipeline.errors import UserError
from pipeline.training.starting_weights import RETRAINED_HEADS, fine_tune, load_shared_weights
from pointrend.backbones import freeze_stem_and_res2
from pointrend.metadata import ClassInfo
from pointrend.registry import build_model
from pointrend.weights import load_backbone

if TYPE_CHECKING:
    from pointrend.instance import MaskRCNN
    from pointrend.semantic import SemanticSegmenter


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


def build_initial_model(
    config: RunConfig,
    num_classes: int,
    weights: Path | None,
    names: Sequence[str] = (),
    say: Callable[[str], None] | None = None,
) -> "MaskRCNN | SemanticSegmenter":
    """Builds the network of a run as its training starts, with the weights that it starts from.

    Args:
        config: the run.
        num_classes: the number of classes of its dataset.
        weights: the file of the weights that it starts from, if any.
        names: the names of the classes, by which a fine-tuned run recognises those of the weights.
        say: called with what a fine-tuned run keeps of the weights.

    Raises:
        UserError: if those weights do not fit, or lack a part of a detector that is not trained.
    """
    # A run that is fine-tuned has a whole backbone in its weights, and needs no other.
    model = build_run_model(config, num_classes, pretrained=not config.fine_tune)
    if weights is not None:
        if config.fine_tune:
            start = fine_tune(model, weights, config.model.name, names)
            loaded = start.kept
            if say is not None:
                say(f"{config.run} starts from {weights}: {start.summary}")
        else:
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
    """Freezes what a run does not train.

    An instance model with an ImageNet backbone keeps its stem and res2 (Appendix A), also where they come with the
    weights of another run or a file.
    """
    if isinstance(config.model, InstanceModelConfig) and config.model.pretrained_backbone:
        freeze_stem_and_res2(model.get_submodule("backbone.body"))
    if config.train == "mask_head":
        from pointrend.instance import MaskRCNN

        assert isinstance(model, MaskRCNN)
        model.freeze_detector()
    elif config.train == "head":
        model.backbone.requires_grad_(False)
