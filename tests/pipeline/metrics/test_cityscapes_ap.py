import argparse
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling as OfficialTool
from PIL import Image

from pipeline.errors import UserError
from pipeline.metrics.cityscapes_ap import cityscapes_ap
from pipeline.metrics.errors import GroundTruthError, PredictionError

ROAD, PERSON, RIDER, CAR, CARAVAN, BUS, BICYCLE = 7, 24, 25, 26, 29, 28, 33
CLASSES = ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
KEYS = {"AP", "AP50"} | {f"{key}-{name}" for name in CLASSES for key in ("AP", "AP50")}

Prediction = tuple[np.ndarray, int, float]  # mask, label id, confidence


class Scene:
    """Ground truth and predictions on disk, one image after the other."""

    def __init__(self, root: Path) -> None:
        self.truth, self.results = root / "gtFine", root / "results"
        self.images = 0

    def add(self, ids: np.ndarray, predictions: list[Prediction]) -> None:
        stem = f"ulm_000000_{self.images:06}"
        self.images += 1
        for folder in (self.truth / "val" / "ulm", self.results / "masks"):
            folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(ids.astype(np.uint16)).save(self.truth / "val" / "ulm" / f"{stem}_gtFine_instanceIds.png")
        lines = []
        for index, (mask, label_id, confidence) in enumerate(predictions):
            name = f"masks/{stem}_{index}.png"
            Image.fromarray(mask.astype(np.uint8)).save(self.results / name)
            lines.append(f"{name} {label_id} {confidence}\n")
        (self.results / f"{stem}_leftImg8bit_pred.txt").write_text("".join(lines))

    def score(self, **options: Any) -> dict[str, Any]:
        return cityscapes_ap(self.truth, self.results, **options)

    def resampled(self, root: Path, counts: Sequence[int]) -> "Scene":
        """The dataset with each image as often as it was drawn."""
        drawn = Scene(root)
        for image, count in enumerate(counts):
            stem = f"ulm_000000_{image:06}"
            ids = np.array(Image.open(self.truth / "val" / "ulm" / f"{stem}_gtFine_instanceIds.png"))
            predictions: list[Prediction] = []
            for line in (self.results / f"{stem}_leftImg8bit_pred.txt").read_text().splitlines():
                name, label_id, confidence = line.split(" ")
                predictions.append((np.array(Image.open(self.results / name)), int(label_id), float(confidence)))
            for _ in range(count):
                drawn.add(ids, predictions)
        return drawn


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def box(left: int, top: int, width: int, height: int, shape: tuple[int, int] = (60, 80)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[top : top + height, left : left + width] = True
    return mask


def street(*objects: tuple[np.ndarray, int]) -> np.ndarray:
    """Instance ids of objects on a road."""
    ids = np.full((60, 80), ROAD)
    for mask, value in objects:
        ids[mask] = value
    return ids


def made_up(scene: Scene, seed: int = 0) -> None:
    """Eight images, and predictions: moved, dropped, doubled, renamed, made up, in void and on groups."""
    rng = np.random.default_rng(seed)
    labels = [PERSON, CAR, BUS]
    for _ in range(8):
        ids = np.full((60, 80), ROAD)
        ids[50:] = 0
        predictions: list[Prediction] = []
        for instance in range(rng.integers(2, 6)):
            label = int(rng.choice([*labels, CARAVAN]))
            left, top, side = rng.integers(0, 60), rng.integers(0, 40), rng.choice([8, 16, 24])
            mask = box(left, top, side, side)
            # One in seven is a group, which has the label id alone.
            ids[mask] = label if rng.random() < 1 / 7 else 1000 * label + instance
            if rng.random() < 0.2:
                continue
            for _ in range(1 + int(rng.random() < 0.3)):
                dx, dy = rng.integers(-3, 4, 2)
                guess = label if rng.random() < 0.9 else int(rng.choice([*labels, BICYCLE, ROAD]))
                predictions.append((np.roll(mask, (dy, dx), (0, 1)) * 255, guess, round(float(rng.random()), 2)))
        if rng.random() < 0.5:
            predictions.append((box(rng.integers(0, 60), 48, 15, 12), CAR, float(rng.random())))
        predictions.append((box(0, 0, 0, 0), PERSON, 0.5))
        scene.add(ids, predictions)


def official(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """cityscapesscripts' averages, the files found by its own rule."""
    arguments = argparse.Namespace(**vars(OfficialTool.args))
    arguments.quiet, arguments.JSONOutput = True, False
    arguments.predictionPath, arguments.predictionWalk = str(scene.results), None
    arguments.gtInstancesFile = ""
    truths = sorted(map(str, scene.truth.rglob("*_gtFine_instanceIds.png")))
    with monkeypatch.context() as patch:
        patch.setattr(np, "in1d", np.isin, raising=False)  # removed in NumPy 2.4
        patch.setattr(OfficialTool, "writeDict2JSON", lambda *_: None)  # fails on NumPy's integers
        found = [OfficialTool.getPrediction(path, arguments) for path in truths]
        return OfficialTool.evaluateImgLists(found, truths, arguments)["averages"]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_is_what_cityscapesscripts_says(scene: Scene, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    made_up(scene, seed)
    found = scene.score()
    expected = official(scene, monkeypatch)
    assert set(found) == KEYS
    assert 5 < found["AP"] < found["AP50"] < 95
    assert found["AP"] == pytest.approx(100 * expected["allAp"], abs=1e-9)
    assert found["AP50"] == pytest.approx(100 * expected["allAp50%"], abs=1e-9)
    for name, values in expected["classes"].items():
        assert found[f"AP-{name}"] == pytest.approx(100 * values["ap"], abs=1e-9, nan_ok=True)
        assert found[f"AP50-{name}"] == pytest.approx(100 * values["ap50%"], abs=1e-9, nan_ok=True)
    # No ground truth, though some are predicted.
    assert math.isnan(found["AP-bicycle"])


def test_ap_by_hand(scene: Scene) -> None:
    """Found with an IoU of 0.72: right at the thresholds 0.50, 0.55, 0.60, 0.65 and 0.70 only."""
    scene.add(street((box(10, 5, 50, 50), 1000 * CAR)), [(box(10, 5, 50, 36), CAR, 0.5)])
    found = scene.score()
    assert found["AP-car"] == found["AP"] == pytest.approx(50)
    assert found["AP50-car"] == found["AP50"] == pytest.approx(100)
    assert all(math.isnan(found[f"AP-{name}"]) for name in CLASSES if name != "car")


def test_a_doubled_prediction_by_hand(scene: Scene) -> None:
    # Two cars, found with confidence 0.9 and 0.3; a second prediction of the first, 0.6, is a false positive. Precision
    # is 1 up to a recall of 1/2, then 2/3. The tool's integral puts a point's precision on half a step to either side.
    first, second = box(5, 5, 20, 20), box(40, 5, 20, 20)
    scene.add(
        street((first, 1000 * CAR), (second, 1000 * CAR + 1)),
        [(first, CAR, 0.9), (first, CAR, 0.6), (second, CAR, 0.3)],
    )
    # Points (recall, precision): (1, 2/3), (1/2, 1/2), (1/2, 1), (0, 1).
    assert scene.score()["AP-car"] == pytest.approx(100 * (2 / 3 * 0.25 + 1 / 2 * 0.25 + 1 * 0.25 + 1 * 0.25))


def test_perfect_predictions(scene: Scene) -> None:
    for _ in range(2):
        car, person = box(5, 5, 20, 20), box(40, 5, 12, 30)
        scene.add(street((car, 1000 * CAR + 3), (person, 1000 * PERSON)), [(car, CAR, 0.9), (person, PERSON, 0.2)])
    found = scene.score()
    assert [found[key] for key in ("AP", "AP50", "AP-car", "AP-person")] == pytest.approx([100] * 4)


def test_files_without_lines(scene: Scene) -> None:
    scene.add(street((box(5, 5, 20, 20), 1000 * CAR)), [])
    found = scene.score()
    assert found["AP"] == found["AP-car"] == found["AP50"] == 0
    assert math.isnan(found["AP-person"])


@pytest.mark.filterwarnings("error")
def test_no_objects_at_all(scene: Scene) -> None:
    # 9x9 pixels are below the benchmark's smallest object.
    scene.add(street((box(5, 5, 9, 9), 1000 * CAR)), [(box(30, 30, 20, 20), CAR, 0.5)])
    assert all(math.isnan(value) for value in scene.score().values())


def test_an_object_missed_and_the_only_prediction_ignored(scene: Scene) -> None:
    # cityscapesscripts' own script ends with an IndexError here.
    ids = street((box(5, 5, 20, 20), 1000 * CAR))
    ids[50:] = 0
    scene.add(ids, [(box(30, 50, 20, 10), CAR, 0.5)])
    assert scene.score()["AP-car"] == 0


def test_labels_that_the_benchmark_leaves_aside(scene: Scene) -> None:
    car = box(5, 5, 20, 20)
    scene.add(street((car, 1000 * CAR)), [(car, CAR, 0.5), (car, CARAVAN, 0.9), (car, ROAD, 0.9)])
    assert scene.score()["AP"] == pytest.approx(100)


def test_it_leaves_nothing_behind(
    scene: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made_up(scene)
    settings = {key: repr(value) for key, value in vars(OfficialTool.args).items()}
    files = sorted(tmp_path.rglob("*"))
    empty = tmp_path / "here"
    empty.mkdir()
    monkeypatch.chdir(empty)
    first = scene.score()
    assert scene.score() == pytest.approx(first, nan_ok=True)
    assert capsys.readouterr() == ("", "")
    assert sorted(tmp_path.rglob("*")) == sorted([*files, empty])
    assert {key: repr(value) for key, value in vars(OfficialTool.args).items()} == settings
    assert OfficialTool.np is np
    assert hasattr(np, "in1d") == (np.lib.NumpyVersion(np.__version__) < "2.4.0")


def test_it_reads_the_ground_truth_anew_each_time(scene: Scene) -> None:
    car = box(5, 5, 20, 20)
    scene.add(street((car, 1000 * CAR)), [(car, CAR, 0.5)])
    assert scene.score()["AP-car"] == pytest.approx(100)
    scene.images = 0
    scene.add(street((box(50, 30, 20, 20), 1000 * CAR)), [(car, CAR, 0.5)])
    assert scene.score()["AP-car"] == 0


def test_relative_folders_and_masks_above_their_text_file(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    car = box(5, 5, 20, 20)
    scene.add(street((car, 1000 * CAR)), [(car, CAR, 0.5)])
    text = next(scene.results.glob("*.txt"))
    (scene.results / "deep").mkdir()
    (scene.results / "deep" / text.name).write_text("../" + text.read_text())
    text.unlink()
    monkeypatch.chdir(tmp_path)
    assert cityscapes_ap(Path("gtFine/val"), Path("results"))["AP"] == pytest.approx(100)


# What cannot be scored


@pytest.fixture
def good(scene: Scene) -> Scene:
    car = box(5, 5, 20, 20)
    for _ in range(2):
        scene.add(street((car, 1000 * CAR)), [(car, CAR, 0.5), (car, PERSON, 0.25)])
    assert scene.score()["AP"] == pytest.approx(100)
    return scene


MASK = "masks/ulm_000000_000001_1.png"
BAD_LINES = {
    "two fields": (f"{MASK} 26", "expected 'mask.png label_id confidence'"),
    "four fields": (f"{MASK} 26 0.5 0.5", "expected 'mask.png label_id confidence'"),
    "a tab": (f"{MASK}\t26\t0.5", "expected 'mask.png label_id confidence'"),
    "an empty line": ("", "''; expected 'mask.png label_id confidence'"),
    "missing mask": ("masks/nowhere.png 26 0.5", r"masks/nowhere\.png: no such file"),
    "a folder": ("masks 26 0.5", "masks: no such file"),
    "unknown label id": (f"{MASK} 34 0.5", "label id is 34; expected one of Cityscapes' label ids"),
    "label name": (f"{MASK} car 0.5", "label id is car"),
    "fractional label id": (f"{MASK} 26.5 0.5", r"label id is 26\.5"),
    "infinite label id": (f"{MASK} inf 0.5", "label id is inf"),
    "NaN confidence": (f"{MASK} 26 nan", "confidence is nan; expected a finite number"),
    "infinite confidence": (f"{MASK} 26 inf", "confidence is inf"),
    "confidence in words": (f"{MASK} 26 high", "confidence is high"),
    "mask outside": ("../gtFine/val/ulm/ulm_000000_000001_gtFine_instanceIds.png 26 0.5", "lies outside"),
    "absolute path": ("/mask.png 26 0.5", "lies outside"),
    "mask used twice": ("masks/ulm_000000_000001_0.png 26 0.5", r"mask .*_0\.png is that of line 1 too"),
}  # fmt: skip


@pytest.mark.parametrize(("line", "said"), BAD_LINES.values(), ids=BAD_LINES.keys())
def test_a_bad_line_is_named_with_its_file(good: Scene, line: str, said: str) -> None:
    text = good.results / "ulm_000000_000001_leftImg8bit_pred.txt"
    text.write_text(f"masks/ulm_000000_000001_0.png 26 0.5\n{line}\n")
    with pytest.raises(PredictionError) as caught:
        good.score()
    message = str(caught.value)
    assert message.startswith(f"{text}: line 2: ")
    assert re.search(said, message)
    assert isinstance(caught.value, UserError)


def truncated(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 2, (60, 80)) * 255
    Image.fromarray(noise.astype(np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-200])


def transposed(path: Path) -> None:
    Image.new("L", (60, 80)).save(path)


@pytest.mark.parametrize(
    ("damage", "said"), [(truncated, "truncated"), (transposed, "is 60x80, its ground truth 80x60")]
)
def test_a_bad_mask_is_named(good: Scene, damage: Callable[[Path], None], said: str) -> None:
    damage(good.results / MASK)
    with pytest.raises(PredictionError, match=r"pred\.txt: line 2: mask .*_000001_1\.png.* " + said):
        good.score()


def rgb(path: Path) -> None:
    Image.new("RGB", (80, 60)).save(path)


def unknown_class(path: Path) -> None:
    Image.fromarray(np.full((60, 80), 57_003, np.uint16)).save(path)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (truncated, "truncated"),
        (rgb, "pixels are RGB"),
        (unknown_class, "instance id 57003; expected a label id below 34"),
    ],
)
def test_bad_ground_truth_is_named(good: Scene, damage: Callable[[Path], None], said: str) -> None:
    path = good.truth / "val" / "ulm" / "ulm_000000_000001_gtFine_instanceIds.png"
    damage(path)
    with pytest.raises(GroundTruthError, match=re.escape(f"{path}: ") + ".*" + said):
        good.score()


def test_a_missing_text_file(good: Scene) -> None:
    (good.results / "ulm_000000_000001_leftImg8bit_pred.txt").unlink()
    with pytest.raises(PredictionError, match=r"no prediction for image ulm_000000_000001 .*000001\*\.txt"):
        good.score()


def test_two_text_files_for_one_image(good: Scene) -> None:
    (good.results / "masks" / "ulm_000000_000001.txt").write_text("")
    with pytest.raises(PredictionError, match=r"image ulm_000000_000001: two predictions, .*txt and .*txt"):
        good.score()


def test_no_ground_truth(good: Scene, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(GroundTruthError, match=r"empty: no ground truth found; .*\*_gtFine_instanceIds\.png"):
        cityscapes_ap(tmp_path / "empty", good.results)
    with pytest.raises(PredictionError, match="nowhere: no such folder"):
        cityscapes_ap(good.truth, tmp_path / "nowhere")


def test_a_text_file_of_bytes(good: Scene) -> None:
    (good.results / "ulm_000000_000001_leftImg8bit_pred.txt").write_bytes(b"\xff\xfe\x80")
    with pytest.raises(PredictionError, match=r"pred\.txt: not a readable text file"):
        good.score()


def test_what_the_tool_itself_refuses_is_an_error_too(good: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    # It would end the process. Nothing that gets through the checks is known to make it do so.
    monkeypatch.setattr("pipeline.metrics.cityscapes_ap._check", lambda *_: None)
    (good.results / "ulm_000000_000001_leftImg8bit_pred.txt").write_text("mask.png 26")
    with pytest.raises(PredictionError, match="Invalid prediction file"):
        good.score()


# Resamples


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_resamples_are_the_resampled_datasets(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    made_up(scene, seed)
    rng = np.random.default_rng(seed)
    counts = [[1] * 8, *rng.multinomial(8, [1 / 8] * 8, size=4).tolist(), [0] * 7 + [8], [3, 0, 0, 5, 0, 0, 0, 0]]
    monkeypatch.setattr(
        "pipeline.metrics.cityscapes_ap.resample_counts", lambda images, resamples, seed: np.array(counts)
    )
    found = scene.score(resamples=len(counts))["AP_resamples"]
    expected = [scene.resampled(tmp_path / str(i), drawn).score()["AP"] for i, drawn in enumerate(counts)]
    assert found == pytest.approx(expected, abs=1e-9, nan_ok=True)
    assert 5 < found[0] < 95


def test_a_resample_without_objects_is_not_a_number(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    car = box(10, 10, 20, 20)
    scene.add(street(), [(car, CAR, 0.9)])
    scene.add(street((car, 1000 * CAR)), [])
    scene.add(street((car, 1000 * CAR)), [(car, CAR, 0.5)])
    monkeypatch.setattr(
        "pipeline.metrics.cityscapes_ap.resample_counts",
        lambda images, resamples, seed: np.array([[3, 0, 0], [0, 3, 0], [0, 0, 3], [1, 0, 1]]),
    )
    values = scene.score(resamples=4)["AP_resamples"]
    assert math.isnan(values[0])
    # The last: the wrong car is the more confident one, so the precision rises from 0 to 1/2 with the recall.
    assert values[1:] == pytest.approx([0, 100, 25])
