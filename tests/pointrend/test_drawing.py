import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pointrend.drawing import boundary, color, draw_masks, write_picture
from pointrend.pictures import read_picture


class TestPictures:
    def test_rows_columns_and_colours(self, tmp_path: Path) -> None:
        pixels = np.zeros((2, 3, 3), np.uint8)
        pixels[0, 2] = (255, 51, 0)
        Image.fromarray(pixels).save(tmp_path / "picture.png")
        image = read_picture(tmp_path / "picture.png")
        assert image.dtype == torch.float32
        assert image.shape == (3, 2, 3)
        torch.testing.assert_close(image[:, 0, 2], torch.tensor([1.0, 0.2, 0.0]))
        assert image.sum() == pytest.approx(1.2)

    def test_round_trip(self, tmp_path: Path) -> None:
        image = torch.randint(256, (3, 5, 7)).float() / 255
        write_picture(image, tmp_path / "picture.png")
        assert torch.equal(read_picture(tmp_path / "picture.png"), image)

    def test_writing_clamps(self, tmp_path: Path) -> None:
        write_picture(torch.tensor([-1.0, 0.5, 7.0]).view(3, 1, 1), tmp_path / "picture.png")
        assert np.asarray(Image.open(tmp_path / "picture.png")).tolist() == [[[0, 128, 255]]]

    @pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "CMYK"])
    def test_other_modes_become_rgb(self, mode: str, tmp_path: Path) -> None:
        path = tmp_path / ("picture.jpg" if mode == "CMYK" else "picture.png")
        Image.new("RGB", (7, 5), (255, 255, 255)).convert(mode).save(path)
        image = read_picture(path)
        assert image.shape == (3, 5, 7)
        assert image.min() > 0.98

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(OSError, match=r"nothing\.png"):
            read_picture(tmp_path / "nothing.png")

    @pytest.mark.parametrize("content", [b"", b"not a picture", bytes(500)])
    def test_no_picture(self, content: bytes, tmp_path: Path) -> None:
        (tmp_path / "picture.png").write_bytes(content)
        with pytest.raises(OSError, match=r"picture\.png: not a readable picture"):
            read_picture(tmp_path / "picture.png")

    @pytest.mark.filterwarnings("ignore::UserWarning")
    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
    def test_truncated_anywhere(self, kind: str, tmp_path: Path) -> None:
        stream = io.BytesIO()
        noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
        Image.fromarray(noise).save(stream, kind)
        whole, path = stream.getvalue(), tmp_path / "picture"
        # All but the end of the file, which holds no pixels.
        for length in range(0, len(whole) * 9 // 10, len(whole) // 60):
            path.write_bytes(whole[:length])
            with pytest.raises(OSError, match="picture: not a readable picture"):
                read_picture(path)

    def test_larger_than_pillow_dares(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        Image.new("RGB", (20, 20)).save(tmp_path / "picture.png")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
        with pytest.raises(OSError, match=r"picture\.png: not a readable picture"):
            read_picture(tmp_path / "picture.png")

    def test_a_phone_held_upright(self, tmp_path: Path) -> None:
        """On request a picture is read as viewers show it: turned as its EXIF data say."""
        pixels = np.zeros((16, 32, 3), np.uint8)
        pixels[:, :16] = 255
        picture = Image.fromarray(pixels)
        exif = picture.getexif()
        exif[0x0112] = 6  # turn a quarter to the right
        picture.save(tmp_path / "picture.png", exif=exif)
        assert read_picture(tmp_path / "picture.png").shape == (3, 16, 32)
        image = read_picture(tmp_path / "picture.png", upright=True)
        assert image.shape == (3, 32, 16)
        assert image[:, :16].min() == 1
        assert image[:, 16:].max() == 0


class TestBoundary:
    def test_ring_of_a_square(self) -> None:
        mask = torch.zeros(1, 7, 8, dtype=torch.bool)
        mask[0, 1:6, 2:7] = True
        ring = mask.clone()
        ring[0, 2:5, 3:6] = False
        assert torch.equal(boundary(mask), ring)

    def test_touches_across_an_edge_and_not_a_corner(self) -> None:
        mask = torch.ones(1, 5, 5, dtype=torch.bool)
        mask[0, 2, 2] = False
        expected = torch.ones(5, 5, dtype=torch.bool)
        expected[[1, 1, 3, 3], [1, 3, 1, 3]] = False
        expected[2, 2] = False
        assert torch.equal(boundary(mask)[0], expected)

    def test_no_regions(self) -> None:
        assert boundary(torch.zeros(0, 4, 5, dtype=torch.bool)).shape == (0, 4, 5)


class TestDrawMasks:
    def test_inside_blends_and_outline_is_solid(self) -> None:
        image = torch.full((3, 9, 9), 0.5)
        mask = torch.zeros(1, 9, 9, dtype=torch.bool)
        mask[0, 2:7, 2:7] = True
        drawn = draw_masks(image, mask, opacity=0.25)
        paint = torch.tensor(color(0))
        torch.testing.assert_close(drawn[:, 4, 4], 0.75 * 0.5 + 0.25 * paint)
        torch.testing.assert_close(drawn[:, 2, 3], paint)
        outside = ~mask[0]
        assert torch.equal(drawn[:, outside], image[:, outside])
        assert (image == 0.5).all()

    def test_nothing_found(self) -> None:
        image = torch.rand(3, 4, 5)
        assert torch.equal(draw_masks(image, torch.zeros(0, 4, 5, dtype=torch.bool)), image)


def test_neighbouring_colours_are_far_apart() -> None:
    colours = torch.tensor([color(index) for index in range(40)])
    assert ((colours >= 0) & (colours <= 1)).all()
    assert (colours[1:] - colours[:-1]).norm(dim=1).min() > 0.5
