"""Training crops: image and labels stay together, and all is a function of the seed."""

import colorsys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from pipeline.config.models import Scales, SemanticModelConfig
from pipeline.data.semantic_transforms import (
    Window,
    augment,
    change_colors,
    crop_labels,
    crop_pixels,
    draw_color_change,
    draw_window,
    is_varied,
    scale_saturation,
    scaled_sizes,
)


def config(**changes: object) -> SemanticModelConfig:
    fields = {
        "name": "semantic_fpn_tiny",
        "pretrained_backbone": None,
        "norm": "group",
        "crop_size": [24, 40],
        "scales": Scales(smallest=0.5, largest=2.0, step=8),
        "color_augmentation": False,
        "max_class_share": None,
        **changes,
    }
    return SemanticModelConfig.model_validate(fields)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


# Appendix B: "random horizontal flipping and scaling of 0.5x to 2.0x with a 32 pixel step"
def test_the_sizes_of_cityscapes() -> None:
    sizes = scaled_sizes((1024, 2048), 0.5, 2.0, 32)
    assert len(sizes) == 49
    assert sizes[:2] == [(512, 1024), (544, 1088)]
    assert sizes[-1] == (2048, 4096)


def test_the_sizes_of_an_upright_image_keep_its_shape() -> None:
    assert scaled_sizes((90, 60), 0.5, 1.0, 10) == [(45, 30), (60, 40), (75, 50), (90, 60)]


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 90), st.integers(1, 90), st.integers(0, 100))
def test_a_crop_is_a_part_of_the_whole_resized_image(
    height: int, width: int, scaled_height: int, scaled_width: int, seed: int
) -> None:
    scaled = (scaled_height, scaled_width)
    window = draw_window(scaled, (20, 30), torch.Generator().manual_seed(seed))
    assert window.size == (min(20, scaled_height), min(30, scaled_width))
    rows = slice(window.top, window.top + window.size[0])
    columns = slice(window.left, window.left + window.size[1])
    pixels = noise(height, width)
    whole = np.array(Image.fromarray(pixels).resize(scaled[::-1], Image.Resampling.BILINEAR))
    # Both round after each of their two passes, so each is within 1 of the exact value.
    assert np.abs(crop_pixels(pixels, window).permute(1, 2, 0).int().numpy() - whole[rows, columns]).max() <= 2
    labels = np.arange(height * width).reshape(height, width)
    resized = torch.nn.functional.interpolate(
        torch.from_numpy(labels)[None, None].double(), scaled, mode="nearest-exact"
    )
    # Centres that fall on the edge of two pixels go to either.
    close = crop_labels(labels, window) == resized[0, 0].long().numpy()[rows, columns]
    assert close.mean() > 0.9


def test_every_place_of_a_crop_is_drawn() -> None:
    generator = torch.Generator().manual_seed(0)
    windows = [draw_window((6, 5), (4, 4), generator) for _ in range(200)]
    assert {(window.top, window.left) for window in windows} == {(top, left) for top in (0, 1, 2) for left in (0, 1)}


def test_labels_take_the_pixel_that_their_centre_lies_in() -> None:
    labels = np.array([[0, 1], [2, 3]])
    assert crop_labels(labels, Window(0, 0, (4, 4), (4, 4))).tolist() == [[0, 0, 1, 1]] * 2 + [[2, 2, 3, 3]] * 2
    assert crop_labels(labels, Window(1, 2, (2, 1), (4, 4))).tolist() == [[1], [3]]
    assert crop_labels(np.arange(6)[None], Window(0, 0, (1, 3), (1, 3))).tolist() == [[1, 3, 5]]


@pytest.mark.parametrize(
    ("labels", "varied"),
    [
        ([0, 0, 0, 1], True),  # three quarters
        ([0, 0, 0, 0, 1], False),
        ([0, 0, 0, 0, 0], False),
        ([0, 1, 255, 255, 255, 255], True),  # what is ignored has no share
        ([255, 255], False),
    ],
)
def test_the_share_of_a_class(labels: list[int], varied: bool) -> None:
    assert is_varied(np.array([labels]), 0.75) is varied


def dominated(share: float | None) -> float:
    """Of crops of an image that is one class but for a stripe, the part that has nothing but that class."""
    labels = np.zeros((48, 200), dtype=np.uint8)
    labels[:, 90:110] = 1
    options = config(max_class_share=share, crop_size=[24, 40], scales=Scales(smallest=1, largest=1, step=1))
    return float(np.mean([not augment(noise(48, 200), labels, options, seed)[1].any() for seed in range(60)]))


def test_crop_bootstrapping_draws_dull_crops_again() -> None:
    assert dominated(None) > 0.5
    assert dominated(0.75) < 0.1


def test_an_image_of_one_class_is_still_cropped() -> None:
    image, labels, _ = augment(noise(48, 60), np.zeros((48, 60), np.uint8), config(max_class_share=0.75), 3)
    assert image.shape[1:] == labels.shape


def test_image_and_labels_stay_together() -> None:
    labels = np.zeros((40, 80), dtype=np.uint8)
    labels[5:30, 20:33] = 1
    labels[28:, 50:] = 2
    pixels = np.stack([labels * 100] * 3, axis=-1)
    flipped = set()
    for seed in range(20):
        image, target, _ = augment(pixels, labels, config(), seed)
        shown = (image[0] / 100).round()
        # Only at boundaries does the image blend.
        assert (shown != target).float().mean() < 0.12
        assert target.dtype == torch.int64
        if (target == 1).any() and (target == 2).any():
            flipped.add(
                bool((target == 1).nonzero()[:, 1].float().mean() > (target == 2).nonzero()[:, 1].float().mean())
            )
    assert flipped == {False, True}


def test_an_image_smaller_than_the_crop_is_taken_whole() -> None:
    image, labels, _ = augment(
        noise(16, 100), np.ones((16, 100), np.uint8), config(scales=Scales(smallest=1, largest=1, step=1)), 0
    )
    assert image.shape == (3, 16, 40)
    assert labels.shape == (16, 40)


@pytest.mark.parametrize("color", [False, True])
def test_an_example_depends_on_its_seed_alone(color: bool) -> None:
    labels = np.arange(60 * 90).reshape(60, 90) % 7
    options = config(color_augmentation=color, max_class_share=0.75)
    first, again, other = (augment(noise(60, 90), labels, options, seed) for seed in (5, 5, 6))
    assert all(torch.equal(a, b) for a, b in zip(first[:2], again[:2], strict=True))
    assert first[2] == again[2]
    assert (first[2] is not None) == color
    assert not torch.equal(first[0], other[0])


def test_saturation_is_scaled_as_in_hsv() -> None:
    image = torch.rand(3, 6, 7, generator=torch.Generator().manual_seed(0))
    for factor in (0.5, 1.0, 1.4):
        expected = torch.empty_like(image)
        for row in range(6):
            for column in range(7):
                hue, saturation, value = colorsys.rgb_to_hsv(*image[:, row, column].tolist())
                expected[:, row, column] = torch.tensor(colorsys.hsv_to_rgb(hue, min(1, saturation * factor), value))
        torch.testing.assert_close(scale_saturation(image, factor), expected, atol=1e-5, rtol=0)


def colored(image: Tensor, seeds: int = 40) -> list[Tensor]:
    return [change_colors(image, draw_color_change(torch.Generator().manual_seed(seed))) for seed in range(seeds)]


def test_colors_vary_within_ssd_s_ranges() -> None:
    grey = torch.full((3, 4, 4), 0.4)
    values = torch.stack(colored(grey, 300))
    # Grey stays grey, whatever happens to saturation and hue.
    assert (values.amax(1) - values.amin(1)).max() < 1e-5
    assert 0.5 * (0.4 - 32 / 255) - 1e-6 <= values.min() < 0.2
    assert 0.7 < values.max() <= 1.5 * (0.4 + 32 / 255) + 1e-6
    # Each of two parts happens in half of the cases.
    assert 0.15 < (values[:, 0, 0, 0] - 0.4).abs().lt(1e-6).float().mean() < 0.35


def test_colors_stay_in_range_and_differ() -> None:
    image = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(1))
    results = colored(image)
    assert all(result.min() >= 0 and result.max() <= 1 for result in results)
    assert len({round(float(result.mean()), 6) for result in results}) > 20
