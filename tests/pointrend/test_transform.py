import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pointrend.transform import IMAGENET_MEAN, IMAGENET_STD, ImageTransform, rescale_boxes, resize_image, resized_size


class TestResizedSize:
    @pytest.mark.parametrize(
        ("size", "expected"),
        [
            ((480, 640), (800, 1067)),
            ((640, 480), (1067, 800)),
            ((800, 800), (800, 800)),
            ((1600, 1600), (800, 800)),
            ((400, 1000), (533, 1333)),  # the longer edge decides
            ((1000, 400), (1333, 533)),
            ((1, 10000), (1, 1333)),  # never empty
        ],
    )
    def test_by_hand(self, size: tuple[int, int], expected: tuple[int, int]) -> None:
        assert resized_size(size, 800, 1333) == expected

    @settings(deadline=None)
    @given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 2000), st.integers(1, 3000))
    def test_limits(self, height: int, width: int, shorter: int, longest: int) -> None:
        new = resized_size((height, width), shorter, longest)
        assert 1 <= min(new) <= shorter
        assert max(new) <= longest
        assert min(new) == shorter or max(new) == longest or max(new) == 1
        transposed = resized_size((width, height), shorter, longest)
        assert transposed == new[::-1]


class TestResizeImage:
    def test_own_size_is_left_alone(self) -> None:
        image = torch.rand(3, 5, 7)
        assert torch.equal(resize_image(image, (5, 7)), image)

    def test_shrinking_averages(self) -> None:
        # Every third pixel alone would be black and white again.
        stripes = torch.tensor([0.0, 1.0]).repeat(15).expand(3, 30, 30)
        shrunk = resize_image(stripes, (10, 10))
        torch.testing.assert_close(shrunk[..., 1:-1], torch.full((3, 10, 8), 0.5), atol=0.06, rtol=0)

    def test_a_ramp_stays_in_place(self) -> None:
        """Position x of the image keeps its value: no half-pixel shift."""
        ramp = (torch.arange(16) + 0.5).expand(3, 4, 16) / 16
        grown = resize_image(ramp, (8, 32))
        expected = (torch.arange(32) + 0.5) / 32
        torch.testing.assert_close(grown[0, 3, 2:-2], expected[2:-2])


class TestRescaleBoxes:
    def test_by_hand(self) -> None:
        box = torch.tensor([[10.0, 20.0, 30.0, 40.0]])
        assert rescale_boxes(box, (100, 200), (50, 600)).tolist() == [[30.0, 10.0, 90.0, 20.0]]

    @settings(deadline=None)
    @given(st.tuples(st.integers(1, 3000), st.integers(1, 3000)), st.tuples(st.integers(1, 3000), st.integers(1, 3000)))
    def test_there_and_back(self, source: tuple[int, int], target: tuple[int, int]) -> None:
        boxes = torch.rand(4, 4, dtype=torch.float64) * source[0]
        torch.testing.assert_close(rescale_boxes(rescale_boxes(boxes, source, target), target, source), boxes)

    def test_no_boxes(self) -> None:
        assert rescale_boxes(torch.zeros(0, 4), (3, 4), (5, 6)).shape == (0, 4)


class TestImageTransform:
    def test_evaluation_resizes_and_training_does_not(self) -> None:
        transform = ImageTransform(min_size=40, max_size=100)
        images = [torch.rand(3, 60, 80)]
        assert transform.train()(images).image_sizes == [(60, 80)]
        assert transform.eval()(images).image_sizes == [(40, 53)]

    @pytest.mark.parametrize(
        ("sizes", "padded"),
        [
            ([(32, 64)], (32, 64)),
            ([(33, 64)], (64, 64)),
            ([(1, 1)], (32, 32)),
            ([(20, 90), (70, 10)], (96, 96)),
        ],
    )
    def test_pads_to_a_multiple_of_32(self, sizes: list[tuple[int, int]], padded: tuple[int, int]) -> None:
        batch = ImageTransform(800, 1333).train()([torch.rand(3, *size) for size in sizes])
        assert batch.tensors.shape == (len(sizes), 3, *padded)
        assert batch.image_sizes == sizes

    def test_normalises_the_image_and_pads_with_zeros(self) -> None:
        image = torch.rand(3, 30, 40)
        (canvas,) = ImageTransform(800, 1333).train()([image]).tensors
        for channel in range(3):
            expected = (image[channel] - IMAGENET_MEAN[channel]) / IMAGENET_STD[channel]
            torch.testing.assert_close(canvas[channel, :30, :40], expected)
        assert not canvas[:, 30:].any()
        assert not canvas[:, :, 40:].any()

    def test_has_no_weights(self) -> None:
        assert not ImageTransform(800, 1333).state_dict()

    def test_empty_list(self) -> None:
        with pytest.raises(ValueError, match="empty"):
            ImageTransform(800, 1333)([])

    @pytest.mark.parametrize(
        "bad",
        [
            torch.zeros(3, 8, 8, dtype=torch.uint8),
            torch.zeros(8, 8),
            torch.zeros(4, 8, 8),
            torch.zeros(1, 3, 8, 8),
            torch.zeros(8, 8, 3),
            torch.zeros(3, 0, 8),
        ],
        ids=["uint8", "2-D", "4 channels", "4-D", "channels last", "empty"],
    )
    def test_names_the_bad_image(self, bad: torch.Tensor) -> None:
        with pytest.raises(ValueError, match=r"image 1 is .*expected float \(3, H, W\)"):
            ImageTransform(800, 1333)([torch.zeros(3, 8, 8), bad])


class TestWithoutASize:
    def test_images_keep_theirs(self) -> None:
        batch = ImageTransform(None, None, size_divisible=1).eval()([torch.rand(3, 5, 9), torch.rand(3, 7, 2)])
        assert batch.image_sizes == [(5, 9), (7, 2)]
        assert batch.tensors.shape == (2, 3, 7, 9)
        assert not batch.tensors[0, :, 5:].any()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_names_the_image_that_is_not_finite(training: bool, value: float) -> None:
    images = [torch.rand(3, 8, 8), torch.rand(3, 9, 8)]
    images[1][2, 3, 4] = value
    with pytest.raises(ValueError, match=r"image 1, of shape \(3, 9, 8\), holds NaN"):
        ImageTransform(8, 16).train(training)(images)
