import pytest
import torch
from torch import Tensor

from pointrend.agreement import compare_instances, compare_semantics, mask_ious


def instances(boxes: list[list[float]], labels: list[int], scores: list[float], **masks: Tensor) -> dict[str, Tensor]:
    return {"boxes": torch.tensor(boxes), "labels": torch.tensor(labels), "scores": torch.tensor(scores), **masks}


def test_mask_ious_by_hand() -> None:
    first = torch.tensor([[[1, 1], [0, 0]], [[1, 1], [1, 0]], [[0, 0], [0, 0]], [[1, 0], [0, 0]]]).bool()
    second = torch.tensor([[[1, 1], [0, 0]], [[1, 0], [0, 1]], [[0, 0], [0, 0]], [[0, 0], [0, 0]]]).bool()
    assert mask_ious(first, second).tolist() == [1, 0.25, 1, 0]


def test_detections_are_compared_with_the_nearest_of_their_class_in_any_order() -> None:
    masks = torch.tensor([[[[0.9, 0.9, 0.9, 0.1]]], [[[0.9, 0.1, 0.1, 0.1]]]])
    reference = instances([[0, 0, 4, 4], [8, 8, 12, 12]], [1, 2], [0.9, 0.8], masks=masks)
    # A third one lies exactly on the first, but is of another class.
    other = instances(
        [[8, 8, 12, 12.5], [0, 0, 4, 4], [0, 0.25, 4, 4]],
        [2, 2, 1],
        [0.75, 0.5, 0.9],
        masks=torch.cat((masks[1:], masks[:1], masks[:1] - 0.5)),
        region_masks=torch.zeros(3, 1, 2, 2),
    )
    found = compare_instances(reference, other)
    assert found == {
        "detections": 2,
        "other_detections": 3,
        "box": 0.5,
        "score": pytest.approx(0.05),
        "mask_iou": 0.0,
    }


def test_nothing_found_is_counted() -> None:
    nothing = instances([], [], [])
    one = instances([[0, 0, 4, 4]], [1], [0.9])
    assert compare_instances(nothing, one) == {"detections": 0, "other_detections": 1}
    assert compare_instances(nothing, nothing) == {"detections": 0, "other_detections": 0}


def test_semantics_by_hand() -> None:
    reference = torch.tensor([[[1.0, 1.0, 0.0, 0.0]], [[0.0, 0.0, 1.0, 1.0]]])
    other = torch.tensor([[[1.0, 1.0, 0.0, 2.0]], [[0.0, 0.5, 1.0, 1.0]]])
    assert compare_semantics(reference, other) == {"logit": 2.0, "labels_equal": 0.75}
