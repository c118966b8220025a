import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pointrend.paste import ROWS_MULTIPLE, mask_runs, paste_crops, paste_masks, paste_masks_at_once


def sample_whole_image(mask: Tensor, box: tuple[float, ...], size: tuple[int, int]) -> Tensor:
    """Detectron2's way: look every pixel of the image up in the mask, zeros around it."""
    x0, y0, x1, y1 = box
    y = (torch.arange(size[0], dtype=mask.dtype) + 0.5 - y0) / (y1 - y0) * 2 - 1
    x = (torch.arange(size[1], dtype=mask.dtype) + 0.5 - x0) / (x1 - x0) * 2 - 1
    grid = torch.stack((x.expand(size[0], -1), y[:, None].expand(-1, size[1])), dim=2)
    return F.grid_sample(mask[None, None], grid[None], align_corners=False)[0, 0]


class TestAgainstSamplingTheWholeImage:
    @settings(deadline=None, max_examples=150)
    @given(
        seed=st.integers(0, 2**31),
        side=st.integers(1, 9),
        size=st.tuples(st.integers(1, 30), st.integers(1, 30)),
        corner=st.tuples(st.floats(-40, 50), st.floats(-40, 50)),
        extent=st.tuples(st.floats(0.01, 80), st.floats(0.01, 80)),
    )
    def test_any_box(
        self,
        seed: int,
        side: int,
        size: tuple[int, int],
        corner: tuple[float, float],
        extent: tuple[float, float],
    ) -> None:
        mask = torch.rand(side, side, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        box = (*corner, corner[0] + extent[0], corner[1] + extent[1])
        pasted = paste_masks(mask[None, None], torch.tensor([box], dtype=torch.float64), size)
        assert pasted.shape == (1, 1, *size)
        torch.testing.assert_close(pasted[0, 0], sample_whole_image(mask, box, size), atol=1e-8, rtol=0)

    @pytest.mark.parametrize(
        "box",
        [
            (3.0, 2.0, 11.0, 9.0),  # inside
            (-6.5, -3.25, 5.0, 4.0),  # over the first corner
            (9.0, 8.5, 40.0, 31.0),  # over the last one
            (-20.0, -20.0, 60.0, 60.0),  # around the image
            (4.4, 4.45, 4.6, 4.55),  # smaller than a pixel, over its centre
            (4.0, 4.0, 4.2, 4.2),  # smaller than a pixel, beside its centre
            (-30.0, 2.0, -20.0, 8.0),  # left of the image
            (2.0, 16.0, 8.0, 20.0),  # below it
        ],
    )
    def test_float32(self, box: tuple[float, ...]) -> None:
        mask = torch.rand(7, 7, generator=torch.Generator().manual_seed(0))
        pasted = paste_masks(mask[None, None], torch.tensor([box]), (14, 16))[0, 0]
        torch.testing.assert_close(pasted, sample_whole_image(mask, box, (14, 16)), atol=2e-4, rtol=0)


def test_two_by_two_mask_by_hand() -> None:
    mask = torch.tensor([[0.0, 1.0], [0.5, 1.0]])
    # Four pixels a side: pixel centres lie a quarter of a cell off the cells' centres.
    pasted = paste_masks(mask[None, None], torch.tensor([[1.0, 0.0, 5.0, 4.0]]), (4, 6))[0, 0]
    assert pasted[1, 2].item() == pytest.approx(0.25 * 0.75 + 0.25 * 0.75 * 0.5 + 0.25 * 0.25)
    # Beyond the box it has faded to half a quarter.
    assert pasted[1, 5].item() == pytest.approx(0.25)


class TestFullMask:
    @settings(deadline=None, max_examples=80)
    @given(
        side=st.sampled_from([7, 28]),
        corner=st.tuples(st.integers(-9, 22), st.integers(-9, 22)),
        extent=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    )
    def test_fills_a_box_of_whole_pixels(self, side: int, corner: tuple[int, int], extent: tuple[int, int]) -> None:
        (x0, y0), (width, height) = corner, extent
        box = torch.tensor([[x0, y0, x0 + width, y0 + height]], dtype=torch.float32)
        pasted = paste_masks(torch.ones(1, 1, side, side), box, (20, 24))[0, 0] >= 0.5
        expected = torch.zeros(20, 24, dtype=torch.bool)
        expected[max(0, y0) : max(0, y0 + height), max(0, x0) : max(0, x0 + width)] = True
        assert torch.equal(pasted, expected)

    @pytest.mark.parametrize("box", [(3.2, 4.8, 17.9, 15.3), (-3.0, 5.0, 12.6, 18.2), (6.4, -7.7, 40.0, 11.4)])
    def test_covers_the_pixels_whose_centres_are_in_the_box(self, box: tuple[float, ...]) -> None:
        x0, y0, x1, y1 = box
        # With cells much smaller than pixels, the fade beyond the box is too.
        pasted = paste_masks(torch.ones(1, 1, 224, 224), torch.tensor([box]), (20, 24))[0, 0] >= 0.5
        x, y = torch.arange(24) + 0.5, torch.arange(20) + 0.5
        assert torch.equal(pasted, ((y > y0) & (y < y1))[:, None] & ((x > x0) & (x < x1)))


@pytest.mark.parametrize(
    "box", [(5.0, 5.0, 5.0, 9.0), (5.0, 5.0, 9.0, 5.0), (9.0, 5.0, 5.0, 9.0), (5.0, 5.0, float("nan"), 9.0)]
)
def test_a_box_without_area_pastes_nothing(box: tuple[float, ...]) -> None:
    pasted = paste_masks(torch.ones(1, 1, 7, 7), torch.tensor([box]), (10, 10))
    assert pasted.shape == (1, 1, 10, 10)
    assert not pasted.any()


@pytest.mark.parametrize("side", [1, 2, 7, 28])
def test_all_at_once_pastes_the_same(side: int) -> None:
    """The way of GPUs: boxes inside, across a corner, beside the image, without area, and turned around."""
    boxes = torch.tensor([[3, 2, 20, 25], [-8.5, -3, 9, 6], [60, 60, 70, 80], [5, 5, 5, 9], [9, 9, 2, 3]])
    masks = torch.rand(len(boxes), 1, side, side, generator=torch.Generator().manual_seed(side))
    pasted = paste_masks_at_once(masks, boxes, (26, 31))
    torch.testing.assert_close(pasted, paste_masks(masks, boxes, (26, 31)), atol=2e-6, rtol=0)
    assert pasted[:2].flatten(1).amax(1).gt(0).all()
    assert not pasted[2:].any()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(paste_masks_at_once(masks, boxes, (26, 31)), pasted)
    assert paste_masks_at_once(masks[:0], boxes[:0], (26, 31)).shape == (0, 1, 26, 31)


def test_no_regions() -> None:
    assert paste_masks(torch.zeros(0, 1, 28, 28), torch.zeros(0, 4), (10, 12)).shape == (0, 1, 10, 12)


def test_each_region_has_its_own_canvas() -> None:
    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [2.0, 2.0, 8.0, 6.0]])
    masks = torch.rand(2, 1, 7, 7)
    both = paste_masks(masks, boxes, (9, 9))
    for index in range(2):
        assert torch.equal(both[index], paste_masks(masks[index : index + 1], boxes[index : index + 1], (9, 9))[0])


class TestCrop:
    def test_is_much_smaller_than_the_image(self) -> None:
        box = torch.tensor([[100.0, 200.0, 110.0, 205.0]])
        ((crop, (row, column)),) = paste_crops(torch.ones(1, 28, 28), box, (2000, 3000))
        assert crop.shape[0] == ROWS_MULTIPLE
        assert crop.shape[1] <= 13
        assert (row, column) <= (200, 100)
        assert crop[202 - row, 105 - column] == pytest.approx(1)

    def test_has_one_of_few_heights_or_the_images(self) -> None:
        tops, heights = torch.rand(50) * 150, torch.rand(50) * 150
        boxes = torch.stack((torch.zeros(50), tops, torch.full((50,), 9.0), tops + heights + 1), dim=1)
        found = {crop.shape[0] for crop, _ in paste_crops(torch.ones(50, 7, 7), boxes, (150, 12))}
        assert found <= {0, *range(ROWS_MULTIPLE, 150, ROWS_MULTIPLE), 150}

    def test_is_empty_outside_the_image(self) -> None:
        ((crop, _),) = paste_crops(torch.ones(1, 28, 28), torch.tensor([[100.0, 0.0, 110.0, 5.0]]), (20, 30))
        assert crop.numel() == 0


def runs_of(mask: Tensor) -> list[int]:
    """COCO's uncompressed RLE of a binary mask (H, W), pixel by pixel down the columns."""
    runs, value = [0], False
    for pixel in mask.T.flatten().tolist():
        if pixel != value:
            runs.append(0)
            value = pixel
        runs[-1] += 1
    return runs


class TestRuns:
    @settings(deadline=None, max_examples=150)
    @given(
        seed=st.integers(0, 2**31),
        side=st.integers(1, 9),
        size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
        corner=st.tuples(st.floats(-30, 30), st.floats(-30, 30)),
        extent=st.tuples(st.floats(0.01, 60), st.floats(0.01, 60)),
    )
    def test_of_any_box(
        self,
        seed: int,
        side: int,
        size: tuple[int, int],
        corner: tuple[float, float],
        extent: tuple[float, float],
    ) -> None:
        mask = torch.rand(1, 1, side, side, generator=torch.Generator().manual_seed(seed))
        box = torch.tensor([[*corner, corner[0] + extent[0], corner[1] + extent[1]]])
        (runs,) = mask_runs(mask[0], box, size)
        assert runs.tolist() == runs_of(paste_masks(mask, box, size)[0, 0] >= 0.5)

    @pytest.mark.parametrize(
        ("box", "expected"),
        [
            ([1.0, 2.0, 3.0, 4.0], [7, 2, 3, 2, 6]),
            # From the first row to the last, one column runs on into the next.
            ([1.0, 0.0, 3.0, 5.0], [5, 10, 5]),
            ([0.0, 0.0, 4.0, 5.0], [0, 20]),
            ([0.0, 0.0, 1.0, 1.0], [0, 1, 19]),
            ([3.0, 4.0, 4.0, 5.0], [19, 1]),
            ([9.0, 9.0, 12.0, 12.0], [20]),
            ([2.0, 2.0, 2.0, 4.0], [20]),
        ],
    )
    def test_of_full_boxes_in_five_rows_and_four_columns(self, box: list[float], expected: list[int]) -> None:
        (runs,) = mask_runs(torch.ones(1, 224, 224), torch.tensor([box]), (5, 4))
        assert runs.tolist() == expected

    def test_each_region_has_its_own(self) -> None:
        boxes = torch.tensor([[1.0, 2.0, 3.0, 4.0], [9.0, 9.0, 12.0, 12.0], [0.0, 0.0, 1.0, 1.0]])
        found = [runs.tolist() for runs in mask_runs(torch.ones(3, 28, 28), boxes, (5, 4))]
        assert found == [[7, 2, 3, 2, 6], [20], [0, 1, 19]]
