"""Semantic segmentation in tiles: where tiles lie, that small images do not notice, and what it costs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2_weights import random_picture
from PIL import Image
from torch import Tensor, nn
from typer.testing import CliRunner

from pointrend import build_model, save_weights
from pointrend.cli import app
from pointrend.metadata import ClassInfo
from pointrend.regions import to_tensor
from pointrend.tiles import label_images, spans


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return random_picture((320, 512)).permute(1, 2, 0).byte().numpy()


def local_model(name: str, pixels: np.ndarray) -> Any:
    """A model whose prediction of a pixel depends on its surroundings only, and in which every class wins somewhere.

    It has no group norm, its dilations are 1, and its pooling averages one cell.
    """
    torch.manual_seed(1)
    model: Any = build_model(name, num_classes=3, norm="frozen_batch", pool_window=(16, 16)).eval()
    model.head.aspp.rates = (1, 1, 1)
    model.head.aspp.set_output_stride(16)
    nn.init.normal_(model.head.predictor.weight)
    with torch.no_grad():
        logits = model.coarse_prediction([to_tensor(pixels)]).logits
        spread, mean = logits.std((0, 2, 3)), logits.mean((0, 2, 3))
        model.head.predictor.bias.copy_(-mean / spread)
        model.head.predictor.weight.div_(spread[:, None, None, None])
    return model


def distance_from_seams(shape: tuple[int, ...], side: int) -> Tensor:
    """How far each pixel of an image is from the nearest border between two tiles, in pixels."""
    distance = torch.full(shape, torch.inf)
    for axis, length in enumerate(shape):
        for span in spans(length, side)[1:]:
            along = (torch.arange(length) + 0.5 - span.kept_start).abs()
            distance = torch.minimum(distance, along[:, None] if axis == 0 else along)
    return distance


@pytest.mark.parametrize("side", [128, 384])
def test_tiles_cover_an_axis_once_with_an_eighth_of_a_tile_around(side: int) -> None:
    for length in range(1, 1200):
        tiles = spans(length, side)
        kept = [pixel for tile in tiles for pixel in range(tile.kept_start, tile.kept_stop)]
        assert kept == list(range(length))
        for tile in tiles:
            assert tile.start % 32 == 0
            assert 0 <= tile.start <= tile.kept_start < tile.kept_stop <= tile.stop <= length
            assert tile.stop - tile.start <= side
            assert tile.start == 0 or tile.kept_start - tile.start >= side // 8
            assert tile.stop == length or tile.stop - tile.kept_stop >= side // 8
        assert (len(tiles) == 1) == (length <= side)


@torch.inference_mode()
def test_labels_differ_from_the_untiled_ones_near_seams_only(pixels: np.ndarray) -> None:
    model = local_model("deeplabv3_tiny", pixels)
    (whole,) = label_images(model, [pixels], None, None)
    (tiled,) = label_images(model, [pixels], 256, None)
    assert whole.unique().numel() == 3
    differs, distance = whole != tiled, distance_from_seams(tuple(whole.shape), 256)
    assert not differs[distance > 112].any()
    assert differs[distance > 64].float().mean() < 0.005
    assert differs.float().mean() < 0.1


@torch.inference_mode()
@pytest.mark.parametrize("name", ["pointrend_deeplabv3_tiny", "pointrend_semantic_fpn_tiny"])
def test_an_image_that_fits_into_a_tile_is_predicted_as_without_tiles(name: str, pixels: np.ndarray) -> None:
    torch.manual_seed(0)
    model: Any = build_model(name, num_classes=3).eval()
    nn.init.normal_(model.head.predictor.weight)
    images = [pixels[:250, :256], pixels[50:300, 256:]]
    expected = [model([to_tensor(image)])[0].argmax(0) for image in images]
    for image, labels in zip(images, expected, strict=True):
        for side in (None, 256):
            assert torch.equal(label_images(model, [image], side, None)[0].long(), labels)
    batch = label_images(model, images, 256, None)
    assert all(labels.dtype == torch.int16 and labels.shape == (250, 256) for labels in batch)


@torch.inference_mode()
def test_the_network_never_sees_more_than_a_tile(pixels: np.ndarray) -> None:
    model: Any = build_model("pointrend_semantic_fpn_tiny", num_classes=3).eval()
    seen: list[torch.Size] = []
    rendered: list[torch.Size] = []
    model.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    render = model.render

    def recorded(*arguments: Any) -> Tensor:
        logits = render(*arguments)
        rendered.append(logits.shape)
        return logits

    model.render = recorded
    label_images(model, [pixels], 128, 9)
    assert len(seen) == len(rendered) == len(spans(320, 128)) * len(spans(512, 128))
    assert max(shape[-2] * shape[-1] for shape in (*seen, *rendered)) <= 128 * 128


class TestCommand:
    @pytest.fixture
    def weights(self, tmp_path: Path, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.chdir(tmp_path)
        torch.manual_seed(0)
        model: Any = build_model("pointrend_semantic_fpn_tiny", num_classes=2)
        nn.init.normal_(model.head.predictor.weight)
        save_weights(model, tmp_path / "m.safetensors", classes=(ClassInfo(1, "road"), ClassInfo(2, "sky")))
        Path("in").mkdir()
        Image.fromarray(pixels[:100, :200]).save("in/large.png")
        Image.fromarray(pixels[:90, :90]).save("in/small.png")
        return tmp_path / "m.safetensors"

    @staticmethod
    def predict(weights: Path, *options: str) -> Any:
        command = ["predict", "in", "--weights", str(weights), "--save", "labels", "--out", "o", *options]
        return CliRunner().invoke(app, command)

    def test_a_chosen_side(self, weights: Path) -> None:
        result = self.predict(weights, "--tile", "128")
        assert result.exit_code == 0, result.output
        assert (
            result.stderr.count("1 of the images have more than a tile: predicted in overlapping tiles of 128 x") == 1
        )
        assert Image.open("o/labels/large.png").size == (200, 100)

    def test_large_images_are_tiled_unasked(self, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("pointrend.predict.MAX_PIXELS_AT_ONCE", 10_000)
        monkeypatch.setattr("pointrend.predict.TILE", 128)
        result = self.predict(weights)
        assert result.exit_code == 0, result.output
        assert result.stderr.count("in overlapping tiles of") == 1
        unasked = Path("o/labels/large.png").read_bytes()
        self.predict(weights, "--tile", "128", "--overwrite")
        assert Path("o/labels/large.png").read_bytes() == unasked

    def test_what_cannot_be(self, weights: Path) -> None:
        assert "100 pixels a side, expected a multiple of 128" in self.predict(weights, "--tile", "100").stderr
        result = self.predict(weights, "--tile", "128", "--show-points")
        assert result.exit_code == 1
        assert "in/large.png: is predicted in tiles, so its subdivision cannot be drawn" in result.stderr
        assert sorted(path.name for path in Path("o/labels").iterdir()) == ["small.png"]
