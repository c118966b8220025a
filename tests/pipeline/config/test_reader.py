"""How a file is read: what is refused, and how the error says so."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from made_up_configs import (
    COSTS,
    EXPERIMENT,
    MODEL,
    SCHEDULE,
    SELECTION,
    TABLE,
    edited,
    refusal,
)

from pipeline.config.clusters import ClusterConfig
from pipeline.config.experiments import ExperimentConfig
from pipeline.config.models import ModelConfig
from pipeline.config.project import Project
from pipeline.config.reader import ConfigError, load
from pipeline.config.schedules import ScheduleConfig
from pipeline.config.selection import Selection
from pipeline.config.tables import TableConfig


@pytest.mark.parametrize(
    ("schema", "text", "old", "new", "key", "said"),
    [
        (ScheduleConfig, SCHEDULE, "batch_size: 16", "batch_size: 16\nbatchsize: 8", "batchsize", "unknown key"),
        (ScheduleConfig, SCHEDULE, "{updates: 1000,", "{update: 1000,", "warmup.update", "unknown key"),
        (ScheduleConfig, SCHEDULE, "{updates: 1000,", "{update: 1000,", "warmup.updates", "missing"),
        (ScheduleConfig, SCHEDULE, "batch_size: 16", "", "batch_size", "missing"),
        (ScheduleConfig, SCHEDULE, "batch_size: 16", "batch_size: '16'", "batch_size", "integer"),
        (ScheduleConfig, SCHEDULE, "batch_size: 16", "batch_size: sixteen", "batch_size", "'sixteen'"),
        (ScheduleConfig, SCHEDULE, "batch_size: 16", "batch_size: 1.5", "batch_size", "1.5"),
        (ScheduleConfig, SCHEDULE, "batch_size: 16", "batch_size: 16.0", "batch_size", "16.0"),
        (ScheduleConfig, SCHEDULE, "batch_size: 16", "batch_size: yes", "batch_size", "True"),
        (ScheduleConfig, SCHEDULE, "batch_size: 16", "batch_size:", "batch_size", "None"),
        (ScheduleConfig, SCHEDULE, "batch_size: 16", "batch_size: 0", "batch_size", "greater than 0"),
        (ScheduleConfig, SCHEDULE, "rate: 0.002}", "rate: '0.002'}", "phases.1.learning_rate", "'0.002'"),
        (ScheduleConfig, SCHEDULE, "rate: 0.002}", "rate: -0.002}", "phases.1.learning_rate", "-0.002"),
        (ScheduleConfig, SCHEDULE, "rate: 0.002}", "rate: true}", "phases.1.learning_rate", "True"),
        (ScheduleConfig, SCHEDULE, "batch_size: 16", "batch_size: 16\nprecision: half", "precision", "'half'"),
        (ModelConfig, MODEL, "backbone: null", "backbone: 'yes'", "pretrained_backbone", "'yes'"),
        (ModelConfig, MODEL, "backbone: null", "backbone: true", "pretrained_backbone", "True"),
        (ModelConfig, MODEL, "[144, 160]", "144", "train_min_sizes", "list"),
        (ModelConfig, MODEL, "[144, 160]", "[]", "train_min_sizes", "at least 1"),
        (ModelConfig, MODEL, "[144, 160]", "[144, '160']", "train_min_sizes.1", "'160'"),
        (ExperimentConfig, EXPERIMENT, "seeds: [0, 1]", "seeds: [0, -1]", "seeds.1", "-1"),
        (ExperimentConfig, EXPERIMENT, "seeds: [0, 1]", "seeds: []", "seeds", "at least 1"),
        (ExperimentConfig, EXPERIMENT, "dataset: shapes", "dataset: ../shapes", "dataset", "'../shapes'"),
        (ExperimentConfig, EXPERIMENT, "ratio: 0.75", "ratio: 1.5",
         "sampling", "importance_sample_ratio (beta) is 1.5"),
        (ExperimentConfig, EXPERIMENT, "ratio: 3.0", "ratio: 0.5",
         "sampling", "oversample_ratio (k) is 0.5"),
        (ExperimentConfig, EXPERIMENT, "biased, num_points: 196", "grid, num_points: 200",
         "sampling", "square"),
        (ExperimentConfig, EXPERIMENT, "resolution: 28,", "resolution: 28x28,",
         "evaluations.28x28.resolution", "'28x28'"),
        (TableConfig, TABLE, "paper: 36.1", "paper: '36.1'", "rows.0.cells.ap.paper", "'36.1'"),
        (TableConfig, TABLE, "      ap: {", "      ap_star: {", "rows.0.cells", "ap_star"),
        (TableConfig, TABLE, "[PointRend, 28x28]", "[PointRend]", "rows.0.labels", "1 entries, not 2"),
        (TableConfig, TABLE, "[PointRend, 28x28]", "[PointRend, 28x28, x]", "rows.0.labels", "3 entries, not 2"),
        (TableConfig, TABLE, "metric: AP,", "metric: AP, seed: 0,", "rows.0.cells.ap.seed", "unknown key"),
        (TableConfig, TABLE, "metric: AP, ", "", "rows.0.cells.ap.metric", "missing"),
        (TableConfig, TABLE, "title: A table", "title: A table\nheading: 4.2", "heading", "4.2"),
        (TableConfig, COSTS, "maskrcnn_r50_fpn_coco", "maskrcnn_r50_fpn", "rows.0.cells.flops.model",
         "expected one of maskrcnn_r101_fpn_coco"),
        (TableConfig, COSTS, "maskrcnn_r50_fpn_coco", "deeplabv3_tiny", "rows.0.cells.flops.model",
         "'deeplabv3_tiny'"),
        (TableConfig, COSTS, "cost: multiply_adds", "cost: flops", "rows.0.cells.flops.cost", "'flops'"),
        (TableConfig, COSTS, "resolution: 28,", "resolution: 28, side: 28,", "rows.0.cells.flops.side", "unknown key"),
        (TableConfig, COSTS, "resolution: 28, ", "", "rows.0.cells.flops.resolution", "missing"),
        (TableConfig, COSTS, "resolution: 28,", "resolution: 0,", "rows.0.cells.flops.resolution", "greater than 0"),
        (TableConfig, COSTS, "cost: multiply_adds, ", "", "rows.0.cells.flops.model", "unknown key"),
        (TableConfig, COSTS, "resolution: 28,", "resolution: 28, num_points: 784,", "rows.0.cells.flops",
         "subdivides nothing"),
        (TableConfig, COSTS, "maskrcnn_r50_fpn_coco", "pointrend_rcnn_r50_fpn_coco", "rows.0.cells.flops",
         "needs num_points"),
        (TableConfig, COSTS, "unit: 1.0e9", "unit: 0.0", "columns.0.unit", "greater than 0"),
        (TableConfig, COSTS, "unit: 1.0e9", "unit: billion", "columns.0.unit", "'billion'"),
        (Selection, SELECTION, "seed: 0,", "seed: 0.0,", "runs.mine-0.seed", "0.0"),
        (Selection, SELECTION, ", starts_from: data/shapes", "", "runs.mine-0.starts_from", "missing"),
        (ExperimentConfig, EXPERIMENT, "seeds: [0, 1]", "seeds: [0, 1]\nstarts_from: [a-0]", "starts_from", "string"),
        (ExperimentConfig, EXPERIMENT, "evaluations:\n  28x28: {resolution: 28, num_points: 784}\n", "",
         "evaluations", "missing"),
        (Selection, SELECTION, "synthetic: [shapes]", "synthetic: shapes", "synthetic", "'shapes'"),
        (Selection, SELECTION, "synthetic: [shapes]\n", "", "synthetic", "missing"),
        (Selection, SELECTION, "train: a.json, ", "", "datasets.shapes.train", "missing"),
        (ClusterConfig, "workers: 0\n", "workers: 0", "workers: -1", "workers", "-1"),
    ],
)  # fmt: skip
def test_a_fault_is_named_with_its_key(
    written: Callable[[str], Path], schema: type, text: str, old: str, new: str, key: str, said: str
) -> None:
    load(schema, written(text))
    message = refusal(schema, written(edited(text, old, new)))
    lines = message.splitlines()[1:]
    assert any(re.search(rf"(^|[ .]){re.escape(key)}\b", line) and said in line for line in lines), message


def test_all_faults_are_named_at_once(written: Callable[[str], Path]) -> None:
    text = edited(edited(SCHEDULE, "batch_size: 16", "batchsize: 16"), "rate: 0.002}", "rate: fast}")
    message = refusal(ScheduleConfig, written(text))
    assert "batch_size: missing" in message
    assert "batchsize: unknown key" in message
    assert "phases.1.learning_rate" in message


@pytest.mark.parametrize(
    ("text", "line", "key"),
    [
        (SCHEDULE + "batch_size: 16\n", 6, "batch_size"),
        (edited(SCHEDULE, "{updates: 1000,", "{updates: 1, updates: 1000,"), 2, "updates"),
        (edited(SCHEDULE, "{updates: 20000,", "{updates: 1, updates: 20000,"), 5, "updates"),
    ],
)
def test_a_repeated_key_is_named_with_its_line(written: Callable[[str], Path], text: str, line: int, key: str) -> None:
    assert f"line {line}: key '{key}' appears twice" in refusal(ScheduleConfig, written(text))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("batch_size: [16\n", 2),
        ("a: 1\nb: c: d\n", 2),
        ("\tbatch_size: 16\n", 1),
        ("a: 1\nb: !!python/object:os.x {}\n", 2),
    ],
)
def test_malformed_yaml_is_named_with_its_line(written: Callable[[str], Path], text: str, line: int) -> None:
    assert f"line {line}, column" in refusal(ScheduleConfig, written(text))


def test_a_key_that_is_a_list(written: Callable[[str], Path]) -> None:
    assert "line 1" in refusal(ScheduleConfig, written("? [a, b]\n: 1\n"))


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n", "just text\n", "[1, 2]\n"])
@pytest.mark.parametrize("schema", [ScheduleConfig, ModelConfig, Selection])
def test_a_file_that_is_no_mapping(written: Callable[[str], Path], text: str, schema: type) -> None:
    assert "file: " in refusal(schema, written(text))


def test_a_file_in_another_encoding(tmp_path: Path) -> None:
    path = tmp_path / "subject.yaml"
    path.write_bytes("description: Größe\n".encode("latin-1"))
    refusal(ExperimentConfig, path)


def test_a_missing_file_names_the_others(repository: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        Project(repository).schedule("coco_2x")
    assert str(repository / "configs" / "schedules" / "coco_2x.yaml") in str(caught.value)
    assert "coco8, coco_1x, coco_3x, coco_sweep, demo, demo_3x, demo_4xconv, demo_streets" in str(caught.value)


def test_a_missing_file_among_none(tmp_path: Path) -> None:
    assert "no such" in refusal(ScheduleConfig, tmp_path / "nowhere" / "x.yaml")


@pytest.mark.parametrize(
    ("written_as", "value"),
    [("1e-4", 1e-4), ("1E-4", 1e-4), ("1.e-4", 1e-4), ("1.0e-4", 1e-4), ("+1e-4", 1e-4), ("1e2", 100.0), ("1", 1.0)],
)
def test_numbers_with_an_exponent(written: Callable[[str], Path], written_as: str, value: float) -> None:
    schedule = load(ScheduleConfig, written(SCHEDULE + f"weight_decay: {written_as}\n"))
    assert schedule.weight_decay == value
    assert isinstance(schedule.weight_decay, float)


def test_text_that_only_begins_like_a_number_stays_text(written: Callable[[str], Path]) -> None:
    text = edited(EXPERIMENT, "description: PointRend on shapes", "description: 1e-4x")
    assert load(ExperimentConfig, written(text)).description == "1e-4x"
