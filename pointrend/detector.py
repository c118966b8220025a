"""The box detector of Mask R-CNN: torchvision's RPN and RoI heads with the paper's training recipe.

Where torchvision differs from that recipe, which is Detectron2's, this module overrides it: anchors are not rounded,
strides are exact, RoIAlign is aligned to pixel centres, and box losses are L1.

Shape letters: N images, R regions, C channels, K classes.
"""

from itertools import accumulate
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import batched_nms, clip_boxes_to_image, nms

from pointrend.backbones import STRIDES
from pointrend.matching import Target, existing, match, pad_objects, sample
from pointrend.points import Size
from pointrend.pooling import Features, pool_regions
from pointrend.sampled_anchors import Cells, predict_at, pyramid_cells

ASPECT_RATIOS = (0.5, 1.0, 2.0)
#: Beyond it torchvision suppresses group by group, each with its own waits for the device.
NMS_BOXES_AT_ONCE = 25_000
MAX_COORDINATE = 1e4  # pixels; masks are not trained on predicted boxes beyond it


class Anchors(AnchorGenerator):
    """Anchors of one size per level and three aspect ratios (height / width), centred on cells' upper left corners."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        super().__init__(tuple((size,) for size in sizes), (ASPECT_RATIOS,) * len(sizes))
        # The last maps' sizes and device, and their anchors and cells.
        self._kept: tuple[object, Tensor, Cells | None] = (None, torch.empty(0), None)

    def generate_anchors(self, scales, aspect_ratios, dtype=torch.float32, device=torch.device("cpu")):  # noqa: B008
        """torchvision's anchors without rounding to whole pixels: (A, 4)."""
        sizes = torch.as_tensor(scales, dtype=dtype, device=device)
        ratios = torch.as_tensor(aspect_ratios, dtype=dtype, device=device).sqrt()
        widths, heights = (sizes / ratios[:, None]).flatten(), (sizes * ratios[:, None]).flatten()
        return torch.stack((-widths, -heights, widths, heights), dim=1) / 2

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """One (A H W summed over levels, 4) tensor per image."""
        grids, device = [list(feature.shape[-2:]) for feature in feature_maps], feature_maps[0].device
        if torch.compiler.is_compiling():
            anchors = self._anchors(grids, device)
        else:
            if self._kept[0] != (grids, device):
                with torch.inference_mode(False):  # a tensor of inference mode could not train
                    self._kept = (grids, device), self._anchors(grids, device), pyramid_cells(grids, device)
            anchors = self._kept[1]
        return [anchors] * len(image_list.image_sizes)

    def cells(self, feature_maps: list[Tensor]) -> Cells:
        """The cells of maps (N, C, H, W). Those of the last maps are kept with their anchors."""
        key = ([list(feature.shape[-2:]) for feature in feature_maps], feature_maps[0].device)
        known, _, cells = self._kept
        return cells if cells is not None and known == key else pyramid_cells(*key)

    def _anchors(self, grids: list[list[int]], device: torch.device) -> Tensor:
        # torchvision divides the padded image's size by the map's, which is not the stride of P6 for most images.
        self.set_cell_anchors(torch.float32, device)
        strides = [torch.tensor(stride, device=device) for stride in STRIDES.values()]
        return torch.cat(self.grid_anchors(grids, [[stride, stride] for stride in strides]))


def split_like(flat: Tensor, parts: list[Tensor]) -> list[Tensor]:
    """Splits rows (R summed over N images, ...) into N tensors with as many rows as the tensors of ``parts``."""
    # An exported graph is for one image; splitting would fix its number of rows.
    return [flat] if len(parts) == 1 else list(flat.split([part.shape[0] for part in parts]))


def nms_per_group(groups: Tensor, boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Non-maximum suppression among the boxes of each group.

    Args:
        groups: (R,) int64.
        boxes: (R, 4) xyxy, nowhere negative.
        scores: (R,).
        threshold: IoU with a better box above which a box is dropped.

    Returns:
        (R',) indices of the boxes that are kept, best first.
    """
    if not torch.compiler.is_compiling():
        return batched_nms(boxes, scores, groups, threshold)
    # A graph can neither branch on the number of boxes nor loop over groups: shift the groups apart instead.
    extent = F.pad(boxes.flatten(), (0, 1)).amax(0) + 1
    shifted = boxes + (groups * extent)[:, None]
    # torchvision's graphs assume that at least two boxes are kept: append two, and remove them from the result.
    shifted = torch.cat((shifted, shifted.new_tensor([[-2, -2, -1, -1], [-4, -4, -3, -3]])))
    kept = nms(shifted, F.pad(scores, (0, 2), value=torch.finfo(scores.dtype).min), threshold)
    return kept[kept < boxes.shape[0]]


class PreciseBoxCoder(BoxCoder):
    """torchvision's box coder, bit by bit, in half as many operators: x and y are computed at once.

    The weights of x and y are equal, and so are those of width and height, as torchvision's RPN has them. Boxes are
    decoded in their own type or a wider one: above 256 pixels, bfloat16 has not even every pixel.
    """

    def encode_single(self, reference_boxes: Tensor, proposals: Tensor) -> Tensor:
        """The deltas (R, 4) from proposals (R, 4) to reference boxes (R, 4), xyxy."""
        of_centre, _, of_size, _ = self.weights
        (centre, size), (wanted_centre, wanted_size) = _centre_and_size(proposals), _centre_and_size(reference_boxes)
        shift = of_centre * (wanted_centre - centre) / size
        return torch.cat((shift, of_size * torch.log(wanted_size / size)), dim=1)

    def decode_single(self, rel_codes: Tensor, boxes: Tensor) -> Tensor:
        """Boxes (R, 4) moved by the deltas (R, 4 K) of K classes: (R, 4 K)."""
        dtype = torch.promote_types(rel_codes.dtype, boxes.dtype)
        of_centre, _, of_size, _ = self.weights
        shift, stretch = rel_codes.to(dtype).unflatten(1, (-1, 4)).split(2, dim=2)
        centre, size = (values.unsqueeze(1) for values in _centre_and_size(boxes.to(dtype)))
        decoded_centre = shift / of_centre * size + centre
        half = 0.5 * ((stretch / of_size).clamp(max=self.bbox_xform_clip).exp() * size)
        return torch.cat((decoded_centre - half, decoded_centre + half), dim=2).flatten(1)


def _centre_and_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """The centres and the sizes (R, 2) of boxes (R, 4) xyxy."""
    size = boxes[:, 2:] - boxes[:, :2]
    return boxes[:, :2] + 0.5 * size, size


class ProposalNetwork(RegionProposalNetwork):
    """torchvision's RPN with an L1 box loss, and proposals ranked by their logits instead of probabilities."""

    def forward(
        self, images: ImageList, features: Features, targets: list[Target] | None = None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """The proposals of each image, N tensors (R, 4), and in training the two losses.

        Raises:
            ValueError: in training without targets.
        """
        proposals = self.propose(images, features)
        if not self.training:
            return proposals, {}
        if targets is None:
            raise ValueError("training needs targets: rpn(images, features, targets)")
        return proposals, self.losses(images, features, targets)

    @torch.no_grad()
    def propose(self, batch: ImageList, features: Features) -> list[Tensor]:
        """The proposals of each image: N tensors (R, 4), without a gradient."""
        maps = list(features.values())
        level_logits, level_deltas = self.head(maps)
        anchors, *_ = self.anchor_generator(batch, maps)
        counts = [level.shape[1] * level.shape[2] * level.shape[3] for level in level_logits]
        # By level, then by cell, then by anchor.
        logits = torch.cat([level.flatten(2).transpose(1, 2) for level in level_logits], dim=1).flatten(1)
        deltas = torch.cat([level.flatten(2).transpose(1, 2) for level in level_deltas], dim=1)
        deltas = deltas.flatten(1).unflatten(1, (-1, 4))
        return self.select_proposals(logits, deltas, anchors, batch.image_sizes, counts)[0]

    def select_proposals(
        self, logits: Tensor, deltas: Tensor, anchors: Tensor, image_sizes: list[Size], counts: list[int]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The best proposals of each level, then NMS within each level, then the best of all of them.

        Args:
            logits: (N, A), A anchors of all levels. Probabilities close to 1 would be equal after rounding.
            deltas: (N, A, 4). Only those of the best anchors are decoded.
            anchors: (A, 4) xyxy, the same for all images.
            image_sizes: the size of each image without padding.
            counts: how many of the A anchors each level has.

        Returns:
            proposals (R, 4) inside the image and their logits (R,) of each image, best first.
        """
        images, best, levels, first = len(logits), [], [], 0
        for level, count in enumerate(counts):
            kept = min(count, self.pre_nms_top_n())
            best.append(logits[:, first : first + count].topk(kept, dim=1).indices + first)
            levels.append(torch.full((kept,), level, device=logits.device))
            first += count
        indices = torch.cat(best, dim=1)
        chosen = deltas.gather(1, indices.unsqueeze(2).expand(-1, -1, 4)).flatten(0, 1)
        boxes = self.box_coder.decode_single(chosen, anchors[indices.flatten()])
        scores = logits.gather(1, indices).flatten().to(boxes.dtype)
        finite = torch.cat((boxes, scores[:, None]), dim=1).isfinite().all(dim=1)
        by_image = boxes.view(images, -1, 4)
        boxes = torch.cat([clip_boxes_to_image(by_image[index], size) for index, size in enumerate(image_sizes)])
        usable = finite & (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
        # Boxes without area suppress none.
        boxes, scores = torch.where(usable[:, None], boxes, 0), torch.where(usable, scores, 0)
        groups = (torch.arange(images, device=logits.device)[:, None] * len(counts) + torch.cat(levels)).flatten()
        if images == 1:
            kept = nms_per_group(groups, boxes, scores, self.nms_thresh)
            parts = [kept[usable[kept]]]
        else:
            kept = self._suppress(groups, boxes, scores, indices.shape[1])
            # Image by image, what is not usable after all of them; scores stay in order.
            image = torch.where(usable[kept], kept // indices.shape[1], images)
            found = (image[:, None] == torch.arange(images, device=image.device)).sum(dim=0).tolist()
            parts = list(kept[image.argsort(stable=True)][: sum(found)].split(found))
        parts = [part[: self.post_nms_top_n()] for part in parts]
        return [boxes[part] for part in parts], [scores[part] for part in parts]

    def _suppress(self, groups: Tensor, boxes: Tensor, scores: Tensor, boxes_per_image: int) -> Tensor:
        """:func:`nms_per_group` of several images: (R',) indices, best first among the images suppressed at once.

        Args:
            groups: (N B,) int64, B boxes of each image.
            boxes: (N B, 4) xyxy.
            scores: (N B,).
            boxes_per_image: B.
        """
        boxes_at_once = max(1, NMS_BOXES_AT_ONCE // boxes_per_image) * boxes_per_image
        if boxes_at_once >= len(boxes):
            return nms_per_group(groups, boxes, scores, self.nms_thresh)
        parts = zip(*(values.split(boxes_at_once) for values in (groups, boxes, scores)), strict=True)
        kept = [nms_per_group(group, box, score, self.nms_thresh) for group, box, score in parts]
        return torch.cat([indices + part * boxes_at_once for part, indices in enumerate(kept)])

    def losses(self, batch: ImageList, features: Features, targets: list[Target]) -> dict[str, Tensor]:
        """The losses of sampled anchors. Nothing is predicted for the others.

        Args:
            batch: N images.
            features: the maps (N, C, H, W) of each level.
            targets: ``boxes`` (G, 4) and ``labels`` (G,) of each image.
        """
        maps = list(features.values())
        anchors, *_ = self.anchor_generator(batch, maps)
        objects = pad_objects(targets, anchors.dtype)
        matched, labels = match(objects, anchors.expand(len(targets), -1, -1), self.proposal_matcher)
        positive, negative = (torch.cat(drawn) for drawn in sample(labels, self.fg_bg_sampler))
        sampled = torch.cat((positive, negative))
        logits, deltas = predict_at(self.head, maps, self.anchor_generator.cells(maps), sampled, len(positive))
        wanted = torch.cat((torch.ones_like(positive), torch.zeros_like(negative)))
        objectness_loss = F.binary_cross_entropy_with_logits(logits, wanted.to(logits), reduction="sum")
        image = positive // len(anchors)
        matched_boxes = objects.boxes[image, matched.flatten()[positive]]
        box_targets = self.box_coder.encode_single(matched_boxes, anchors[positive - image * len(anchors)])
        box_loss = F.l1_loss(deltas, box_targets, reduction="sum")
        normaliser = self.fg_bg_sampler.batch_size_per_image * len(targets)
        return {"loss_objectness": objectness_loss / normaliser, "loss_rpn_box_reg": box_loss / normaliser}


class Regions(NamedTuple):
    """Foreground regions to train the mask head on; each field has one tensor per image."""

    proposals: list[Tensor]  # (R, 4) xyxy
    predicted: list[Tensor]  # (R, 4) xyxy, the proposals as the box head corrects them; no gradient
    labels: list[Tensor]  # (R,) from 1
    targets: list[Tensor]  # (R,) index of the matched ground-truth object


@torch.no_grad()
def decode_regions(
    coder: BoxCoder, proposals: list[Tensor], labels: list[Tensor], matched: list[Tensor], deltas: Tensor
) -> Regions:
    """Foreground regions, given the box deltas (R summed over images, 4) of all of them for their classes."""
    origins = torch.cat(proposals)
    decoded = coder.decode_single(deltas.float(), origins)
    # A diverging network predicts boxes of any size, which the mask head could not pool from. The box loss still
    # shows the divergence.
    usable = (decoded.abs() < MAX_COORDINATE).all(dim=1, keepdim=True)
    decoded = torch.where(usable, decoded, origins)
    return Regions(proposals, list(decoded.split([len(boxes) for boxes in proposals])), labels, matched)


class Foreground(NamedTuple):
    """Foreground proposals; each field has one tensor per image."""

    proposals: list[Tensor]  # (R, 4) xyxy
    labels: list[Tensor]  # (R,) from 1
    targets: list[Tensor]  # (R,) index of the matched ground-truth object


class Samples(NamedTuple):
    """Proposals that the box head trains on."""

    proposals: list[Tensor]  # (S, 4) of each image, foreground first
    labels: Tensor  # (S summed over images,), 0 for background
    foreground: Tensor  # (R summed over images,) the indices of the foreground among these
    regions: Foreground
    deltas: Tensor  # (R summed over images, 4) from the foreground to its objects


class BoxHeads(RoIHeads):
    """torchvision's box head with aligned pooling and an L1 loss, which also returns its foreground regions."""

    pooled_size = 7
    sampling_ratio = 0

    def predict(self, features: Features, proposals: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Class logits (R, K + 1), background first, and box deltas (R, 4 (K + 1)) of the proposals of all images."""
        pooled = pool_regions(features, proposals, self.pooled_size, self.sampling_ratio)
        return self.box_predictor(self.box_head(pooled))

    def train_step(
        self, features: Features, proposals: list[Tensor], targets: list[Target]
    ) -> tuple[Regions, dict[str, Tensor]]:
        """Samples and classifies proposals: their foreground regions, and the two losses of the box head."""
        samples = self.sample_proposals(proposals, targets)
        logits, deltas = self.predict(features, samples.proposals)
        chosen = deltas.unflatten(1, (-1, 4))[samples.foreground, samples.labels[samples.foreground]]
        box_loss = F.l1_loss(chosen, samples.deltas, reduction="sum") / max(1, len(samples.labels))
        losses = {"loss_classifier": F.cross_entropy(logits, samples.labels), "loss_box_reg": box_loss}
        return decode_regions(self.box_coder, *samples.regions, chosen), losses

    @torch.no_grad()
    def foreground(self, features: Features, proposals: list[Tensor], targets: list[Target]) -> Regions:
        """The regions of :meth:`train_step` without its losses, which need the background's predictions as well."""
        proposals, labels, matched = self.sample_proposals(proposals, targets).regions
        _, deltas = self.predict(features, proposals)
        classes = torch.cat(labels)
        chosen = deltas.unflatten(1, (-1, 4))[torch.arange(len(classes), device=classes.device), classes]
        return decode_regions(self.box_coder, proposals, labels, matched, chosen)

    @torch.no_grad()
    def sample_proposals(self, proposals: list[Tensor], targets: list[Target]) -> Samples:
        """Draws foreground and background of each image among its proposals (R, 4) and the objects themselves."""
        objects = pad_objects(targets, proposals[0].dtype)
        boxes = torch.cat((pad_sequence(proposals, batch_first=True), objects.boxes), dim=1)
        exist = existing([len(part) for part in proposals], boxes.shape[1] - objects.exist.shape[1], boxes.device)
        exist = torch.cat((exist, objects.exist), dim=1)
        matched, labels = match(objects, boxes, self.proposal_matcher)
        positive, negative = sample(labels.masked_fill(~exist, -1), self.fg_bg_sampler)
        counts, sizes = [len(p) for p in positive], [len(p) + len(n) for p, n in zip(positive, negative, strict=True)]
        flat_boxes, flat_labels, foreground = boxes.flatten(0, 1), labels.flatten(), torch.cat(positive)
        drawn = torch.cat([part for of_image in zip(positive, negative, strict=True) for part in of_image])
        image, origins, of_object = foreground // boxes.shape[1], flat_boxes[foreground], matched.flatten()[foreground]
        # Before the foreground of an image comes the background of those before it.
        background_before = torch.tensor([0, *accumulate(len(part) for part in negative)], device=boxes.device)
        fields = (origins, flat_labels[foreground], of_object)
        return Samples(
            list(flat_boxes[drawn].split(sizes)),
            flat_labels[drawn],
            torch.arange(len(foreground), device=boxes.device) + background_before[image],
            Foreground(*(list(field.split(counts)) for field in fields)),
            self.box_coder.encode_single(objects.boxes[image, of_object], origins),
        )


def choose_foreground(
    labels: list[Tensor], proposals: list[Tensor], matched: list[Tensor]
) -> tuple[Tensor, tuple[list[Tensor], list[Tensor], list[Tensor]]]:
    """The foreground, where labels are not 0, with two reads by the host for any number of images.

    Args:
        labels: (R,) of each image.
        proposals: (R, 4) of each image.
        matched: (R,) of each image.

    Returns:
        indices of the foreground among the regions of all images, and its proposals, labels and matches, by image.
    """
    is_foreground = torch.cat(labels) > 0
    foreground = torch.where(is_foreground)[0]
    counts = torch.stack([part.sum() for part in split_like(is_foreground, labels)]).tolist()
    chosen = [list(torch.cat(field)[foreground].split(counts)) for field in (proposals, labels, matched)]
    return foreground, (chosen[0], chosen[1], chosen[2])


def proposal_network(
    channels: int, anchor_sizes: tuple[int, ...], per_level: tuple[int, int], per_image: int
) -> ProposalNetwork:
    """The RPN.

    Args:
        channels: C of the pyramid.
        anchor_sizes: one per level, in pixels of the network's input.
        per_level: proposals of each level before NMS, in training and at inference.
        per_image: proposals of each image after NMS.
    """
    network = ProposalNetwork(
        Anchors(anchor_sizes),
        RPNHead(channels, len(ASPECT_RATIOS)),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_top_n={"training": per_level[0], "testing": per_level[1]},
        post_nms_top_n={"training": per_image, "testing": per_image},
        nms_thresh=0.7,
    )
    network.box_coder = PreciseBoxCoder(network.box_coder.weights)
    return network


def box_heads(
    channels: int,
    hidden: int,
    num_classes: int,
    rois_per_image: int,
    detections_per_image: int,
    sampling_ratio: int = 0,
) -> BoxHeads:
    """The box head: two fully connected layers on 7x7 features, K + 1 classes with background first."""
    head = TwoMLPHead(channels * BoxHeads.pooled_size**2, hidden)
    for layer in (head.fc6, head.fc7):
        nn.init.kaiming_uniform_(layer.weight, a=1)
        nn.init.zeros_(layer.bias)
    predictor = FastRCNNPredictor(hidden, num_classes + 1)
    for layer, std in ((predictor.cls_score, 0.01), (predictor.bbox_pred, 0.001)):
        nn.init.normal_(layer.weight, std=std)
        nn.init.zeros_(layer.bias)
    heads = BoxHeads(
        None,
        head,
        predictor,
        fg_iou_thresh=0.5,
        bg_iou_thresh=0.5,
        batch_size_per_image=rois_per_image,
        positive_fraction=0.25,
        bbox_reg_weights=(10.0, 10.0, 5.0, 5.0),
        score_thresh=0.05,
        nms_thresh=0.5,
        detections_per_img=detections_per_image,
    )
    heads.sampling_ratio = sampling_ratio
    return heads
