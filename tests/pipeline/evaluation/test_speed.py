"""How fast images are predicted. No test depends on how fast this machine is."""

import json
from pathlib import Path

import pytest
import torch
from made_up_images import prepared_images, small_run

from pipeline.config.evaluations import EvaluationConfig, RenderingConfig
from pipeline.config.experiments import ValidationConfig
from pipeline.evaluation import speed
from pipeline.evaluation.scores import Scores
from pipeline.evaluation.speed import seconds_of, timed_settings, with_speeds, write_speeds
from pipeline.evaluation.trained_run import TrainedRun
from pipeline.training.model import build_run_model
from pointrend.instance import MaskRCNN
from pointrend.weights import save_weights

CPU = torch.device("cpu")
SETTINGS = EvaluationConfig(
    {
        "28x28": RenderingConfig(resolution=28, num_points=16),
        "56x56": RenderingConfig(resolution=56, num_points=16, timed_images=2),
        "112x112": RenderingConfig(resolution=112, num_points=16, timed_images=100),
    }
)


def test_settings_are_timed_only_where_it_is_asked_for() -> None:
    assert list(timed_settings(SETTINGS)) == ["56x56", "112x112"]
    # What is not timed depends on nothing new: its key in a file, and in a training that validates under it.
    assert "timed_images" not in SETTINGS.root["28x28"].model_dump_json()
    timed = ValidationConfig.of(SETTINGS.root["56x56"], "code")
    assert "timed_images" not in timed.model_dump_json()


def test_seconds_are_those_of_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 10.25])
    monkeypatch.setattr(speed.time, "perf_counter", lambda: next(clock))
    calls: list[int] = []
    assert seconds_of(lambda: calls.append(1), CPU) == 0.25
    assert calls == [1]


def test_scores_get_the_images_a_second_and_where(tmp_path: Path) -> None:
    scores = {name: Scores({"AP": 30.0}, {"classes": {}}, {}) for name in ("28x28", "56x56")}
    assert with_speeds(scores, tmp_path) == scores
    timing = {"seconds": 0.08, "images": 100, "device": "a GPU, 4 CPU threads"}
    (tmp_path / "speed.json").write_text(json.dumps({"56x56": timing}))
    found = with_speeds(scores, tmp_path)
    assert found["28x28"] == scores["28x28"]
    assert found["56x56"].metrics == {"AP": 30.0, "images_per_second": pytest.approx(12.5)}
    assert found["56x56"].details == {"classes": {}, "timing": timing}


def test_images_are_timed_once_one_at_a_time_after_a_warm_up(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared, images = prepared_images(tmp_path, 5)
    config = small_run(repository)
    save_weights(build_run_model(config, 2, pretrained=False), tmp_path / "model.safetensors")
    run = TrainedRun(config, prepared, images, tmp_path / "model.safetensors")
    detect, batches = MaskRCNN.detect, list[int]()

    def counted(model: MaskRCNN, given: list[torch.Tensor]):
        batches.append(len(given))
        return detect(model, given)

    monkeypatch.setattr(MaskRCNN, "detect", counted)
    chunks = tmp_path / "chunks"
    chunks.mkdir()
    write_speeds(run, SETTINGS, CPU, chunks)
    assert batches == [1] * (2 * speed.WARM_UP + 2 + 5)
    found = json.loads((chunks / "speed.json").read_text())
    assert {name: timing["images"] for name, timing in found.items()} == {"56x56": 2, "112x112": 5}
    assert all("CPU thread" in timing["device"] for timing in found.values())
    write_speeds(run, SETTINGS, CPU, chunks)
    assert len(batches) == 2 * speed.WARM_UP + 7, "an evaluation that continues does not time again"
    none = tmp_path / "none"
    none.mkdir()
    write_speeds(run, EvaluationConfig({"28x28": SETTINGS.root["28x28"]}), CPU, none)
    assert list(none.iterdir()) == []
