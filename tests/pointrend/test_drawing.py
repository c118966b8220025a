import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pointrend.drawing import color, oklab
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
        with pytest.raises(OSError, match=r"picture\.png: not a readable image"):
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
            with pytest.raises(OSError, match="picture: not a readable image"):
                read_picture(path)

    def test_larger_than_pillow_dares(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        Image.new("RGB", (20, 20)).save(tmp_path / "picture.png")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
        with pytest.raises(OSError, match=r"picture\.png: not a readable image"):
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


def test_white_black_and_red_in_oklab() -> None:
    """Red's are those of CSS Color 4: oklab(0.62796 0.22486 0.12585)."""
    found = oklab(np.array([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]))
    np.testing.assert_allclose(found, [[1, 0, 0], [0, 0, 0], [0.62796, 0.22486, 0.12585]], atol=1e-4)


def test_colours_of_twenty_classes_can_be_told_apart() -> None:
    colours = np.array([color(index) for index in range(20)])
    assert ((colours >= 0) & (colours <= 1)).all()
    seen = oklab(colours)
    distances = np.linalg.norm(seen[:, None] - seen[None], axis=2) + np.eye(20)
    assert distances.min() > 0.14


def test_no_two_colours_are_the_same() -> None:
    assert len({color(index) for index in range(256)}) == 256
