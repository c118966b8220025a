"""``pointrend predict``, from the command line to the files that it writes."""

import json
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from torch import nn
from typer.testing import CliRunner, Result

from pointrend import build_model, save_weights
from pointrend.cli import app
from pointrend.image_files import write_image
from pointrend.inputs import find_inputs
from pointrend.metadata import ClassInfo
from pointrend.overlays import outline
from pointrend.predict import MAX_PIXELS, Settings, find
from pointrend.predict_command import empty_hint
from pointrend.regions import regions
from pointrend.results import compress_runs, encode

CLASSES = (ClassInfo(7, "square"), ClassInfo(3, "a/b"), ClassInfo(11, "leaf"))
PIXELS = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., nn.Module]) -> Any:
    """Finds something everywhere."""
    model: Any = tiny_model("pointrend")
    nn.init.constant_(model.mask_head.coarse_head.predictor.bias, 1)
    return model.eval()


@pytest.fixture(scope="module")
def weights(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_weights(model, path, classes=CLASSES)
    return path


@pytest.fixture(scope="module")
def semantic_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("weights") / "semantic.safetensors"
    model: Any = build_model("pointrend_semantic_fpn_tiny", num_classes=3)
    nn.init.normal_(model.head.predictor.weight, std=1.0)
    save_weights(model, path, classes=CLASSES)
    return path


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def predict(weights: Path | str, *arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, ["predict", *arguments, "--weights", str(weights)], input=stdin)


def image(path: str, pixels: np.ndarray = PIXELS, **options: Any) -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return Path(path)


def files(folder: str) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file())


class TestOutputs:
    def test_instances(self, weights: Path) -> None:
        image("a.png")
        result = predict(weights, "a.png", "--score", "0.1", "--out", "o", "--save", "overlays,json,labels,cutouts")
        assert result.exit_code == 0, result.output
        assert "o: 1 image, 5 objects of score 0.1 or more, " in result.stdout
        assert "images/s" in result.stdout

        truth = COCO("o/images.json")
        loaded = truth.loadRes("o/predictions.json")
        entries = json.loads(Path("o/predictions.json").read_text())
        assert len(entries) == 5
        assert [e["score"] for e in entries] == sorted((e["score"] for e in entries), reverse=True)
        assert {entry["category_id"] for entry in entries} <= {7, 3, 11}
        assert truth.imgs[1]["file_name"] == "a.png"
        masks = [loaded.annToMask(loaded.anns[number]) for number in sorted(loaded.anns)]
        assert all(mask.shape == (40, 56) and mask.any() for mask in masks)

        # Where objects overlap, the label is that of the best.
        expected = np.zeros((40, 56), np.uint8)
        for number, mask in reversed(list(enumerate(masks, 1))):
            expected[mask > 0] = number
        assert np.array_equal(np.asarray(Image.open("o/labels/a.png")), expected)

        cutouts = files("o/cutouts/a")
        assert len(cutouts) == 5
        names = {known.id: known.name.replace("/", "-") for known in CLASSES}
        for entry, mask, name in zip(entries, masks, cutouts, strict=True):
            assert name[4:] == f"{names[entry['category_id']]}-{entry['score']:.2f}.png"
            cut = np.asarray(Image.open(f"o/cutouts/a/{name}"))
            rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
            window = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
            assert np.array_equal(cut[..., 3] >= 128, mask[window] > 0)
            opaque = cut[..., 3] > 0
            assert np.array_equal(cut[opaque][:, :3], PIXELS[window][opaque])

        overlay = Image.open("o/overlays/a.jpg")
        assert overlay.width % 56 == 0
        assert overlay.height > 40 * overlay.width // 56  # the legend

    def test_semantics(self, semantic_weights: Path) -> None:
        image("a.png")
        result = predict(semantic_weights, "a.png", "--out", "o", "--save", "overlays,json,labels,cutouts")
        assert result.exit_code == 0, result.output
        labels = np.asarray(Image.open("o/labels/a.png"))
        assert set(np.unique(labels)) <= {7, 3, 11}
        entries = json.loads(Path("o/predictions.json").read_text())
        assert {entry["category_id"] for entry in entries} == set(np.unique(labels).tolist())
        assert not any("score" in entry for entry in entries)
        for entry in entries:
            assert np.array_equal(coco_mask.decode(entry["segmentation"]) > 0, labels == entry["category_id"])
        assert len(files("o/cutouts/a")) == len(entries)

    def test_classes_and_scores_choose(self, weights: Path, semantic_weights: Path) -> None:
        image("a.png")
        predict(weights, "a.png", "--score", "0", "--out", "all")
        predict(weights, "a.png", "--score", "0", "--classes", "leaf, square", "--out", "some")
        every, some = (json.loads(Path(f"{o}/predictions.json").read_text()) for o in ("all", "some"))
        assert some == [entry for entry in every if entry["category_id"] != 3]
        predict(semantic_weights, "a.png", "--classes", "leaf", "--out", "one", "--save", "labels")
        assert set(np.unique(np.asarray(Image.open("one/labels/a.png")))) <= {11, 255}
        none = predict(weights, "a.png", "--score", "1", "--out", "none")
        assert none.exit_code == 0, none.output
        assert "0 objects of score 1 or more" in none.stdout
        assert json.loads(Path("none/predictions.json").read_text()) == []

    def test_rendering(self, weights: Path, semantic_weights: Path) -> None:
        image("a.png")
        for number, options in enumerate((["--resolution", "56", "--points", "49"], ["--resolution", "7"])):
            arguments = ["a.png", "--score", "0", "--out", f"o{number}", "--show-points", *options]
            assert predict(weights, *arguments).exit_code == 0
            assert files(f"o{number}/points") == ["a.png"]
        assert Path("o0/predictions.json").read_text() != Path("o1/predictions.json").read_text()
        wide, narrow = (Image.open(f"o{number}/points/a.png").width for number in (0, 1))
        assert wide > narrow  # a panel for each step
        assert predict(semantic_weights, "a.png", "--points", "9", "--show-points", "--out", "s").exit_code == 0
        assert files("s/points") == ["a.png"]

    def test_batches_and_half_precision(self, weights: Path) -> None:
        for name, side in (("a", 56), ("b", 56), ("c", 40), ("d", 40), ("e", 56)):
            image(f"in/{name}.png", PIXELS[:, :side])
        for out, options in (("one", []), ("three", ["--batch", "3"]), ("half", ["--half"])):
            result = predict(weights, "in", "--score", "0.1", "--out", out, *options)
            assert result.exit_code == 0, result.output
            assert "5 images" in result.stdout
        one, three = (json.loads(Path(f"{o}/predictions.json").read_text()) for o in ("one", "three"))
        assert [(e["image_id"], e["category_id"]) for e in one] == [(e["image_id"], e["category_id"]) for e in three]
        for first, second in zip(one, three, strict=True):
            assert coco_mask.iou([first["segmentation"]], [second["segmentation"]], [False])[0, 0] > 0.95

    def test_finds_what_the_model_finds(self, model: Any) -> None:
        """Although the image is resized before, and masks are pasted one by one."""
        pixels = np.random.default_rng(1).integers(0, 256, (90, 150, 3), np.uint8)
        with torch.inference_mode():
            expected = model([torch.from_numpy(pixels).permute(2, 0, 1).float() / 255])[0]
        (found,) = find(model, [pixels], Settings(0.0, (0, 1, 2)))
        assert torch.equal(found.boxes, expected["boxes"])  # type: ignore[union-attr]
        for region in regions(found):
            whole = torch.zeros(90, 150, dtype=torch.bool)
            height, width = region.mask.shape
            whole[region.top : region.top + height, region.left : region.left + width] = region.mask
            assert torch.equal(whole, expected["masks"][region.index, 0] >= 0.5)

    def test_an_image_and_a_folder_of_one_name(self, weights: Path) -> None:
        image("in/deep/c.png")
        image("in/deep.png")
        for options in ([], ["--overwrite"]):
            arguments = ["in/deep/c.png", "in/deep.png", "--score", "0", "--out", "o", "--save", "cutouts", *options]
            assert predict(weights, *arguments).exit_code == 0
            assert len(files("o/cutouts/deep/c")) == 5
            assert len(files("o/cutouts/deep")) == 10

    def test_a_batch_that_fails_is_done_one_by_one(self, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def limited(model: Any, batch: Any, settings: Settings) -> Any:
            if len(batch) > 1 or (batch[0] == 0).all():
                raise RuntimeError("out of memory\nand more")
            return find(model, batch, settings)

        monkeypatch.setattr("pointrend.predict.find", limited)
        for name in "abc":
            image(f"in/{name}.png", PIXELS * (name != "b"))
        result = predict(weights, "in", "--batch", "3", "--out", "o", "--save", "labels")
        assert result.exit_code == 1
        assert "error: in/b.png: could not be segmented (out of memory)" in result.stderr
        assert files("o/labels") == ["a.png", "c.png"]


class TestWhereInputsComeFrom:
    def test_patterns_folders_and_lists(self, weights: Path) -> None:
        for name in ("in/a.png", "in/b.jpg", "in/deep/c.png"):
            image(name)
        Path("in/notes.txt").write_text("mine")
        result = predict(weights, "in/**/*.png", "in", "-", "--out", "o", "--save", "labels", stdin="in/b.jpg\n\n")
        assert result.exit_code == 0, result.output
        assert files("o/labels") == ["a.png", "b.png", "deep/c.png"]
        assert "left out 1 file without the suffix of an image: notes.txt" in result.stderr

    def test_names_never_collide(self) -> None:
        for name in ("x/a.png", "x/a.jpg", "x/a_png.png", "y/a.png"):
            image(name)
        found = find_inputs(["x", "y", "x/a.png"], [])
        names = [one.name for one in found.images]
        assert len(names) == len(set(names)) == 4
        assert {"x/a_jpg", "y/a"} <= set(names)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["nothing/*.png"], r"nothing/\*.png: the pattern matches no file"),
            (["empty"], "empty: a folder without images"),
            (["-"], "no image to read"),
        ],
    )
    def test_nothing_to_read(self, arguments: list[str], message: str, weights: Path) -> None:
        Path("empty").mkdir()
        result = predict(weights, *arguments, stdin="\n")
        assert result.exit_code == 1
        assert message.replace("\\", "") in result.stderr
        assert not Path("predictions").exists()


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_read(weights: Path) -> None:
    image("a.png")
    Path("file").touch()
    result = predict(weights, "a.png", "--out", "file/below")
    assert result.exit_code == 1
    assert "file/below: cannot be written (Not a directory" in result.stderr


def test_no_class_at_all(weights: Path) -> None:
    image("a.png")
    assert "no class is named at all; the model's classes are" in predict(weights, "a.png", "--classes", "").stderr


@pytest.mark.parametrize(
    ("best", "said"),
    [
        ([0.31, 0.1, 0.0], "no object scored 0.5 or more in 3 of 10 images; the best was 0.31: try --score 0.3"),
        ([0.3], "no object scored 0.5 or more in 1 of 10 images; the best was 0.30: try --score 0.3"),
        ([0.057], "the best was 0.06: try --score 0.05"),
        ([0.0, 0.0], "no object was found in 2 of 10 images, at any score"),
    ],
)
def test_what_is_said_where_nothing_is_shown(best: list[float], said: str) -> None:
    assert said in empty_hint(best, 10, 0.5)


def test_no_object_above_the_score_comes_with_the_best_one(weights: Path) -> None:
    image("a.png")
    result = predict(weights, "a.png", "--score", "1", "--out", "none", "--save", "cutouts")
    assert result.exit_code == 0, result.output
    assert "no object scored 1 or more in 1 of 1 image; the best was 0." in result.stderr
    lower = result.stderr.rpartition("try --score ")[2].split()[0]
    again = predict(weights, "a.png", "--score", lower, "--out", "again")
    assert not Path("none/cutouts/a").exists()
    assert "no object" not in again.stderr
    assert " 0 objects" not in again.stdout


class TestWeights:
    def test_a_run_by_its_name(self, weights: Path) -> None:
        image("a.png")
        for scale in ("demo", "mine"):
            folder = Path(f"outputs/{scale}/train/r50-0")
            folder.mkdir(parents=True)
            (folder / "model.safetensors").write_bytes(weights.read_bytes())
        Path("outputs/demo/metrics").mkdir()
        Path("outputs/demo/metrics/r50-0.json").write_text('{"AP": 53.4}')
        result = predict("r50-0", "a.png")
        assert "several scales have such a run; choose from demo/r50-0, mine/r50-0" in result.stderr
        result = predict("demo/r50-0", "a.png")
        assert result.exit_code == 0, result.output
        assert "AP 53.4%" in result.stderr
        assert "r51-0: no such weight file, no run in " in predict("r51-0", "a.png", "--out", "p").stderr

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("R50-1", "did you mean r50-0?\nruns there are: demo/r50-0"),
            ("pointrend_rcnn_r_50_fpn_3x_coco", "did you mean pointrend_rcnn_R_50_FPN_3x_coco"),
            (
                "outputs/demo",
                "outputs/demo: is a folder; give a file in it: outputs/demo/train/r50-0/model.safetensors",
            ),
            ("empty", "empty: is a folder; expected a file of weights"),
            ("outputs/demo/train/r50-0/modell.safetensors", "near it: outputs/demo/train/r50-0/model.safetensors"),
            ("outputs/demo/train/modell.safetensors", "near it: outputs/demo/train/r50-0/model.safetensors"),
        ],
    )
    def test_weights_that_are_not_there_have_neighbours(self, name: str, said: str) -> None:
        for folder in ("empty", "outputs/demo/train/r50-0"):
            Path(folder).mkdir(parents=True)
        Path("outputs/demo/train/r50-0/model.safetensors").touch()
        image("a.png")
        assert said in predict(name, "a.png").stderr

    def test_the_score_of_the_best_f1_is_taken_unless_another_is_given(self, weights: Path) -> None:
        folder = Path("outputs/mine/train/cells-0")
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(weights.read_bytes())
        metrics = Path("outputs/mine/metrics/cells-0.json")
        metrics.parent.mkdir()
        metrics.write_text(json.dumps({"AP": 31.0, "F1_score": 0.1}))
        image("a.png")
        result = predict("cells-0", "a.png", "--out", "o")
        assert "showing objects of score 0.1 or more, where F1 was best on the val images" in result.stderr
        assert "o: 1 image, 5 objects of score 0.1 or more" in result.stdout
        assert "AP 31.0%;" in result.stderr
        metrics.write_text(json.dumps({"AP": 0.0, "F1": 0.0, "F1_score": 0.5}))
        assert "where F1" not in predict("cells-0", "a.png", "--out", "nothing").stderr
        given = predict("cells-0", "a.png", "--out", "p", "--score", "0.9")
        assert "where F1" not in given.stderr
        assert "objects of score 0.9 or more" in given.stdout
        of_a_file = predict(weights, "a.png", "--out", "q")
        assert "objects of score 0.5 or more" in of_a_file.stdout

    def test_the_best_weights_of_a_run_go_first(self, weights: Path) -> None:
        image("a.png")
        folder = Path("outputs/mine/train/mine-0")
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"the last weights, which are not read")
        (folder / "best.safetensors").write_bytes(weights.read_bytes())
        (folder / "train.json").write_text('{"best": {"update": 300, "metric": "AP", "score": 31.2}}')
        result = predict("mine-0", "a.png")
        assert result.exit_code == 0, result.output
        assert "best.safetensors: the weights after update 300, which scored best on the val" in result.stderr

    def test_a_bare_state_dict(self, model: Any) -> None:
        image("a.png")
        torch.save(model.state_dict(), "bare.pt")
        assert "--num-classes K" in predict("bare.pt", "a.png").stderr
        told = ["--model", "pointrend_rcnn_tiny_fpn", "--num-classes", "3", "--min-size", "64", "--max-size", "96"]
        result = predict("bare.pt", "a.png", *told)
        assert result.exit_code == 0, result.output
        assert "the weights do not name their classes" in result.stderr


UNUSUAL = {
    "exif.jpg": (Image.fromarray(PIXELS), {"exif": b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00"
                                           b"\x00\x00\x01\x00\x06\x00\x00\x00\x00\x00\x00"}),
    "grey.png": (Image.fromarray(PIXELS[..., 0]), {}),
    "bilevel.png": (Image.fromarray(PIXELS[..., 0] > 99), {}),
    "palette.png": (Image.fromarray(PIXELS).quantize(16), {}),
    "see_through_palette.gif": (Image.fromarray(PIXELS).quantize(16), {"transparency": 3}),
    "rgba.png": (Image.fromarray(np.dstack([PIXELS, PIXELS[..., 0]])), {}),
    "grey_alpha.png": (Image.fromarray(PIXELS[..., :2], "LA"), {}),
    "cmyk.jpg": (Image.fromarray(PIXELS).convert("CMYK"), {}),
    "ycbcr.tiff": (Image.fromarray(PIXELS).convert("YCbCr"), {}),
    "lab.tiff": (Image.fromarray(PIXELS, "LAB"), {}),
    "grey16.png": (Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257), {}),
    "grey16.tiff": (Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257), {}),
    "float.tiff": (Image.fromarray(PIXELS[..., 0].astype(np.float32) / 255), {}),
    "animated.gif": (Image.fromarray(PIXELS), {"save_all": True, "append_images": [Image.fromarray(255 - PIXELS)]}),
    "pages.tiff": (Image.fromarray(PIXELS), {"save_all": True, "append_images": [Image.fromarray(255 - PIXELS)]}),
    "lossy.webp": (Image.fromarray(PIXELS), {}),
    "one_pixel.png": (Image.fromarray(PIXELS[:1, :1]), {}),
    "thin.png": (Image.fromarray(PIXELS[:2].repeat(9, 1)), {}),
}  # fmt: skip
REFUSED = {
    "float_of_255.tiff": (Image.fromarray(PIXELS[..., 0].astype(np.float32)), "floats from 0 to 255, expected 0 to 1"),
    "not_a_number.tiff": (Image.fromarray(np.full((9, 9), np.nan, np.float32)), "floats that are not finite"),
    "twelve_bits.png": (Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 16), "say how many with --bits"),
    "integers.tiff": (Image.fromarray(PIXELS[..., 0].astype(np.int32)), "has 32-bit values"),
}
BROKEN = {
    "empty.png": b"",
    "text.jpg": b"<html>404</html>",
    "zeros.png": bytes(500),
}


def write_deep_png(path: str, pixels: np.ndarray) -> None:
    """A PNG with 16-bit channels, RGB or RGBA, which Pillow cannot write."""
    height, width, channels = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[channels], 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    framed = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    Path(path).write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(framed))


class TestUnusualAndBrokenImages:
    def test_none_stops_the_others_or_is_silently_wrong(self, weights: Path) -> None:
        Path("in").mkdir()
        for name, (picture, options) in UNUSUAL.items():
            picture.save(f"in/{name}", **options)
        for name, (picture, _) in REFUSED.items():
            picture.save(f"in/{name}")
        for name, content in BROKEN.items():
            Path(f"in/{name}").write_bytes(content)
        image("in/cut.png")
        Path("in/cut.png").write_bytes(Path("in/cut.png").read_bytes()[:3000])
        Path("in/gone.png").symlink_to("nowhere.png")
        result = predict(weights, "in", "--score", "0", "--out", "o", "--save", "overlays,json,labels,cutouts")
        assert result.exit_code == 1
        failed = {*REFUSED, *BROKEN, "cut.png", "gone.png"}
        errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == len(failed)
        for name in failed:
            assert sum(f"in/{name}: " in line for line in errors) == 1
        for name, (_, message) in REFUSED.items():
            assert any(f"in/{name}: {message}" in line or (name in line and message in line) for line in errors)
        assert f"{len(UNUSUAL)} images of {len(UNUSUAL) + len(failed)}" in result.stdout
        described = json.loads(Path("o/images.json").read_text())["images"]
        assert sorted(Path(entry["file_name"]).name for entry in described) == sorted(UNUSUAL)
        sizes = {Path(entry["file_name"]).name: (entry["height"], entry["width"]) for entry in described}
        assert sizes["exif.jpg"] == (56, 40)
        assert sizes["grey.png"] == (40, 56)
        assert len(files("o/overlays")) == len(files("o/labels")) == len(UNUSUAL)
        assert "in/animated.gif: read the first of 2 frames" in result.stderr
        assert "in/pages.tiff: read the first of 2 pages" in result.stderr
        assert not [name for name in os.listdir("o/overlays") if name.startswith(".")]

    @pytest.mark.parametrize("name", ["grey16.png", "grey16.tiff", "float.tiff"])
    def test_deep_images_are_the_8_bit_ones(self, name: str) -> None:
        from pointrend.image_files import read_image

        picture, options = UNUSUAL[name]
        picture.save(name, **options)
        assert np.array_equal(read_image(Path(name)).pixels, PIXELS[..., :1].repeat(3, 2))

    @pytest.mark.parametrize(
        ("mode", "name"),
        [("CMYK", "a.jpg"), ("CMYK", "a.tiff"), ("YCbCr", "a.tiff"), ("P", "a.png"), ("RGBA", "a.webp")],
    )
    def test_colours_survive(self, mode: str, name: str) -> None:
        from pointrend.image_files import read_image

        colours = np.repeat(np.repeat(PIXELS[:4, :5] // 128 * 180 + 20, 16, 0), 16, 1)
        Image.fromarray(colours).convert(mode).save(name)
        difference = np.abs(read_image(Path(name)).pixels.astype(int) - colours)
        assert np.median(difference) < 6

    def test_bits(self, weights: Path) -> None:
        from pointrend.image_files import read_image

        Image.fromarray((PIXELS[..., 0] * (4095 / 255)).round().astype(np.uint16)).save("twelve.png")
        assert np.array_equal(read_image(Path("twelve.png"), bits=12).pixels[..., 0], PIXELS[..., 0])
        assert predict(weights, "twelve.png", "--bits", "12").exit_code == 0
        with pytest.raises(ValueError, match="need more than 10 bits"):
            read_image(Path("twelve.png"), bits=10)

    @pytest.mark.parametrize("kind", [np.uint16, np.float32])
    def test_the_range_of_the_model(self, kind: type, model: Any) -> None:
        """Weights of a model of 12-bit or float pictures read them as in training, unless `--bits` says otherwise."""
        values = (PIXELS[..., 0] * (4095 / 255)).astype(kind)
        Image.fromarray(values).save("deep.tiff")
        save_weights(model, Path("deep.safetensors"), classes=CLASSES, pixel_range=(0.0, 4095.0))
        save_weights(model, Path("plain.safetensors"), classes=CLASSES)
        image("plain.png", np.repeat((values * (255 / 4095)).round().astype(np.uint8)[..., None], 3, 2))
        assert predict("deep.safetensors", "deep.tiff", "--score", "0", "--out", "deep").exit_code == 0
        assert predict("plain.safetensors", "plain.png", "--score", "0", "--out", "plain").exit_code == 0
        found, expected = (Path(folder, "predictions.json").read_text() for folder in ("deep", "plain"))
        assert found == expected
        assert predict("plain.safetensors", "deep.tiff", "--out", "refused").exit_code == 1
        bits = predict("deep.safetensors", "deep.tiff", "--bits", "10", "--out", "refused")
        assert bits.exit_code == 1

    @pytest.mark.parametrize("alpha", [False, True])
    def test_colours_of_16_bits(self, alpha: bool) -> None:
        from pointrend.image_files import read_image

        channels = np.dstack([PIXELS, np.full_like(PIXELS[..., 0], 255)]) if alpha else PIXELS
        write_deep_png("deep.png", channels.astype(np.uint16) * 257)
        assert np.array_equal(read_image(Path("deep.png")).pixels, PIXELS)
        write_deep_png("twelve.png", channels.astype(np.uint16) * 16)
        if not alpha:
            with pytest.raises(ValueError, match=r"twelve.png: has 16-bit colours of which no more than 12 bits"):
                read_image(Path("twelve.png"))
            assert read_image(Path("twelve.png"), bits=16).pixels.max() < 16

    def test_a_negative_of_16_bits_is_refused(self) -> None:
        from pointrend.image_files import read_image

        grey = Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257)
        grey.save("negative.tiff")
        content = bytearray(Path("negative.tiff").read_bytes())
        tag = content.index(struct.pack("<HHI", 262, 3, 1))  # which value is white
        content[tag + 8 : tag + 10] = struct.pack("<H", 0)
        Path("negative.tiff").write_bytes(content)
        with pytest.raises(ValueError, match=r"negative.tiff: has 16-bit values in which 0 is white"):
            read_image(Path("negative.tiff"))

    def test_a_pipe_is_not_waited_for(self) -> None:
        from pointrend.image_files import read_image

        os.mkfifo("pipe.png")
        with pytest.raises(OSError, match=r"pipe.png: not a file, but a folder, a pipe or a device"):
            read_image(Path("pipe.png"))

    def test_an_overlay_too_long_for_a_jpeg(self) -> None:
        with pytest.raises(ValueError, match=r"a.jpg: 70000 x 2 pixels; a JPEG has at most 65500 a side"):
            write_image(np.zeros((2, 70_000, 3), np.uint8), Path("a.jpg"))

    def test_transparent_pixels_are_white_whatever_colour_they_hide(self) -> None:
        from pointrend.image_files import read_image

        alpha = np.zeros((40, 56), np.uint8)
        alpha[:20] = 255
        Image.fromarray(np.dstack([PIXELS, alpha])).save("a.png")
        found = read_image(Path("a.png")).pixels
        assert np.array_equal(found[:20], PIXELS[:20])
        assert (found[20:] == 255).all()

    @pytest.mark.parametrize("task", ["instance", "semantic"])
    def test_the_limit_of_size(
        self, task: str, weights: Path, semantic_weights: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(MAX_PIXELS, task, 2000)
        image("a.png")
        result = predict(weights if task == "instance" else semantic_weights, "a.png")
        assert result.exit_code == 1
        assert "a.png: has 56 x 40 = 0 million pixels, the limit is 0 million" in result.stderr


class TestWhatIsTheUsers:
    def test_a_folder_with_files_is_not_written_unasked(self, weights: Path) -> None:
        image("a.png")
        assert predict(weights, "a.png").exit_code == 0
        before = {name: Path("predictions", name).read_bytes() for name in files("predictions")}
        Path("predictions/mine.txt").write_text("mine")
        result = predict(weights, "a.png", "--score", "0")
        assert result.exit_code == 1
        assert "predictions: has files already; name another folder with --out, or add --overwrite" in result.stderr
        assert all(Path("predictions", name).read_bytes() == content for name, content in before.items())
        assert predict(weights, "a.png", "--score", "0", "--overwrite").exit_code == 0
        assert Path("predictions/mine.txt").read_text() == "mine"

    @pytest.mark.parametrize("folder", ["labels", "overlays", "cutouts", "points", "labels/inside"])
    def test_an_image_to_read_is_not_written_over(self, folder: str, weights: Path) -> None:
        Path("photos", folder).mkdir(parents=True)
        image(f"photos/{folder}/a.png")
        before = Path("photos", folder, "a.png").read_bytes()
        result = predict(weights, f"photos/{folder}/a.png", "--out", "photos", "--overwrite")
        assert result.exit_code == 1
        assert f"photos/{folder}/a.png: is in a folder that would be written; choose another one" in result.stderr
        assert Path("photos", folder, "a.png").read_bytes() == before
        assert files("photos") == [f"{folder}/a.png"]

    def test_a_name_that_is_no_utf8_stays_as_it_is(self, weights: Path) -> None:
        name = os.fsdecode(b"photo\xff.png")
        image(name)
        result = predict(weights, name, "--save", "overlays,json", "--score", "0")
        assert result.exit_code == 0
        images = json.loads(Path("predictions/images.json").read_text("utf-8"))
        assert [entry["file_name"] for entry in images["images"]] == [name]
        assert Path("predictions/overlays", os.fsdecode(b"photo\xff.jpg")).is_file()

    def test_a_loop_of_links_is_reported_and_the_rest_is_done(self, weights: Path) -> None:
        image("photos/a.png")
        Path("photos/b.png").symlink_to("c.png")
        Path("photos/c.png").symlink_to("b.png")
        result = predict(weights, "photos")
        assert result.exit_code == 1
        assert "photos/b.png" in result.stderr
        assert "photos/c.png" in result.stderr
        assert "Traceback" not in result.stderr
        assert "overlays/a.jpg" in files("predictions")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--save", "overlays,masks"], "--save masks: expected some of overlays,json,labels,cutouts"),
            (["--classes", "star"], "no class is named star; the model's classes are square, a/b, leaf"),
            (["--device", "abacus"], "--device abacus: not a device of this machine"),
            (["--resolution", "100"], "--resolution is 100, expected one of 7, 14, 28, 56"),
            (["--out", "a.png"], "a.png: is a file"),
        ],
    )
    def test_options_that_do_not_work(self, options: list[str], message: str, weights: Path) -> None:
        image("a.png")
        result = predict(weights, "a.png", *options)
        assert result.exit_code == 1
        assert message in result.stderr
        assert not Path("predictions").exists()


class TestEncoding:
    @pytest.mark.parametrize("seed", range(20))
    def test_runs_are_pycocotools(self, seed: int) -> None:
        generator = np.random.default_rng(seed)
        size = tuple(generator.integers(1, 400, 2).tolist())
        whole = generator.random(size) > generator.random()
        top, left = (int(generator.integers(0, side)) for side in size)
        crop = torch.from_numpy(whole[top:, left:].copy())
        inside = np.zeros(size, np.uint8)
        inside[top:, left:] = whole[top:, left:]
        assert encode(crop, top, left, size)["counts"] == coco_mask.encode(np.asfortranarray(inside))["counts"].decode()

    def test_long_runs(self) -> None:
        runs = np.array([0, 10**8, 3, 10**7, 10**8, 1], np.int64)
        rle = {"size": [1, int(runs.sum())], "counts": runs.tolist()}
        assert compress_runs(runs) == coco_mask.frPyObjects(rle, *rle["size"])["counts"].decode()

    def test_empty(self) -> None:
        found = encode(torch.zeros(0, 0, dtype=torch.bool), 0, 0, (4, 5))
        assert not coco_mask.decode(found).any()


def test_outline_is_a_ring_of_its_width() -> None:
    mask = torch.zeros(20, 20, dtype=torch.bool)
    mask[3:17, 2:18] = True
    ring = mask.clone()
    ring[5:15, 4:16] = False
    assert torch.equal(outline(mask, 2), ring)
