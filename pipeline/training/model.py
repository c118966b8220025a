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
from pointrend.detectron2 import detectron2_options
from pointrend.metadata import ClassInfo
from pointrend.registry import build_model
from pointrend.specs import IMAGENET_WEIGHTS
from pointrend.weights import load_backbone

if TYPE_CHECKING:
    from pointrend.instance import MaskRCNN
    from pointrend.semantic import SemanticSegmenter


def build_run_model(config: RunConfig, num_classes: int, *, pretrained: bool) -> "MaskRCNN | SemanticSegmenter":
    """Builds the network of a run.

    Its strides are where the backbone's ImageNet weights expect them, whether or not these are loaded.

    Args:
        config: the run.
        num_classes: the number of classes of its dataset.
        pretrained: whether to load the backbone weights that the configuration names, as a training does. Evaluation
            loads a run's own weights instead.

    Raises:
        UserError: if Detectron2's weights cannot be downloaded, or do not fit.
    """
    network = config.model
    source = network.pretrained_backbone
    stride_in_1x1 = detectron2_options(network.name).get("stride_in_1x1") if source == "detectron2" else None
    sampling = config.sampling.build() if config.sampling else None
    head = config.point_head
    if isinstance(network, InstanceModelConfig):
        model = build_model(
            network.name,
            num_classes=num_classes,
            min_size=network.test_min_size,
            max_size=network.max_size,
            pretrained_backbone=pretrained and source == "torchvision",
            norm=network.norm,
            stride_in_1x1=stride_in_1x1,
            sampling=sampling,
            rois_per_image=network.rois_per_image,
            detections_per_image=network.detections_per_image,
            mask_side=network.mask_side,
            cascade=network.cascade,
            point_layers=head.layers if head else None,
            point_channels=head.channels if head else None,
        )
    else:
        model = build_model(
            network.name,
            num_classes=num_classes,
            pretrained_backbone=pretrained and source == "torchvision",
            norm=network.norm,
            stride_in_1x1=stride_in_1x1,
            sampling=sampling,
            levels=tuple(network.levels) if network.levels else None,
            points_per_step=network.points_per_step,
            point_layers=head.layers if head else None,
            point_channels=head.channels if head else None,
        )
    if pretrained and source == "detectron2":
        try:
            load_backbone(model, IMAGENET_WEIGHTS[source][network.backbone])
        except (OSError, ValueError) as error:
            raise UserError(f"run {config.run}: the weights of pretrained_backbone 'detectron2': {error}") from error
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
