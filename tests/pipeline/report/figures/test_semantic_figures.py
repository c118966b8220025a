"""Figure 9 from an untrained model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_up_labels import OWN, prepared_labels
from PIL import Image

from pipeline.config.experiments import RunConfig
from pipeline.config.labels import LabelTable
from pipeline.config.project import Project
from pipeline.evaluation.trained_run import TrainedRun
from pipeline.report.figures.semantic_figures import draw_semantic_figures, label_maps, map_panels, most_varied_image
from pipeline.training.model import build_run_model
from pointrend import save_weights
from pointrend.semantic import SemanticSegmenter

NAMES = ("cityscapes_deeplabv3_pointrend_r103-0", "cityscapes_semantic_fpn_pointrend_r101-0")


def run(repository: Path, name: str) -> RunConfig:
    project = Project(repository)
    return project.run("camvid", name, project.select("camvid", "data").runs[name])[0]


def trained_run(repository: Path, root: Path, name: str, table: LabelTable = OWN) -> TrainedRun:
    """Random weights on three images of 30x44."""
    prepared, images = prepared_labels(root, table)
    torch.manual_seed(0)
    model = build_run_model(run(repository, name), len(table.names), pretrained=False)
    assert isinstance(model, SemanticSegmenter)
    torch.nn.init.normal_(model.head.predictor.weight)  # type: ignore[arg-type]
    save_weights(model, root / "model.safetensors")
    return TrainedRun(run(repository, name), prepared.folder, images, root / "model.safetensors")


@pytest.mark.parametrize("name", NAMES)
def test_the_maps_lead_from_the_coarse_prediction_to_the_model_s_own(
    repository: Path, tmp_path: Path, name: str
) -> None:
    model = trained_run(repository, tmp_path, name).model(torch.device("cpu"))
    assert isinstance(model, SemanticSegmenter)
    image = torch.rand(3, 30, 44, generator=torch.Generator().manual_seed(0))
    maps = label_maps(model, image, 20)
    strides = [16, 8, 4, 2, 1] if "deeplab" in name else [4, 2, 1]
    assert [one.stride for one in maps] == strides
    assert [one.classes.shape for one in maps] == [(-(-30 // s), -(-44 // s)) for s in strides]
    assert [len(one.points) for one in maps[1:]] == [20] * (len(strides) - 1)
    assert len(maps[0].points) == 0
    # In pixels: the centres of cells.
    for one in maps[1:]:
        torch.testing.assert_close(one.points / one.stride % 1, torch.full_like(one.points, 0.5))
    with torch.inference_mode():
        expected = model.render(model.coarse_prediction([image]), 20)[0].argmax(0)
    assert np.array_equal(maps[-1].classes, expected.numpy())


def test_the_image_with_the_most_classes_is_shown(tmp_path: Path) -> None:
    prepared, images = prepared_labels(tmp_path, OWN)
    # The ids of the second image are all of one class; the third's are those of the first.
    file = tmp_path / "raw" / "labels" / "val" / "deep" / "0.png"
    Image.fromarray(np.full((30, 44), 3, np.uint8)).save(file)
    shown = most_varied_image(prepared, images)
    assert shown is not None
    assert sorted(np.unique(shown.truth)) == [0, 1, 2]
    assert (shown.truth[10, :23] == 0).all()  # the second image's boundary is at 22 + 1
    assert (shown.truth[10, 23:] == 1).all()


def test_each_map_has_a_column(repository: Path, tmp_path: Path) -> None:
    trained = trained_run(repository, tmp_path, NAMES[0])
    model = trained.model(torch.device("cpu"))
    assert isinstance(model, SemanticSegmenter)
    shown = most_varied_image(trained.dataset(), trained.images)
    assert shown is not None
    panels = map_panels(shown, label_maps(model, shown.picture, 20), OWN)
    assert panels.captions[1:] == [
        "coarse prediction: 2×3", "step 1: 4×6", "step 2: 8×11", "step 3: 15×22", "step 4: 30×44",
    ]  # fmt: skip
    assert {len(row) for row in panels.rows} == {6}


@pytest.mark.parametrize("name", NAMES)
def test_the_figure(repository: Path, tmp_path: Path, name: str, contents: Callable[[Path], Any]) -> None:
    trained = trained_run(repository, tmp_path, name)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (figure,) = draw_semantic_figures(trained, tmp_path / folder)
    assert figure.file == f"semantic_subdivision_{name}.webp"
    assert "N = 5 cells" in figure.caption  # of 30 x 44 pixels, one for 16 x 16 of them
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    with Image.open(tmp_path / "a" / figure.file) as picture:
        assert picture.width <= 3200


def test_no_figure_without_pointrend(repository: Path, tmp_path: Path) -> None:
    trained = trained_run(repository, tmp_path, "cityscapes_deeplabv3_r103-0")
    assert draw_semantic_figures(trained, tmp_path) == []
