"""Masks over enlarged pictures."""

import numpy as np
import pytest
from PIL import Image

from pipeline.report.figures.masks import FINER, LINE, Window, cut_out, draw_mask, enlarged_mask

GREY = (100, 100, 100)


def rectangle(size: tuple[int, int], x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros(size, dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


def test_a_window_keeps_its_shape() -> None:
    assert Window.fit((10, 10, 30, 50), 480).size == (240, 480)
    assert Window.fit((0, 0, 1000, 1), 100).size == (100, 1)


def test_edges_are_where_they_were() -> None:
    # 10 times as large and the finer grid: edges at 2 and 6 pixels are at 20 and 60 of the panel's.
    large = enlarged_mask(rectangle((8, 8), 2, 2, 6, 6), Window((0, 0, 8, 8), (80, 80)))
    across = np.where(large[40 * FINER])[0]
    assert (across[0], across[-1] + 1) == pytest.approx((20 * FINER, 60 * FINER), abs=FINER)


@pytest.mark.parametrize("thin", [(3, 3, 4, 4), (3, 0, 4, 8)], ids=["a pixel", "a line"])
def test_what_is_one_pixel_wide_stays(thin: tuple[int, int, int, int]) -> None:
    assert enlarged_mask(rectangle((8, 8), *thin), Window((0, 0, 8, 8), (80, 80))).any()


def test_a_part_of_a_mask() -> None:
    # Of a mask from 4 to 8 the part from 6 to 8 is full, the part from 0 to 2 is empty.
    mask = rectangle((12, 12), 4, 4, 8, 8)
    assert enlarged_mask(mask, Window((5, 5, 7, 7), (40, 40))).all()
    assert not enlarged_mask(mask, Window((0, 0, 2, 2), (40, 40))).any()


def test_a_mask_is_drawn_with_a_solid_outline() -> None:
    panel = Image.new("RGB", (80, 80), GREY)
    draw_mask(panel, np.kron(rectangle((8, 8), 2, 2, 6, 6), np.ones((10 * FINER, 10 * FINER))) > 0, (1.0, 0.0, 0.0))
    assert panel.getpixel((20, 40)) == (255, 0, 0)
    assert panel.getpixel((40, 40)) == pytest.approx((0.6 * 100 + 0.4 * 255, 60, 60), abs=1)
    assert panel.getpixel((5, 5)) == GREY
    # A white line surrounds it.
    assert min(panel.getpixel((20 - round(LINE / 2) - 1, 40))) > 200  # type: ignore[arg-type]


def test_what_a_mask_leaves_out_is_pale() -> None:
    panel = Image.new("RGB", (80, 80), GREY)
    drawn = cut_out(panel, np.kron(rectangle((8, 8), 2, 2, 6, 6), np.ones((10 * FINER, 10 * FINER))) > 0)
    assert drawn.getpixel((40, 40)) == GREY
    assert drawn.getpixel((5, 5)) == pytest.approx((0.28 * 100 + 0.72 * 255,) * 3, abs=1)
    assert panel.getpixel((5, 5)) == GREY  # the panel itself is unchanged


@pytest.mark.parametrize(("full", "shown"), [(True, 100), (False, round(0.28 * 100 + 0.72 * 255))])
def test_a_mask_without_an_edge_has_no_outline(full: bool, shown: int) -> None:
    drawn = np.asarray(cut_out(Image.new("RGB", (20, 20), GREY), np.full((20 * FINER, 20 * FINER), full)))
    assert np.abs(drawn.astype(int) - shown).max() <= 1
