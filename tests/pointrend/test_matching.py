"""Against what torchvision computes image by image."""

from unittest import mock

import pytest
import torch
from torch import Tensor
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler, Matcher
from torchvision.ops import box_iou

from pointrend import matching
from pointrend.matching import match, pad_objects, pairwise_iou, sample


def boxes(count: int) -> Tensor:
    origins = torch.rand(count, 2) * 50
    return torch.cat((origins, origins + 1 + torch.rand(count, 2) * 40), dim=1)


def targets(*counts: int) -> list[dict[str, Tensor]]:
    return [{"boxes": boxes(count), "labels": torch.randint(1, 9, (count,))} for count in counts]


def expected(target: dict[str, Tensor], candidates: Tensor, matcher: Matcher) -> Tensor:
    """The labels by torchvision's matcher, which refuses images without objects."""
    if not len(target["labels"]):
        return torch.zeros(len(candidates), dtype=torch.int64)
    found = matcher(box_iou(target["boxes"], candidates))
    labels = target["labels"][found.clamp(min=0)]
    return torch.where(found >= 0, labels, torch.where(found == matcher.BETWEEN_THRESHOLDS, -1, 0))


def test_iou() -> None:
    torch.manual_seed(0)
    objects, candidates = torch.stack((boxes(5), boxes(5))), torch.stack((boxes(30), boxes(30)))
    found = pairwise_iou(objects, candidates)
    for image in range(2):
        assert torch.equal(found[image], box_iou(objects[image], candidates[image]))


@pytest.mark.parametrize("pairs_at_once", [matching.PAIRS_AT_ONCE, 600, 1])
@pytest.mark.parametrize("thresholds", [(0.7, 0.3, True), (0.5, 0.5, False), (0.6, 0.4, False)])
def test_labels_are_those_of_torchvision(thresholds: tuple[float, float, bool], pairs_at_once: int) -> None:
    torch.manual_seed(1)
    matcher, images = Matcher(*thresholds), targets(3, 0, 7, 1)
    candidates = torch.stack([boxes(60) for _ in images])
    candidates[2, :7] = images[2]["boxes"]
    with mock.patch.object(matching, "PAIRS_AT_ONCE", pairs_at_once):
        matched, labels = match(pad_objects(images, torch.float32), candidates, matcher)
    for target, of_image, its_matched, its_labels in zip(images, candidates, matched, labels, strict=True):
        assert torch.equal(its_labels, expected(target, of_image, matcher))
        foreground = its_labels > 0
        if foreground.any():
            best = box_iou(target["boxes"], of_image).argmax(dim=0)
            assert torch.equal(its_matched[foreground], best[foreground])
    assert (labels > 0).any(dim=1).tolist() == [True, False, True, thresholds[2]] or not thresholds[2]


def test_no_image_has_objects() -> None:
    candidates = torch.stack((boxes(4), boxes(4)))
    labels = match(pad_objects(targets(0, 0), torch.float32), candidates, Matcher(0.7, 0.3, True))[1]
    assert labels.tolist() == [[0] * 4] * 2


class TestSample:
    # Images with enough of both, with few foreground boxes, with none, and with few background boxes.
    LABELS = torch.tensor(
        [[2] * 40 + [0] * 50 + [-1] * 10, [1] * 3 + [0] * 97, [0] * 100, [5] * 90 + [0] * 4 + [-1] * 6]
    )

    def test_numbers_and_kinds(self) -> None:
        positive, negative = sample(self.LABELS, BalancedPositiveNegativeSampler(20, 0.25))
        assert [len(drawn) for drawn in positive] == [5, 3, 0, 5]
        assert [len(drawn) for drawn in negative] == [15, 17, 20, 4]
        for image, drawn in enumerate(zip(positive, negative, strict=True)):
            for part, kind in zip(drawn, (lambda label: label > 0, lambda label: label == 0), strict=True):
                assert (part // 100 == image).all()
                assert kind(self.LABELS.flatten()[part]).all()
                assert len(part.unique()) == len(part)

    def test_every_box_is_as_likely(self) -> None:
        torch.manual_seed(0)
        sampler, counts = BalancedPositiveNegativeSampler(20, 0.25), torch.zeros(400)
        for _ in range(2000):
            counts[torch.cat([part for drawn in sample(self.LABELS, sampler) for part in drawn])] += 1
        shares = (counts / 2000).view(4, 100)
        # Five standard deviations.
        torch.testing.assert_close(shares[0, :40], torch.full((40,), 5 / 40), atol=0.04, rtol=0)
        torch.testing.assert_close(shares[0, 40:90], torch.full((50,), 15 / 50), atol=0.055, rtol=0)
        assert not shares[0, 90:].any()
        torch.testing.assert_close(shares[2], torch.full((100,), 0.2), atol=0.045, rtol=0)

    def test_repeats_with_the_seed(self) -> None:
        sampler, found = BalancedPositiveNegativeSampler(20, 0.25), []
        for _ in range(2):
            torch.manual_seed(3)
            found.append(torch.cat(sample(self.LABELS, sampler)[0]))
        assert torch.equal(*found)
