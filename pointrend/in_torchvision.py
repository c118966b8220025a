"""PointRend in torchvision's own models: its Mask R-CNN and its DeepLabV3, with all their weights.

:func:`mask_rcnn_with_pointrend` and :func:`deeplabv3_with_pointrend` return a model that is called like torchvision's,
has its detector or coarse prediction, and a new PointRend head to train. It shares the modules of the given model,
which itself stays as it is. The heads, their losses and their rendering are those of :mod:`pointrend.instance` and
:mod:`pointrend.semantic`.

Shape letters: N images, R regions, G ground-truth objects, K classes, M the side of a region mask, H W rows and
columns. Boxes are xyxy in pixels; labels of objects count from 1.
"""

from collections.abc import Callable
from copy import copy

import torch
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.models.segmentation import DeepLabV3

from pointrend.detector import Target, choose_foreground, decode_regions, split_like
from pointrend.instance import PointRendMaskHead
from pointrend.paste import paste_masks
from pointrend.points import Size, upsample
from pointrend.pooling import Features
from pointrend.semantic import SemanticPointRend, extent_of
from pointrend.semantic_inference import crop, render_coarse
from pointrend.specs import (
    PAPER_POINTS_PER_STEP,
    PAPER_RENDERING,
    PAPER_SAMPLING,
    PAPER_SEMANTIC_SAMPLING,
    PointSampling,
    Rendering,
)

#: Side of the image that shows which feature maps a model has. A multiple of all their strides.
PROBE_SIDE = 64


def mask_rcnn_with_pointrend(
    model: MaskRCNN,
    *,
    fine_level: str = "0",
    sampling: PointSampling = PAPER_SAMPLING,
    rendering: Rendering = PAPER_RENDERING,
) -> MaskRCNN:
    """torchvision's Mask R-CNN with PointRend instead of its mask head (Section 4).

    The result is called like the given model. In training it returns the same losses and ``loss_mask_point``;
    ``loss_mask`` is that of the coarse mask. In evaluation ``masks`` (R, 1, H, W) are rendered as ``rendering`` says,
    and pasted without rounding boxes to whole pixels. Ground-truth masks are sampled as they are given, not resized
    with the image. ``torch.jit.script`` does not support the result.

    Args:
        model: such as ``maskrcnn_resnet50_fpn(...)``, with any number of classes, on any device. The result shares its
            backbone, RPN and box head, and so has their weights bit for bit. Its mask head is left out.
        fine_level: the name of the backbone's feature map of stride 4, which PointRend reads from.
        sampling: training points (Section 3.1).
        rendering: resolution M and points per subdivision step (Section 3.1).

    Returns:
        a new model of the same class, in the same mode. The parameters of ``roi_heads.mask_head`` are new.

    Raises:
        TypeError: if ``model`` is no torchvision Mask R-CNN, or a part of it that is replaced or read is of another
            class than torchvision's.
        ValueError: if the backbone has no feature map ``fine_level`` of stride 4, if the model predicts keypoints, or
            if ``sampling.num_points`` is None.
    """
    if not isinstance(model, MaskRCNN):
        raise TypeError(
            f"the model is a {_class_name(model)}, expected torchvision's MaskRCNN, such as maskrcnn_resnet50_fpn(...)"
        )
    heads, transform = model.roi_heads, model.transform
    _check_class("roi_heads", heads, RoIHeads)
    _check_class("transform", transform, GeneralizedRCNNTransform)
    if heads.has_keypoint():
        raise ValueError(
            "the model predicts keypoints too, which is not supported: set roi_heads.keypoint_head to None"
        )
    scores = getattr(heads.box_predictor, "cls_score", None)
    if not isinstance(scores, nn.Linear):
        raise TypeError(
            f"roi_heads.box_predictor is a {_class_name(heads.box_predictor)} without a linear layer cls_score, which "
            "tells the number of classes: use torchvision's FastRCNNPredictor"
        )
    if sampling.num_points is None:
        raise ValueError("sampling.num_points is None, expected a number: instance models sample N points a region")

    def backbone_maps(image: Tensor) -> Features:
        maps = model.backbone(image)
        return {"0": maps} if isinstance(maps, Tensor) else maps

    fine = _feature_map(_probe(model, backbone_maps), fine_level, PointRendMaskHead.fine_stride)
    head = PointRendMaskHead(fine.shape[1], scores.out_features - 1, sampling=sampling, rendering=rendering)
    head.fine_level = fine_level
    head.to(scores.weight).train(model.training)

    result = copy(model)
    result._modules = dict(model._modules)  # of its own, so that the given model keeps its heads
    result.roi_heads = PointRendRoIHeads(heads, head)
    result.transform = PointRendTransform(transform)
    return result


class PointRendRoIHeads(RoIHeads):
    """torchvision's RoI heads with PointRend's mask head: box head, its losses and its settings are those of ``heads``.

    PointRend trains on the boxes that the box head predicts, as in :class:`pointrend.instance.PointRendMaskHead`.
    """

    def __init__(self, heads: RoIHeads, mask_head: PointRendMaskHead) -> None:
        super().__init__(
            heads.box_roi_pool,
            heads.box_head,
            heads.box_predictor,
            fg_iou_thresh=heads.proposal_matcher.high_threshold,
            bg_iou_thresh=heads.proposal_matcher.low_threshold,
            batch_size_per_image=heads.fg_bg_sampler.batch_size_per_image,
            positive_fraction=heads.fg_bg_sampler.positive_fraction,
            bbox_reg_weights=heads.box_coder.weights,
            score_thresh=heads.score_thresh,
            nms_thresh=heads.nms_thresh,
            detections_per_img=heads.detections_per_img,
            mask_head=mask_head,  # without a mask_roi_pool, so that torchvision's forward predicts boxes only
        )
        self.training = heads.training

    def forward(
        self,
        features: Features,
        proposals: list[Tensor],
        image_shapes: list[Size],
        targets: list[Target] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """torchvision's: detections in evaluation, with ``masks`` (R, 1, M, M) in their boxes, or losses in training.

        Raises:
            ValueError: in training, if there are no targets, or the boxes, labels or masks of one are missing or of
                another type or shape; in evaluation, if the resolution of the rendering is not 7, 14, 28, ..., or the
                fine features hold NaN or infinity.
        """
        if self.training:
            return [], self._losses(features, proposals, image_shapes, targets)
        detections, _ = super().forward(features, proposals, image_shapes)
        # Under autocast torchvision's boxes are bfloat16, in which points and pixels cannot be told apart.
        precision = self.mask_head.point_head.predictor.weight.dtype
        for detected in detections:
            detected["boxes"] = detected["boxes"].to(precision)
        boxes = [detected["boxes"] for detected in detections]
        logits = self.mask_head.logits(features, boxes, [detected["labels"] for detected in detections], None)
        for detected, masks in zip(detections, split_like(logits.float().sigmoid(), boxes), strict=True):
            detected["masks"] = masks
        return detections, {}

    def _losses(
        self, features: Features, proposals: list[Tensor], image_shapes: list[Size], targets: list[Target] | None
    ) -> dict[str, Tensor]:
        if targets is None:
            raise ValueError("training needs targets: model(images, targets)")
        for index, target in enumerate(targets):
            _check_target(index, target)
        proposals, matched, labels, deltas = self.select_training_samples(proposals, targets)
        logits, predicted = self.box_predictor(self.box_head(self.box_roi_pool(features, proposals, image_shapes)))
        loss_classifier, loss_box_reg = fastrcnn_loss(logits, predicted, labels, deltas)

        flat_labels = torch.cat(labels)
        foreground, (proposals, labels, matched) = choose_foreground(labels, proposals, matched)
        chosen = predicted.detach().unflatten(1, (-1, 4))[foreground, flat_labels[foreground]]
        regions = decode_regions(self.box_coder, proposals, labels, matched, chosen)
        masks = [target["masks"].bool() for target in targets]
        return {
            "loss_classifier": loss_classifier,
            "loss_box_reg": loss_box_reg,
            **self.mask_head.losses(features, regions, masks, image_shapes),
        }


class PointRendTransform(GeneralizedRCNNTransform):
    """torchvision's transform that neither resizes ground-truth masks nor rounds boxes when it pastes masks."""

    def __init__(self, transform: GeneralizedRCNNTransform) -> None:
        super().__init__(
            transform.min_size,
            transform.max_size,
            transform.image_mean,
            transform.image_std,
            transform.size_divisible,
            transform.fixed_size,
            _skip_resize=transform._skip_resize,
        )
        self.training = transform.training

    def resize(self, image: Tensor, target: Target | None = None) -> tuple[Tensor, Target | None]:
        """torchvision's, with ``masks`` (G, H, W) as they are given: they are sampled, at any resolution."""
        others = None if target is None else {name: value for name, value in target.items() if name != "masks"}
        image, resized = super().resize(image, others)
        if resized is not None and target is not None and "masks" in target:
            resized["masks"] = target["masks"]
        return image, resized

    def postprocess(
        self, result: list[dict[str, Tensor]], image_shapes: list[Size], original_image_sizes: list[Size]
    ) -> list[dict[str, Tensor]]:
        """Boxes (R, 4) and masks (R, 1, M, M) of the network's input to boxes and masks (R, 1, H, W) of the images."""
        if self.training:
            return result
        masks = [detected.pop("masks") for detected in result]
        result = super().postprocess(result, image_shapes, original_image_sizes)
        for detected, region_masks, size in zip(result, masks, original_image_sizes, strict=True):
            detected["masks"] = paste_masks(region_masks, detected["boxes"], size)
        return result


def deeplabv3_with_pointrend(
    model: DeepLabV3,
    *,
    fine_level: str = "layer1",
    sampling: PointSampling = PAPER_SEMANTIC_SAMPLING,
    points_per_step: int = PAPER_POINTS_PER_STEP,
) -> "PointRendDeepLabV3":
    """torchvision's DeepLabV3 with PointRend on top of its prediction (Section 5).

    Args:
        model: such as ``deeplabv3_resnet50(...)``, with any number of classes, on any device. The result shares all of
            its modules, and so has their weights bit for bit.
        fine_level: the name of the backbone's layer of stride 4, which PointRend reads from: "layer1" of a ResNet.
        sampling: training points; ``num_points`` None for as many as a stride-16 map has.
        points_per_step: N, the most points that a subdivision step predicts.

    Returns:
        a new model, in the same mode. The parameters of ``pointrend`` are new.

    Raises:
        TypeError: if ``model`` is no torchvision DeepLabV3, or its backbone is of another class than torchvision's.
        ValueError: if the backbone has no layer ``fine_level`` of stride 4, or the stride of the prediction is no power
            of two.
    """
    if type(model) is not DeepLabV3:
        raise TypeError(
            f"the model is a {_class_name(model)}, expected torchvision's DeepLabV3 itself, such as "
            "deeplabv3_resnet50(...)"
        )
    _check_class("backbone", model.backbone, IntermediateLayerGetter)
    if fine_level not in model.backbone:
        raise ValueError(
            f"the backbone has no layer {fine_level!r}, only {', '.join(model.backbone)}: pass the name of one of "
            f"stride {SemanticPointRend.fine_stride} as fine_level"
        )
    returned = {**model.backbone.return_layers}
    fine_name = returned.setdefault(fine_level, fine_level)
    backbone = IntermediateLayerGetter(model.backbone, returned)
    backbone.training = model.backbone.training
    maps = _probe(model, lambda image: {**(found := backbone(image)), "out": model.classifier(found["out"])})
    fine = _feature_map(maps, fine_name, SemanticPointRend.fine_stride)
    stride = PROBE_SIDE // maps["out"].shape[-1]
    if extent_of(maps["out"], stride) != (PROBE_SIDE, PROBE_SIDE) or stride & (stride - 1):
        raise ValueError(
            f"the prediction for {PROBE_SIDE} x {PROBE_SIDE} pixels is {_size_text(maps['out'])}, expected one of a "
            "stride that is a power of two, such as 8 or 16"
        )
    head = SemanticPointRend(
        fine_name, fine.shape[1], maps["out"].shape[1], sampling=sampling, points_per_step=points_per_step
    )
    head.to(fine).train(model.training)
    result = PointRendDeepLabV3(backbone, model.classifier, model.aux_classifier, head, stride)
    result.training = model.training
    return result


class PointRendDeepLabV3(DeepLabV3):
    """torchvision's DeepLabV3 whose prediction PointRend refines; :func:`deeplabv3_with_pointrend` builds it.

    In evaluation, ``model(images)`` returns torchvision's dict: "out" (N, K, H, W), rendered by subdivision, and "aux"
    if the model has an auxiliary classifier.

    In training, ``model(images, labels)`` returns the same with "out" as the classifier predicts it, and
    ``loss_semantic_point``, the loss of the points, to add to the loss of "out". Labels are (N, H, W) int64, 255 where
    unknown, as in ``F.cross_entropy(out, labels, ignore_index=255)``.

    If H and W are multiples of the stride, "out" in training equals torchvision's. Otherwise torchvision stretches the
    last row and column of cells into the image, and here they reach beyond it, as in :mod:`pointrend.semantic`.
    """

    def __init__(
        self,
        backbone: IntermediateLayerGetter,
        classifier: nn.Module,
        aux_classifier: nn.Module | None,
        pointrend: SemanticPointRend,
        stride: int,
    ) -> None:
        super().__init__(backbone, classifier, aux_classifier)
        self.pointrend, self.stride = pointrend, stride

    def forward(self, images: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """Normalised images (N, 3, H, W), and in training labels (N, H, W), to torchvision's dict of logits.

        Raises:
            ValueError: in training, if there are no labels, or they are not int64 of the images' size; in evaluation,
                if the fine features hold NaN or infinity.
        """
        size = (images.shape[-2], images.shape[-1])
        if not self.training:
            features, coarse, result = self._coarse(images)
            rendered = render_coarse(self.pointrend, features, coarse, self.stride, self.pointrend.points_per_step)
            return {"out": crop(rendered, size), **result}
        if labels is None:
            raise ValueError("training needs labels: model(images, labels)")
        if labels.dtype != torch.int64 or labels.shape != (len(images), *size):
            raise ValueError(
                f"labels are {labels.dtype} of shape {tuple(labels.shape)}, expected int64 of shape "
                f"{(len(images), *size)}, with 255 where unknown"
            )
        features, coarse, result = self._coarse(images)
        return {
            "out": crop(upsample(coarse, extent_of(coarse, self.stride)), size),
            **result,
            "loss_semantic_point": self.pointrend.loss(features, coarse, self.stride, labels, [size] * len(images)),
        }

    def _coarse(self, images: Tensor) -> tuple[Features, Tensor, dict[str, Tensor]]:
        """The backbone's features, the coarse prediction (N, K, h, w), and the output "aux" if there is one."""
        features = self.backbone(images)
        coarse = self.classifier(features["out"])
        others = {}
        if self.aux_classifier is not None:
            others["aux"] = upsample(self.aux_classifier(features["aux"]), (images.shape[-2], images.shape[-1]))
        return features, coarse, others


def _check_target(index: int, target: Target) -> None:
    """Raises a ValueError for a target whose boxes, labels or masks are missing or of a wrong type."""
    for name, expected in (("boxes", "float (G, 4)"), ("labels", "int64 (G,)"), ("masks", "uint8 or bool (G, H, W)")):
        if name not in target:
            raise ValueError(f"target {index} has no {name!r}, expected {expected}")
    boxes, labels, masks = target["boxes"], target["labels"], target["masks"]
    valid = boxes.is_floating_point() and labels.dtype == torch.int64 and masks.dim() == 3
    if not valid or not len(boxes) == len(labels) == len(masks):
        raise ValueError(
            f"target {index} has boxes {boxes.dtype} {tuple(boxes.shape)}, labels {labels.dtype} "
            f"{tuple(labels.shape)} and masks {masks.dtype} {tuple(masks.shape)}, expected float (G, 4), int64 (G,) "
            "and (G, H, W)"
        )


def _class_name(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _check_class(name: str, module: nn.Module, expected: type[nn.Module]) -> None:
    """A module that is replaced must be torchvision's own: what a subclass does otherwise would be lost."""
    if type(module) is not expected:
        raise TypeError(
            f"model.{name} is a {_class_name(module)}, expected torchvision's {expected.__name__} itself: it is "
            "replaced, and what another class does would be lost"
        )


def _size_text(maps: Tensor) -> str:
    return f"{maps.shape[-2]} x {maps.shape[-1]}"


@torch.no_grad()
def _probe(model: nn.Module, maps: Callable[[Tensor], Features]) -> Features:
    """The maps that a model computes for a small black image, in evaluation mode; its modes stay as they are."""
    modes = [(module, module.training) for module in model.modules()]
    weight = next(model.parameters())
    try:
        model.eval()
        return maps(weight.new_zeros(1, 3, PROBE_SIDE, PROBE_SIDE))
    finally:
        for module, mode in modes:
            module.training = mode


def _feature_map(maps: Features, name: str, stride: int) -> Tensor:
    """The feature map of that name for an image of ``PROBE_SIDE`` pixels; a ValueError if its stride is another one."""
    if name not in maps:
        raise ValueError(
            f"the backbone has no feature map {name!r}, only {', '.join(map(repr, maps))}: pass the name of the one of "
            f"stride {stride} as fine_level"
        )
    if extent_of(maps[name], stride) != (PROBE_SIDE, PROBE_SIDE):
        raise ValueError(
            f"the feature map {name!r} has {_size_text(maps[name])} cells for {PROBE_SIDE} x {PROBE_SIDE} pixels, "
            f"expected a stride of {stride}: pass the name of a map of that stride as fine_level, or build the model "
            "with one"
        )
    return maps[name]
