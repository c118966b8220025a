import argparse
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as OfficialTool
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from pipeline.config.labels import LabelTable
from pipeline.data.labels import CITYSCAPES, plain
from pipeline.errors import UserError
from pipeline.metrics import segmentation_iou
from pipeline.metrics.bootstrap import with_intervals
from pipeline.metrics.errors import GroundTruthError, PredictionError
from pipeline.metrics.segmentation_iou import boundary_distance, miou

ROAD, SIDEWALK, CAR, VOID, PARKING = 7, 8, 26, 0, 9


def save(path: Path, ids: Any, dtype: Any = np.uint8) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(ids, dtype)).save(path)
    return path


@pytest.fixture
def score(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Scores lists of label maps: as Cityscapes files for its table, under equal paths for another one."""

    def score(truths: Sequence[Any], predictions: Sequence[Any], **arguments: Any) -> dict[str, Any]:
        plain_names = "table" in arguments
        for index, (truth, prediction) in enumerate(zip(truths, predictions, strict=True)):
            image = f"city/city_000000_{index:06}"
            save(tmp_path / "gtFine" / (image + ("" if plain_names else "_gtFine_labelIds") + ".png"), truth)
            save(tmp_path / "results" / (image + ".png"), prediction)
        return with_intervals(miou(tmp_path / "gtFine", tmp_path / "results", **arguments))

    return score


def official(truth: Path, predictions: Path) -> dict[str, Any]:
    """cityscapesscripts' results, the files found by its own rule."""
    arguments = argparse.Namespace(**vars(OfficialTool.args))
    arguments.quiet, arguments.JSONOutput, arguments.evalInstLevelScore = True, False, False
    arguments.predictionPath, arguments.predictionWalk = str(predictions), None
    truths = sorted(map(str, truth.rglob("*_gtFine_labelIds.png")))
    found = [OfficialTool.getPrediction(arguments, path) for path in truths]
    return OfficialTool.evaluateImgLists(found, truths, arguments)


def blobs(rng: np.random.Generator, height: int, width: int, ids: Sequence[int]) -> np.ndarray:
    """A map of Voronoi cells."""
    rows, columns = np.mgrid[:height, :width]
    seeds = rng.uniform((0, 0), (height, width), (25, 2))
    nearest = ((rows[..., None] - seeds[:, 0]) ** 2 + (columns[..., None] - seeds[:, 1]) ** 2).argmin(axis=-1)
    return rng.choice(ids, 25)[nearest]


# mIoU


def test_iou_by_hand(score: Callable[..., dict[str, Any]]) -> None:
    truth = [[ROAD, ROAD, ROAD, CAR], [ROAD, CAR, CAR, VOID]]
    prediction = [[ROAD, ROAD, CAR, CAR], [VOID, CAR, SIDEWALK, CAR]]
    found = score([truth], [prediction])
    # Road: 2 of 4 found, none elsewhere. Car: 2 of 3 found, 1 elsewhere, that on void not counted. Sidewalk: 1 wrong.
    assert found["IoU"]["road"] == pytest.approx(100 * 2 / 4)
    assert found["IoU"]["car"] == pytest.approx(100 * 2 / 4)
    assert found["IoU"]["sidewalk"] == 0
    assert found["mIoU"] == pytest.approx(100 * (0.5 + 0.5 + 0) / 3)
    assert found["images"] == 1
    assert len(found["IoU"]) == 19
    assert sum(math.isnan(value) for value in found["IoU"].values()) == 16
    assert found["ignored_pixels_percent"] == pytest.approx(100 * 1 / 8)
    assert set(found) == {"mIoU", "IoU", "images", "ignored_pixels_percent"}


def test_pixels_are_counted_over_all_images_together(score: Callable[..., dict[str, Any]]) -> None:
    found = score([[[0, 0, 0, 0]], [[0, 1]]], [[[0, 0, 0, 0]], [[1, 1]]], table=plain(2))
    # Not the mean of 100 and 25: class 0 is 4 of 5, class 1 is 1 of 2.
    assert found["IoU"] == pytest.approx({"0": 80, "1": 50})
    assert found["mIoU"] == pytest.approx(65)


def test_it_is_what_cityscapesscripts_says(score: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    # Buses (28) are predicted only, trains (31) nowhere.
    ids = [i for i in range(34) if i not in (28, 31)]
    truths = [blobs(rng, 40 + 3 * i, 60, ids) for i in range(5)]
    predictions = []
    for truth in truths:
        prediction = np.roll(truth, (2, -3), (0, 1))
        wrong = rng.random(truth.shape) < 0.1
        prediction[wrong] = rng.choice([*ids, 28], wrong.sum())
        predictions.append(prediction)
    found = score(truths, predictions)
    expected = official(tmp_path / "gtFine", tmp_path / "results")
    assert 20 < found["mIoU"] < 90
    assert found["mIoU"] == pytest.approx(100 * expected["averageScoreClasses"], abs=1e-9)
    for name, value in found["IoU"].items():
        assert value == pytest.approx(100 * expected["classScores"][name], abs=1e-9, nan_ok=True)
    assert found["IoU"]["bus"] == 0
    assert math.isnan(found["IoU"]["train"])


def test_cityscapes_table_is_the_benchmarks() -> None:
    names = "road,sidewalk,building,wall,fence,pole,traffic light,traffic sign,vegetation,terrain,sky,person,rider,car,"
    assert ",".join(CITYSCAPES.names) == names + "truck,bus,train,motorcycle,bicycle"
    assert CITYSCAPES.ids == (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
    assert sorted(CITYSCAPES.ids + CITYSCAPES.ignored) == list(range(34))


@given(arrays.arrays(np.uint8, (2, 2, 6, 7), elements=st.sampled_from([0, 1, 2, 255])))
@settings(max_examples=40, deadline=None)
def test_iou_against_sets(tmp_path_factory: pytest.TempPathFactory, maps: np.ndarray) -> None:
    folder = tmp_path_factory.mktemp("maps")
    for index, (truth, prediction) in enumerate(maps):
        save(folder / "truth" / f"{index}.png", truth)
        save(folder / "predicted" / f"{index}.png", prediction)
    found = miou(folder / "truth", folder / "predicted", table=plain(3))
    valid = maps[:, 0] != 255
    for k in range(3):
        truth, prediction = valid & (maps[:, 0] == k), valid & (maps[:, 1] == k)
        union = (truth | prediction).sum()
        expected = 100 * (truth & prediction).sum() / union if union else math.nan
        assert found["IoU"][str(k)] == pytest.approx(expected, nan_ok=True)
    assert found["mIoU"] == pytest.approx(
        np.mean([v for v in found["IoU"].values() if not math.isnan(v)] or [math.nan]), nan_ok=True
    )


def test_all_ignored(score: Callable[..., dict[str, Any]]) -> None:
    found = score([[[VOID, PARKING]]], [[[ROAD, CAR]]], trimap_widths=[8], resamples=5)
    assert math.isnan(found["mIoU"])
    assert math.isnan(found["trimap8_mIoU"])
    assert all(map(math.isnan, [*found["IoU"].values(), *found["mIoU_interval"]]))


@pytest.mark.parametrize(("dtype", "mode"), [(np.uint8, "L"), (np.uint16, "I;16"), (bool, "1")])
def test_bit_depths(tmp_path: Path, dtype: Any, mode: str) -> None:
    save(tmp_path / "truth" / "a.png", [[0, 1, 1]])
    path = save(tmp_path / "predicted" / "a.png", [[0, 0, 1]], dtype)
    with Image.open(path) as picture:
        assert picture.mode.startswith(mode[:1])
    assert miou(tmp_path / "truth", tmp_path / "predicted", table=plain(2))["IoU"] == pytest.approx({"0": 50, "1": 50})


def test_a_palette_is_read_as_its_indices(tmp_path: Path) -> None:
    save(tmp_path / "truth" / "a.png", [[0, 1, 2]])
    picture = Image.fromarray(np.array([[0, 1, 2]], np.uint8))
    picture.putpalette([9, 9, 9, 200, 0, 0, 0, 200, 0])
    (tmp_path / "predicted").mkdir()
    picture.save(tmp_path / "predicted" / "a.png")
    assert miou(tmp_path / "truth", tmp_path / "predicted", table=plain(3))["mIoU"] == 100


# Which file belongs to which


def test_cityscapes_files_are_found_at_any_depth(tmp_path: Path) -> None:
    truth, results = tmp_path / "gtFine", tmp_path / "results"
    for split, city, frame in (("val", "ulm", "000000"), ("val", "bonn", "000001"), ("train", "jena", "000019")):
        stem = f"{city}_000000_{frame}"
        save(truth / split / city / f"{stem}_gtFine_labelIds.png", [[ROAD, CAR]])
        save(truth / split / city / f"{stem}_gtFine_instanceIds.png", [[ROAD, 26000]], np.uint16)
        save(results / split / "deep" / f"{stem}_leftImg8bit_pred.png", [[ROAD, ROAD if city == "jena" else CAR]])
    save(results / "paris_000000_000000.png", [[99]])
    (results / "notes.txt").write_text("no picture")
    assert miou(truth, results)["images"] == 3
    assert miou(truth / "val", results)["mIoU"] == 100
    assert miou(truth / "val" / "ulm", results)["images"] == 1
    assert miou(truth / "train", results)["mIoU"] == pytest.approx(25)


def test_frame_1_is_not_frame_10(tmp_path: Path) -> None:
    for frame, value in ((1, ROAD), (10, CAR)):
        save(tmp_path / "gt" / f"a_0_{frame}_gtFine_labelIds.png", [[value]])
        save(tmp_path / "results" / f"a_0_{frame}.png", [[value]])
    assert miou(tmp_path / "gt", tmp_path / "results")["mIoU"] == 100
    (tmp_path / "results" / "a_0_1.png").unlink()
    with pytest.raises(PredictionError, match="no prediction for image a_0_1 "):
        miou(tmp_path / "gt", tmp_path / "results")


def test_other_data_by_relative_path(tmp_path: Path) -> None:
    for name in ("1.png", "a/1.png", "a/b/1.png"):
        save(tmp_path / "truth" / name, [[0, 1, 255]])
        save(tmp_path / "predicted" / name, [[0, 0 if name == "1.png" else 1, 0]])
    save(tmp_path / "predicted" / "of another split.png", [[77]])
    found = miou(tmp_path / "truth", tmp_path / "predicted", table=plain(2))
    assert found["images"] == 3
    assert found["IoU"] == pytest.approx({"0": 75, "1": 100 * 2 / 3})


def test_a_table_of_ones_own(score: Callable[..., dict[str, Any]]) -> None:
    table = LabelTable(names=("cell", "wall"), ids=(40, 300), ignored=())
    with pytest.raises(GroundTruthError, match=r"label id 41 .*expected ids 40, 300$"):
        score([[[40, 41]]], [[[40, 40]]], table=table)
    assert score([[[40, 40]]], [[[40, 40]]], table=table)["IoU"]["cell"] == 100


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        ((1,), "2 class names and 1 ids"),
        ((1, 1), "label id 1 stands for 'a' and 'b'"),
        ((1, 255), "label id 255 stands for 'b' and ignored pixels"),
        ((-1, 2), "ids from 0 to 65535"),
        ((1, 70_000), "ids from 0 to 65535"),
    ],
)
def test_a_table_that_contradicts_itself(ids: tuple[int, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        LabelTable(names=("a", "b"), ids=ids, ignored=(255,))


@pytest.mark.parametrize("classes", [0, 256])
def test_classes_that_leave_no_room_for_the_ignored_id(classes: int) -> None:
    with pytest.raises(ValueError, match="1 to 255"):
        plain(classes)


# Trimaps


def test_trimap_by_hand(score: Callable[..., dict[str, Any]]) -> None:
    """A straight boundary at column 10; the prediction's is 3 pixels further, so that class 0 takes 3 columns of 1."""
    truth, prediction = np.zeros((2, 5, 20), int)
    truth[:, 10:] = 1
    prediction[:, 13:] = 1
    found = score([truth], [prediction], table=plain(2), trimap_widths=[1, 2, 3, 5, 30])
    for width, (zero, one) in {1: (1 / 2, 0), 2: (2 / 4, 0), 3: (3 / 6, 0), 5: (5 / 8, 2 / 5)}.items():
        assert found[f"trimap{width}_IoU"] == pytest.approx({"0": 100 * zero, "1": 100 * one})
        assert found[f"trimap{width}_mIoU"] == pytest.approx(50 * (zero + one))
    assert found["trimap30_IoU"] == found["IoU"] == pytest.approx({"0": 100 * 10 / 13, "1": 100 * 7 / 10})


def test_trimap_distance_is_euclidean(score: Callable[..., dict[str, Any]]) -> None:
    # One pixel of class 1, so its four neighbours are boundary too. What is wrong is at (3, 4) from the pixel, at
    # sqrt(2^2 + 4^2) = 4.47 and sqrt(3^2 + 3^2) = 4.24 from the nearest two neighbours.
    truth, prediction = np.zeros((2, 11, 11), int)
    truth[5, 5] = prediction[5, 5] = 1
    prediction[8, 9] = 1
    found = score([truth], [prediction], table=plain(2), trimap_widths=[4, 5])
    assert found["trimap4_IoU"]["1"] == 100
    assert found["trimap5_IoU"]["1"] == 50


def test_borders_of_ignored_regions_are_boundaries_and_their_insides_are_not(
    score: Callable[..., dict[str, Any]],
) -> None:
    # Columns: 6 of road, 3 of void, 3 of parking, 6 of car; void and parking are ignored alike.
    truth = np.repeat([[ROAD] * 6 + [VOID] * 3 + [PARKING] * 3 + [CAR] * 6], 2, axis=0)
    prediction = truth.copy()
    prediction[:, 3] = SIDEWALK  # 3 from the void's border: the third pixel
    prediction[:, 9] = CAR  # ignored
    found = score([truth], [prediction], trimap_widths=[2, 3])
    assert (found["trimap2_mIoU"], found["trimap2_IoU"]["road"]) == (100, 100)
    assert found["trimap3_IoU"]["road"] == pytest.approx(100 * 2 / 3)
    assert found["trimap3_IoU"]["car"] == 100
    only_ignored = np.array([[VOID, VOID, PARKING, PARKING]])
    classes = CITYSCAPES.classes(only_ignored)
    assert (boundary_distance(classes) == np.inf).all()


def test_the_images_edge_is_no_boundary(score: Callable[..., dict[str, Any]]) -> None:
    found = score([np.zeros((4, 4))], [np.zeros((4, 4))], table=plain(1), trimap_widths=[100])
    assert found["mIoU"] == 100
    assert math.isnan(found["trimap100_mIoU"])


def brute_force(classes: np.ndarray) -> np.ndarray:
    """Distance to the nearest pixel that has a neighbour of another class, one pair of pixels at a time."""
    height, width = classes.shape
    boundary = [
        (r, c)
        for r in range(height)
        for c in range(width)
        for dr, dc in ((0, 1), (1, 0), (0, -1), (-1, 0))
        if 0 <= r + dr < height and 0 <= c + dc < width and classes[r + dr, c + dc] != classes[r, c]
    ]
    distance = np.full(classes.shape, math.inf)
    for r, c in np.ndindex(classes.shape):
        distance[r, c] = min((math.hypot(r - i, c - j) for i, j in boundary), default=math.inf)
    return distance


MAPS = arrays.arrays(np.int32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 2))


@given(MAPS)
@settings(max_examples=100, deadline=None)
def test_boundary_distance_against_brute_force(classes: np.ndarray) -> None:
    assert boundary_distance(classes) == pytest.approx(brute_force(classes))


@given(arrays.arrays(np.uint8, (2, 2, 8, 9), elements=st.sampled_from([0, 1, 1, 1, 255])), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_trimap_against_brute_force(tmp_path_factory: pytest.TempPathFactory, maps: np.ndarray, width: int) -> None:
    """What lies outside the trimap is made ignored: the mIoU of that is the trimap's."""
    folder = tmp_path_factory.mktemp("maps")
    for index, (truth, prediction) in enumerate(maps):
        save(folder / "truth" / f"{index}.png", truth)
        save(folder / "band" / f"{index}.png", np.where(brute_force(truth) < width, truth, 255))
        save(folder / "predicted" / f"{index}.png", prediction)
    found = miou(folder / "truth", folder / "predicted", table=plain(2), trimap_widths=[width, 99])
    band = miou(folder / "band", folder / "predicted", table=plain(2))
    assert found[f"trimap{width}_IoU"] == pytest.approx(band["IoU"], nan_ok=True)
    assert found[f"trimap{width}_mIoU"] == pytest.approx(band["mIoU"], nan_ok=True)
    if all(len(np.unique(truth)) > 1 for truth in maps[:, 0]):
        assert found["trimap99_IoU"] == pytest.approx(found["IoU"], nan_ok=True)


@pytest.mark.parametrize("width", [0, -3])
def test_a_trimap_of_no_width(score: Callable[..., Any], width: int) -> None:
    with pytest.raises(ValueError, match="trimap widths"):
        score([[[ROAD, CAR]]], [[[ROAD, CAR]]], trimap_widths=[8, width])


# Intervals


def test_intervals_hold_the_value_and_shrink_with_the_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    spans = []
    for count in (10, 90):
        for index in range(count):
            truth = blobs(rng, 16, 16, [0, 1, 2])
            name = f"{index}.png"
            save(tmp_path / f"truth{count}" / name, truth)
            wrong = rng.random(truth.shape) < rng.uniform(0, 0.6)
            save(tmp_path / f"predicted{count}" / name, np.where(wrong, 2 - truth, truth))
        found = with_intervals(
            miou(tmp_path / f"truth{count}", tmp_path / f"predicted{count}", table=plain(3), resamples=300, seed=1,
                 trimap_widths=[2])
        )  # fmt: skip
        for key in ("mIoU", "trimap2_mIoU"):
            low, high = found[f"{key}_interval"]
            assert low < found[key] < high
        assert all(low <= found["IoU"][name] <= high for name, (low, high) in found["IoU_interval"].items())
        low, high = found["mIoU_interval"]
        spans.append(high - low)
    # Nine times the images: a third of the interval.
    assert spans[1] == pytest.approx(spans[0] / 3, rel=0.5)


def test_intervals_by_hand(score: Callable[..., dict[str, Any]]) -> None:
    # One image right, one wrong: a resample is both right (1 of 4), both wrong (1 of 4) or one of each.
    arguments: dict[str, Any] = {"table": plain(2), "resamples": 400}
    found = score([[[0]], [[0]]], [[[0]], [[1]]], **arguments)
    assert found["IoU"] == {"0": 50, "1": 0}
    assert found["IoU_interval"]["0"] == [0, 100]
    # Class 1 has no IoU where it is not predicted; elsewhere it is 0.
    assert found["IoU_interval"]["1"] == [0, 0]
    assert found["mIoU_interval"] == [0, 100]
    assert score([[[0]], [[0]]], [[[0]], [[1]]], **arguments) == found


# What cannot be scored


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two images of 4x3 with perfect predictions."""
    for frame in (0, 1):
        for path in (f"gtFine/ulm/ulm_000000_00000{frame}_gtFine_labelIds.png", f"results/ulm_000000_00000{frame}.png"):
            save(tmp_path / path, np.full((3, 4), ROAD))
    return tmp_path / "gtFine", tmp_path / "results"


def cut(path: Path) -> None:
    save(path, np.random.default_rng(0).integers(7, 9, (64, 64)))
    path.write_bytes(path.read_bytes()[:-200])


def unknown_id(path: Path) -> None:
    ids = np.full((3, 4), ROAD)
    ids[2, 1] = 57
    save(path, ids)


def colours(path: Path) -> None:
    save(path, np.zeros((3, 4, 3)))


def alpha(path: Path) -> None:
    Image.new("LA", (4, 3)).save(path)


def text(path: Path) -> None:
    path.write_text("no picture")


def empty(path: Path) -> None:
    path.write_bytes(b"")


UNREADABLE = {
    cut: "truncated",
    unknown_id: r"label id 57 at row 2, column 1 \(1 unknown pixels\); expected ids 7-8, 11-13, .*ignored",
    colours: "pixels are RGB; expected one channel",
    alpha: "pixels are LA; expected one channel",
    text: "no image",
    empty: "the file is empty",
}


@pytest.mark.parametrize(("damage", "said"), UNREADABLE.items(), ids=[damage.__name__ for damage in UNREADABLE])
@pytest.mark.parametrize("whose", ["truth", "prediction"])
def test_a_bad_picture_is_named(
    folders: tuple[Path, Path], damage: Callable[[Path], None], said: str, whose: str
) -> None:
    truth, results = folders
    path = results / "ulm_000000_000001.png"
    if whose == "truth":
        path = truth / "ulm" / "ulm_000000_000001_gtFine_labelIds.png"
    damage(path)
    with pytest.raises(GroundTruthError if whose == "truth" else PredictionError) as caught:
        miou(truth, results)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert re.search(said, message)
    assert isinstance(caught.value, UserError)


def test_255_is_no_label_id_of_cityscapes(folders: tuple[Path, Path]) -> None:
    # As in predictions of train ids.
    save(folders[1] / "ulm_000000_000001.png", np.full((3, 4), 255))
    with pytest.raises(
        PredictionError, match=r"label id 255 at row 0, column 0 \(12 unknown pixels\); expected ids 7-8"
    ):
        miou(*folders)


def test_a_prediction_of_another_size(folders: tuple[Path, Path]) -> None:
    save(folders[1] / "ulm_000000_000001.png", np.full((4, 3), ROAD))
    with pytest.raises(PredictionError, match=r"ulm_000000_000001\.png: the image is 3x4, its .*labelIds\.png is 4x3"):
        miou(*folders)


def test_a_missing_prediction(folders: tuple[Path, Path]) -> None:
    (folders[1] / "ulm_000000_000001.png").unlink()
    with pytest.raises(PredictionError) as caught:
        miou(*folders)
    said = str(caught.value)
    assert said.startswith(f"{folders[1]}: no prediction for image ulm_000000_000001 ")
    assert said.endswith("expected a file ulm_000000_000001*.png")


def test_two_predictions_for_one_image(folders: tuple[Path, Path]) -> None:
    save(folders[1] / "old" / "ulm_000000_000001_pred.png", [[ROAD]])
    with pytest.raises(PredictionError, match=r"image ulm_000000_000001: two predictions, .* and .*; expected one"):
        miou(*folders)


def test_two_ground_truths_for_one_image(folders: tuple[Path, Path]) -> None:
    save(folders[0] / "copy" / "ulm_000000_000001_gtFine_labelIds.png", [[ROAD]])
    with pytest.raises(GroundTruthError, match=r"image ulm_000000_000001: two ground truths, .* and .*; expected one"):
        miou(*folders)


@pytest.mark.parametrize("arguments", [{}, {"table": plain(3)}])
def test_no_ground_truth(tmp_path: Path, arguments: dict[str, Any]) -> None:
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "nowhere"):
        with pytest.raises(
            GroundTruthError, match=f"{folder}: no ground truth found; expected a folder with files .*png"
        ):
            miou(tmp_path / folder, tmp_path / "empty", **arguments)


@pytest.mark.parametrize("arguments", [{}, {"table": plain(8)}])
def test_no_folder_of_predictions(folders: tuple[Path, Path], arguments: dict[str, Any]) -> None:
    with pytest.raises(PredictionError, match="elsewhere: no such folder"):
        miou(folders[0], folders[1] / "elsewhere", **arguments)


def test_a_missing_prediction_of_other_data(tmp_path: Path) -> None:
    save(tmp_path / "truth" / "a" / "1.png", [[0]])
    save(tmp_path / "predicted" / "1.png", [[0]])
    with pytest.raises(PredictionError) as caught:
        miou(tmp_path / "truth", tmp_path / "predicted", table=plain(2))
    assert str(caught.value).endswith(f"expected a file {tmp_path / 'predicted' / 'a' / '1.png'}")


def test_resamples_are_the_resampled_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    maps = [blobs(rng, 16, 16, [0, 1, 2]) for _ in range(4)]
    wrong = [np.where(rng.random(truth.shape) < 0.3, 2 - truth, truth) for truth in maps]

    def found(root: Path, counts: Sequence[int], **options: Any) -> dict[str, Any]:
        for index, count in enumerate(counts):
            for copy in range(count):
                save(root / "truth" / f"{index}_{copy}.png", maps[index])
                save(root / "predicted" / f"{index}_{copy}.png", wrong[index])
        return miou(root / "truth", root / "predicted", table=plain(3), trimap_widths=[2], **options)

    drawn = [[1, 1, 1, 1], [0, 3, 1, 0], [4, 0, 0, 0], [2, 0, 1, 1]]
    monkeypatch.setattr(segmentation_iou, "resample_counts", lambda images, resamples, seed: np.array(drawn))
    resampled = found(tmp_path / "all", [1] * 4, resamples=len(drawn))
    for index, counts in enumerate(drawn):
        expected = found(tmp_path / str(index), counts)
        for key in ("mIoU", "trimap2_mIoU"):
            assert resampled[f"{key}_resamples"][index] == pytest.approx(expected[key])
