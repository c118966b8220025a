"""Pictures of semantic labels."""

from pathlib import Path

import numpy as np
import torch
from made_up_labels import OWN, label_ids, prepared_labels

from pipeline.data.labels import CITYSCAPES
from pipeline.evaluation.outputs import prediction_names
from pipeline.evaluation.semantics import write_ids
from pipeline.report.figures.overlays import Source
from pipeline.report.figures.semantic_overlays import (
    OPACITY,
    busiest_square,
    densest_window,
    label_panels,
    paint,
    palette,
    with_legend,
)


def test_cityscapes_has_its_own_colors() -> None:
    colors = palette(CITYSCAPES)
    assert colors.shape == (20, 3)
    assert (colors[0] * 255).round().tolist() == [128, 64, 128]  # road
    assert (colors[13] * 255).round().tolist() == [0, 0, 142]  # car
    assert colors[-1].tolist() == [0, 0, 0]


def test_other_classes_have_distinct_colors() -> None:
    assert len({tuple(color) for color in palette(OWN).tolist()}) == 3


def test_paint_blends_each_class_s_color() -> None:
    painted = paint(torch.ones(3, 1, 2), np.array([[0, 1]]), np.array([[1, 0, 0], [0, 0, 0]], np.float32))
    torch.testing.assert_close(painted[:, 0, 0], torch.tensor([1, 1 - OPACITY, 1 - OPACITY]))
    torch.testing.assert_close(painted[:, 0, 1], torch.full((3,), 1 - OPACITY))


def test_the_busiest_square_has_the_most_boundary() -> None:
    classes = np.zeros((20, 30), dtype=np.int64)
    classes[12:16:2, 20:26] = 1  # two lines: all of rows 11 to 15 is boundary there
    rows, columns = busiest_square(classes, 6)
    assert rows.start <= 11
    assert rows.stop >= 16
    assert (rows.stop - rows.start, columns.stop - columns.start) == (6, 6)
    assert 19 <= columns.start <= 21


def test_the_densest_window_has_the_largest_sum() -> None:
    values = np.zeros((6, 9), dtype=np.int64)
    values[1, 2], values[2, 6], values[3, 7] = 5, 3, 3
    assert densest_window(values, 2, 2) == (slice(2, 4), slice(6, 8))
    assert densest_window(values, 1, 4) == (slice(1, 2), slice(0, 4))
    assert densest_window(values, 6, 9) == (slice(0, 6), slice(0, 9))


def test_an_image_of_one_class_has_a_square_too() -> None:
    rows, columns = busiest_square(np.zeros((5, 5), dtype=np.int64), 5)
    assert (rows, columns) == (slice(0, 5), slice(0, 5))


def test_panels_show_truth_and_predictions(tmp_path: Path) -> None:
    prepared, images = prepared_labels(tmp_path, OWN)
    sources = [Source("right", tmp_path / "right"), Source("wrong", tmp_path / "wrong")]
    for number, name in enumerate(prediction_names(prepared).values()):
        classes = torch.from_numpy(OWN.classes(label_ids(number, OWN)).clip(max=1)).long()
        write_ids(classes, OWN, sources[0].predictions / name)
        write_ids(1 - classes, OWN, sources[1].predictions / name)
    panels = label_panels(prepared, images, sources, 2)
    assert panels.captions == ["image", "ground truth", "right", "wrong"]
    assert len(panels.rows) == 4  # two images, each with an enlarged part
    _, truth, right, wrong = (np.asarray(panel) for panel in panels.rows[0])
    # Only the 4x5 pixels that the ground truth ignores differ.
    right_there, wrong_there = ((truth == panel).all(axis=-1) for panel in (right, wrong))
    assert right_there.mean() == 1 - 4 * 5 / (30 * 44)
    assert wrong_there.mean() == 0
    sheet = panels.render()
    legend = with_legend(sheet, OWN)
    assert legend.width == sheet.width
    assert legend.height > sheet.height
