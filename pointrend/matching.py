"""Matches boxes to ground truth and samples them for training, all images at once.

What torchvision's ``Matcher`` and ``BalancedPositiveNegativeSampler`` do image by image, and a GPU would wait for the
host each time: here neither kernels nor waits grow with the number of images.

Shape letters: N images, G objects in the image with most of them, R boxes of an image.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler, Matcher

Target = dict[str, Tensor]

#: Pairs of an object and a box whose IoU is computed at once; in float32 64 MB for each of the few tensors it needs.
PAIRS_AT_ONCE = 2**24


class Objects(NamedTuple):
    """The ground truth of N images, padded to as many objects as the image with most has, and at least one."""

    boxes: Tensor  # (N, G, 4) xyxy; zeros for padding
    labels: Tensor  # (N, G) int64; zeros for padding
    exist: Tensor  # (N, G) bool, False for padding


def existing(counts: list[int], length: int, device: torch.device) -> Tensor:
    """Which rows of a padded batch are none of padding: (N, length) bool, for counts of N images."""
    return torch.arange(length, device=device) < torch.tensor(counts, device=device)[:, None]


def pad_objects(targets: list[Target], dtype: torch.dtype) -> Objects:
    """Pads ``boxes`` (G, 4) and ``labels`` (G,) of N targets; boxes become of a type."""
    boxes = pad_sequence([target["boxes"].to(dtype) for target in targets], batch_first=True)
    labels = pad_sequence([target["labels"] for target in targets], batch_first=True)
    if not boxes.shape[1]:
        boxes, labels = F.pad(boxes, (0, 0, 0, 1)), F.pad(labels, (0, 1))
    return Objects(boxes, labels, existing([len(t["boxes"]) for t in targets], boxes.shape[1], boxes.device))


def _areas(boxes: Tensor) -> Tensor:
    """Areas (...) of boxes (..., 4) xyxy."""
    width, height = (boxes[..., 2:] - boxes[..., :2]).unbind(-1)
    return width * height


def pairwise_iou(objects: Tensor, boxes: Tensor) -> Tensor:
    """IoU of boxes (N, G, 4) and (N, R, 4), xyxy: (N, G, R)."""
    # By coordinate: torchvision's box_iou has x and y as a last dimension of two, in which a CPU cannot vectorise.
    (x0, y0, x1, y1), (u0, v0, u1, v1) = objects.unsqueeze(2).unbind(3), boxes.unsqueeze(1).unbind(3)
    width = (torch.minimum(x1, u1) - torch.maximum(x0, u0)).clamp_(min=0)
    height = (torch.minimum(y1, v1) - torch.maximum(y0, v0)).clamp_(min=0)
    intersection = width.mul_(height)
    union = (_areas(objects).unsqueeze(2) + _areas(boxes).unsqueeze(1)).sub_(intersection)
    return intersection.div_(union)


def match(objects: Objects, boxes: Tensor, matcher: Matcher) -> tuple[Tensor, Tensor]:
    """Finds the object of each box.

    Args:
        objects: the ground truth.
        boxes: (N, R, 4) xyxy.
        matcher: has the thresholds, and says whether an object's best boxes are foreground even below them.

    Returns:
        the index of the object with the best IoU, (N, R) int64, and the label of each box, (N, R) int64: that of the
        object for foreground, 0 for background, -1 for neither.
    """
    pairs = objects.boxes.shape[1] * boxes.shape[1]
    images_at_once = max(1, PAIRS_AT_ONCE // max(1, pairs))
    parts = [
        _match(Objects(*some), some_boxes, matcher)
        for *some, some_boxes in zip(*(field.split(images_at_once) for field in (*objects, boxes)), strict=True)
    ]
    matched, labels = parts[0] if len(parts) == 1 else map(torch.cat, zip(*parts, strict=True))
    return matched, labels


def _match(objects: Objects, boxes: Tensor, matcher: Matcher) -> tuple[Tensor, Tensor]:
    iou = pairwise_iou(objects.boxes, boxes).masked_fill_(~objects.exist[:, :, None], -1)
    best, matched = iou.max(dim=1)
    foreground = best >= matcher.high_threshold
    if matcher.allow_low_quality_matches:
        # The best boxes of every object, all of those that tie.
        best_of_object = iou.amax(dim=2, keepdim=True).masked_fill_(~objects.exist[:, :, None], 2)
        foreground |= (iou == best_of_object).any(dim=1)
    # 0 below the low threshold, -1 from there on.
    labels = -(best >= matcher.low_threshold).long()
    return matched, torch.where(foreground, objects.labels.gather(1, matched), labels)


def sample(labels: Tensor, sampler: BalancedPositiveNegativeSampler) -> tuple[list[Tensor], list[Tensor]]:
    """Draws foreground and background boxes of each image at random. The host waits once for all images.

    Args:
        labels: (N, R): above 0 for foreground, 0 for background, below 0 for what is not to be drawn.
        sampler: has the number of boxes of an image, and the share of it that foreground may have.

    Returns:
        the foreground, and the background that fills up the number as far as there is any: N tensors each, of indices
        among all N R boxes.
    """
    images, boxes = labels.shape
    number = sampler.batch_size_per_image
    # The best of random scores are a random choice.
    scores = torch.rand(labels.shape, device=labels.device)
    positive = scores.masked_fill(labels <= 0, -1).topk(min(int(number * sampler.positive_fraction), boxes), dim=1)
    negative = scores.masked_fill_(labels != 0, -1).topk(min(number, boxes), dim=1)
    num_positive = (positive.values >= 0).sum(dim=1)
    num_negative = torch.minimum((negative.values >= 0).sum(dim=1), number - num_positive)
    first = torch.arange(images, device=labels.device)[:, None] * boxes
    counts = torch.stack((num_positive, num_negative)).tolist()
    drawn = [
        [row[:count] for row, count in zip(indices + first, of_images, strict=True)]
        for indices, of_images in zip((positive.indices, negative.indices), counts, strict=True)
    ]
    return drawn[0], drawn[1]
