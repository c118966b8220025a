from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import nn
from typer.testing import CliRunner, Result

from pointrend import list_models, save_weights
from pointrend.cli import app

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.fromarray(PIXELS).save(path)
    return path


@pytest.fixture(scope="module")
def weights(tiny_model: Callable[..., nn.Module], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that finds something everywhere: its masks fill their boxes."""
    model = tiny_model("pointrend")
    nn.init.constant_(model.mask_head.coarse_head.predictor.bias, 9)
    nn.init.constant_(model.mask_head.point_head.predictor.bias, 9)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_weights(model, path)
    return path


def predict(picture: Path, weights: Path, *options: str) -> Result:
    output = str(picture.with_name("out"))
    return CliRunner().invoke(app, ["predict", str(picture), "--weights", str(weights), "--out", output, *options])


class TestModels:
    @pytest.mark.parametrize("columns", ["80", "120"])
    def test_lists_every_name_whole(self, columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COLUMNS", columns)
        result = CliRunner().invoke(app, ["models"])
        assert result.exit_code == 0
        assert [name for name in list_models() if name not in result.output] == []

    def test_says_what_each_is_on_one_line_of_80_columns(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COLUMNS", "80")
        lines = [line.split() for line in CliRunner().invoke(app, ["models"]).output.splitlines()]
        assert ["maskrcnn_r50_fpn_coco", "r50", "4xconv", "80", "800–1333", "px"] in lines
        assert ["pointrend_rcnn_x101_fpn_coco", "x101", "pointrend", "80", "800–1333", "px"] in lines
        assert ["pointrend_semantic_fpn_r101_cityscapes", "r101", "pointrend", "19", "any"] in lines


class TestErrors:
    """Exit status 1 and one message on standard error that names what is wrong."""

    @staticmethod
    def message(result: Result) -> str:
        assert result.exit_code == 1
        assert isinstance(result.exception, SystemExit)
        assert result.stdout == ""
        assert result.stderr.startswith("error: ")
        assert result.stderr.count("\n") == 1
        return result.stderr

    def test_missing_weights(self, picture: Path, tmp_path: Path) -> None:
        assert "nothing.safetensors: no such" in self.message(predict(picture, tmp_path / "nothing.safetensors"))

    def test_truncated_weights(self, picture: Path, weights: Path, tmp_path: Path) -> None:
        (tmp_path / "cut.safetensors").write_bytes(weights.read_bytes()[:5000])
        assert "cut.safetensors: not a readable" in self.message(predict(picture, tmp_path / "cut.safetensors"))

    def test_weights_that_are_none(self, picture: Path, tmp_path: Path) -> None:
        (tmp_path / "page.pt").write_bytes(b"<html>404</html>")
        message = self.message(predict(picture, tmp_path / "page.pt"))
        assert "page.pt: not a readable" in message
        # torch's advice to readers of its own error.
        assert "weights_only" not in message

    def test_unknown_model(self, picture: Path, weights: Path) -> None:
        message = self.message(predict(picture, weights, "--model", "maskrcnn_r18"))
        assert "unknown model 'maskrcnn_r18'" in message
        assert all(name in message for name in list_models())

    def test_weights_of_another_model(self, picture: Path, weights: Path) -> None:
        result = predict(picture, weights, "--num-classes", "4")
        assert result.exit_code == 1
        assert "tiny.safetensors: not a checkpoint of this model" in result.stderr

    @pytest.mark.parametrize("command", ["convert", "export"])
    def test_a_file_to_read_is_not_written(self, command: str, weights: Path, tmp_path: Path) -> None:
        source = tmp_path / "weights.safetensors"
        source.write_bytes(weights.read_bytes())
        model = ["--model", "pointrend_rcnn_tiny_fpn", "--num-classes", "3"]
        message = self.message(CliRunner().invoke(app, [command, str(source), str(source), *model]))
        assert "weights.safetensors: is a file to read and the file to write" in message
        assert source.read_bytes() == weights.read_bytes()

    @pytest.mark.parametrize("command", ["convert", "export"])
    def test_a_file_that_is_there_is_kept(self, command: str, weights: Path, tmp_path: Path) -> None:
        output = tmp_path / "mine.pt2"
        output.write_text("mine")
        message = self.message(CliRunner().invoke(app, [command, str(weights), str(output)]))
        assert "mine.pt2: is there already; name another file, or add --overwrite" in message
        assert output.read_text() == "mine"

    def test_size_of_zero(self, picture: Path, weights: Path) -> None:
        assert "min_size is 0" in self.message(predict(picture, weights, "--min-size", "0"))
