"""Figures of an untrained model that is right by definition: the ground truth is what it has found."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from pipeline.config.experiments import RunConfig
from pipeline.config.project import Project
from pipeline.config.selection import SelectedRun
from pipeline.data.annotations import Annotation
from pipeline.data.coco import Category, ImageRecord
from pipeline.data.manifest import SplitManifest, write_prepared
from pipeline.data.storage import Storage
from pipeline.evaluation.trained_run import TrainedRun
from pipeline.report.figures.instance_figures import (
    coarse_mask,
    draw_instance_figures,
    mask_over_image,
    mask_steps,
    rendering_panels,
    sampling_panels,
)
from pipeline.report.figures.overlays import Scenes
from pipeline.report.figures.shown_objects import ShownObject, shown_objects
from pipeline.training.model import build_run_model
from pointrend import save_weights
from pointrend.instance import MaskRCNN, PointRendMaskHead
from pointrend.pictures import decode_picture
from pointrend.specs import Rendering

SIZE = (48, 64)
CATEGORIES = [Category(4, "bolt"), Category(9, "nut")]
NAME = "coco_pointrend_r50-0"
SHOWN = Project(Path(__file__).parents[4]).figures()


def run(repository: Path, experiment: str) -> RunConfig:
    """A run of the demo at sizes for small images."""
    parameters = SelectedRun(
        task="instance", dataset="shapes", experiment=experiment, seed=0, starts_from="data/shapes"
    )
    config, _ = Project(repository).run("demo", f"{experiment}-0", parameters)
    return config.model_copy(update={"model": config.model.model_copy(update={"test_min_size": 48, "max_size": 64})})


def rectangle(x0: float, y0: float, x1: float, y1: float) -> Annotation:
    mask = np.zeros(SIZE, dtype=np.uint8, order="F")
    mask[round(y0) : round(y1), round(x0) : round(x1)] = 1
    return Annotation(1, 4, (x0, y0, x1 - x0, y1 - y0), int(mask.sum()), False, coco_mask.encode(mask)["counts"])


@torch.inference_mode()
def found_by(model: MaskRCNN, file: Path) -> list[Annotation]:
    """The largest of the model's own detections, as ground truth."""
    found = model.detect([decode_picture(file, file.name)])
    boxes = found.original_boxes()[0]
    largest = int(((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).argmax())
    annotation = rectangle(*boxes[largest].tolist())
    return [Annotation(**{**vars(annotation), "category_id": CATEGORIES[found.labels[0][largest] - 1].id})]


Make = Callable[..., TrainedRun]


@pytest.fixture(scope="module")
def make(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Runs on three images: ``make(experiment, objects=...)``, without objects if so asked."""

    def make(experiment: str = "coco_pointrend_r50", *, objects: bool = True) -> TrainedRun:
        root = tmp_path_factory.mktemp("run")
        config = run(repository, experiment)
        torch.manual_seed(3)
        model = build_run_model(config, len(CATEGORIES), pretrained=False)
        assert isinstance(model, MaskRCNN)
        save_weights(model, root / "model.safetensors")
        records = []
        for number in range(3):
            file = root / f"{number}.png"
            pixels = np.random.default_rng(number).integers(0, 256, (6, 8, 3), np.uint8)
            Image.fromarray(pixels).resize(SIZE[::-1]).save(file)
            records.append(ImageRecord(number, file.name, *SIZE, found_by(model.eval(), file) if objects else []))
        split = SplitManifest(records)
        write_prepared(root, CATEGORIES, {"train": split, "val": split})
        return TrainedRun(config, root, Storage(str(root)), root / "model.safetensors")

    return make


@pytest.fixture(scope="module")
def trained(make: Make) -> TrainedRun:
    return make()


@pytest.fixture(scope="module")
def shown(trained: TrainedRun) -> tuple[MaskRCNN, list[ShownObject]]:
    model = trained.model(torch.device("cpu"))
    assert isinstance(model, MaskRCNN)
    prepared = trained.dataset()
    return model, shown_objects(model, Scenes(prepared.manifest("val"), trained.images, []), prepared.categories, 9, 2)


def test_the_objects_are_those_of_the_ground_truth(shown: tuple[MaskRCNN, list[ShownObject]]) -> None:
    _, objects = shown
    assert len(objects) == 2
    for one in objects:
        assert one.category in ("bolt", "nut")
        assert one.found.boxes[0].shape == (1, 4)
        # At this size the network's input is the image itself.
        torch.testing.assert_close(one.box, one.found.boxes[0][0])


def test_the_steps_end_in_the_model_s_own_mask(shown: tuple[MaskRCNN, list[ShownObject]]) -> None:
    model, objects = shown
    assert isinstance(model.mask_head, PointRendMaskHead)
    steps = mask_steps(model.mask_head, objects[0], 3, 100)
    with torch.inference_mode():
        (rendered,) = model.region_masks(objects[0].found, Rendering(56, 100))
    # The model computes the same in another order, which may decide between equally uncertain cells.
    assert (torch.isclose(steps[-1].refined.sigmoid(), rendered, atol=1e-4)).float().mean() > 0.99
    assert [step.points.shape[1] for step in steps] == [100, 100, 100]


def test_a_mask_lies_where_its_box_is(shown: tuple[MaskRCNN, list[ShownObject]]) -> None:
    _, objects = shown
    # 30x20 pixels with a margin of 3 give 37x27: enlarged to 480x350, about 13 times.
    one = ShownObject("bolt", torch.zeros(3, *SIZE), torch.tensor([10.0, 10.0, 40.0, 30.0]), objects[0].found)
    pixels = np.asarray(mask_over_image(one, torch.tensor([[True, False], [False, False]]))).astype(int)
    drawn = pixels[..., 0] - pixels[..., 1] > 30  # the mask is red on black, with a white line around it
    assert drawn.shape == (350, 480)
    rows, columns = np.where(drawn.any(1))[0], np.where(drawn.any(0))[0]
    # The upper left quarter of the box: pixels 3 to 18 by 3 to 13 of the crop.
    assert np.abs(np.array([columns[0], columns[-1] + 1]) - np.array([3, 18]) * 480 / 37).max() <= 3
    assert np.abs(np.array([rows[0], rows[-1] + 1]) - np.array([3, 13]) * 350 / 27).max() <= 3
    # The smooth outline rounds the corners, by less than one of the 13 pixels that a pixel of the image has.
    outside = ~drawn[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    assert not outside[:, 13:-13].any()
    assert not outside[13:-13].any()


def test_the_figures(trained: TrainedRun, tmp_path: Path, contents: Callable[[Path], Any]) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        torch.rand(1)  # whatever was drawn before does not matter
        figures = draw_instance_figures(trained, SHOWN, tmp_path / folder)
        assert [figure.file for figure in figures] == [
            f"rendering_{NAME}.webp",
            f"subdivision_{NAME}.png",
            f"training_points_{NAME}.png",
            f"resolutions_{NAME}.webp",
        ]
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    for figure in figures:
        with Image.open(tmp_path / "a" / figure.file) as picture:
            assert picture.width <= 3200
            assert figure.width == round(picture.width / 2)
            assert np.asarray(picture).std() > 0
        assert (tmp_path / "a" / figure.file).stat().st_size < 600_000
    with Image.open(tmp_path / "a" / figures[3].file) as picture:
        assert picture.width <= (1 + len(SHOWN.resolutions)) * 492


def test_every_step_is_shown_up_to_the_finest_mask(shown: tuple[MaskRCNN, list[ShownObject]]) -> None:
    model, objects = shown
    assert isinstance(model.mask_head, PointRendMaskHead)
    coarse = coarse_mask(model.mask_head, objects[0])
    steps = mask_steps(model.mask_head, objects[0], SHOWN.rendering.steps, SHOWN.rendering.num_points)
    panels = rendering_panels(objects[0], coarse, steps)
    assert panels.captions == ["7×7", "14×14", "28×28", "56×56", "112×112", "224×224"]
    for before, step in zip(panels.rows[0], steps, strict=False):
        assert before.tobytes() != mask_over_image(objects[0], step.refined[0, 0] >= 0).tobytes()


def test_training_points_are_the_same_every_time_and_leave_other_random_numbers_alone() -> None:
    coarse = torch.linspace(-3, 3, 49).view(1, 1, 7, 7)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = sampling_panels(coarse, SHOWN.training_points)
    assert torch.equal(torch.rand(3), expected)
    again = sampling_panels(coarse, SHOWN.training_points)
    assert first.render().tobytes() == again.render().tobytes()
    # Four strategies, four pictures.
    assert len({panel.tobytes() for panel in first.rows[0]}) == 5


@pytest.mark.parametrize(
    "asked", [{"objects": False}, {"experiment": "coco_4xconv_r50"}], ids=["nothing found", "another head"]
)
def test_no_figure_without_anything_to_show(make: Make, tmp_path: Path, asked: dict[str, Any]) -> None:
    assert draw_instance_figures(make(**asked), SHOWN, tmp_path) == []
    assert list(tmp_path.iterdir()) == []
