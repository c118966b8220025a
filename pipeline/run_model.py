"""The network of a run. Apart from training, so that evaluation starts without what only that needs."""

from pipeline.config import InstanceModelConfig, RunConfig
from pointrend import build_model, load_backbone
from pointrend.instance import MaskRCNN
from pointrend.semantic import SemanticSegmenter


def build_run_model(config: RunConfig, num_classes: int, *, pretrained: bool) -> MaskRCNN | SemanticSegmenter:
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
