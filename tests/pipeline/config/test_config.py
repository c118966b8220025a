import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.config.clusters import ClusterConfig
from pipeline.config.datasets import CityscapesDataset, CocoDataset, load_dataset
from pipeline.config.evaluations import EvaluationConfig
from pipeline.config.experiments import ExperimentConfig, RunConfig, load_experiment
from pipeline.config.figures import FiguresConfig
from pipeline.config.metrics import MetricsConfig
from pipeline.config.models import ModelConfig, load_model
from pipeline.config.project import Project
from pipeline.config.reader import ConfigError, load
from pipeline.config.schedules import ScheduleConfig, load_schedule
from pipeline.config.selection import SelectedRun, Selection
from pipeline.config.sweeps import load_sweep
from pipeline.config.synthetic import SyntheticConfig
from pipeline.config.tables import Cell, CostCell, TableConfig
from pipeline.plan.throughput import Throughput
from pointrend import list_models

CONFIGS = Path(__file__).parents[3] / "configs"
SCHEMAS: dict[str, Callable[[Path], Any]] = {
    "clusters": lambda path: load(ClusterConfig, path),
    "datasets": load_dataset,
    "experiments": load_experiment,
    "figures.yaml": lambda path: load(FiguresConfig, path),
    "metrics.yaml": lambda path: load(MetricsConfig, path),
    "models": load_model,
    "sweeps": load_sweep,
    "schedules": load_schedule,
    "synthetic": lambda path: load(SyntheticConfig, path),
    "tables": lambda path: load(TableConfig, path),
    "throughput.yaml": lambda path: load(Throughput, path),
}
FILES = sorted(
    path.relative_to(CONFIGS)
    for path in CONFIGS.rglob("*")
    if path.is_file() and path.parent.name != "launch"  # those are for Ray and Kubernetes
)
SCALES = sorted(path.name for path in (CONFIGS / "experiments").iterdir())

SCHEDULE = """\
batch_size: 16
warmup: {updates: 1000, learning_rate: 0.001}
phases:
  - {updates: 60000, learning_rate: 0.02}
  - {updates: 20000, learning_rate: 0.002}
"""
MODEL = """\
name: pointrend_rcnn_tiny_fpn
pretrained_backbone: false
norm: group
train_min_sizes: [144, 160]
test_min_size: 176
max_size: 256
"""
EXPERIMENT = """\
description: PointRend on shapes
dataset: shapes
model: pointrend_tiny_shapes
schedule: demo
seeds: [0, 1]
sampling: {strategy: biased, num_points: 196, oversample_ratio: 3.0, importance_sample_ratio: 0.75}
evaluations:
  28x28: {resolution: 28, num_points: 784}
"""
TABLE = """\
title: A table
row_labels: [mask head, resolution]
columns:
  - {key: ap, label: AP}
rows:
  - labels: [PointRend, 28x28]
    cells:
      ap: {experiment: coco_pointrend_r50, evaluation: 28x28, metric: AP, paper: 36.1}
"""
COSTS = """\
title: A table
row_labels: [mask head]
columns:
  - {key: flops, label: "FLOPs, 10⁹", unit: 1.0e9}
rows:
  - labels: ["4×conv"]
    cells:
      flops: {model: maskrcnn_r50_fpn_coco, resolution: 28, cost: multiply_adds, paper: 0.5}
"""
COCO = """\
source: coco
root: x
train: {annotations: a, images: b}
val: {annotations: c, images: d}
lvis:
  root: y
  annotations: e
"""
LABELS = """\
source: labels
root: x
train: {images: a, labels: b}
val: {images: c, labels: d}
classes: {sky: 0, road: 1}
"""
CITYSCAPES = """\
source: cityscapes
task: instance
root: x
train: {images: a, labels: b}
val: {images: c, labels: d}
"""
SELECTION = """\
synthetic: [shapes]
datasets:
  shapes: {task: instance, train: a.json, val: b.json, lvis: c.json}
runs:
  mine-0: {task: instance, dataset: shapes, experiment: coco_pointrend_r50, seed: 0, starts_from: data/shapes}
sweeps: {}
"""


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "subject.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A copy of the project's own configuration, to change."""
    shutil.copytree(CONFIGS, tmp_path / "configs")
    return Project(tmp_path)


def refusal(schema: type, path: Path) -> str:
    """The message of the ConfigError of a file; it always names the file."""
    with pytest.raises(ConfigError) as caught:
        load(schema, path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def edited(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1
    return text.replace(old, new)


# The project's own files


@pytest.mark.parametrize("file", FILES, ids=str)
def test_every_file_of_the_project_is_valid(file: Path) -> None:
    assert file.suffix == ".yaml"
    SCHEMAS[file.parts[0]](CONFIGS / file)


def test_there_is_no_group_of_files_without_a_schema() -> None:
    assert {file.parts[0] for file in FILES} == set(SCHEMAS)


@pytest.mark.parametrize("scale", SCALES)
def test_every_scale_can_be_selected_and_all_of_its_runs_resolve(scale: str, repository: Path) -> None:
    project = Project(repository)
    selection = project.select(scale, "data")
    assert selection.runs
    for name, selected in selection.runs.items():
        run, evaluation = project.run(scale, name, selected)
        assert selected.task == run.model.task
        assert name == f"{run.experiment}-{run.seed}"
        assert run.dataset in selection.datasets
        # One that is never evaluated is there for others.
        assert evaluation.root or f"train/{name}" in {other.starts_from for other in selection.runs.values()}


def test_selecting_the_demo_scale(repository: Path) -> None:
    selected = Project(repository).select("demo", "some/where").model_dump()
    runs = selected.pop("runs")
    assert runs.keys() == {f"{name}-0" for name in Project(repository).experiment_names("demo")}
    assert {name: runs[name] for name in ("coco_4xconv_r50-0", "shapes_detector-0")} == {
        "coco_4xconv_r50-0": {
            "task": "instance",
            "dataset": "shapes",
            "experiment": "coco_4xconv_r50",
            "seed": 0,
            "starts_from": "train/shapes_detector-0",
        },
        "shapes_detector-0": {
            "task": "instance",
            "dataset": "shapes",
            "experiment": "shapes_detector",
            "seed": 0,
            "starts_from": "data/shapes",
        },
    }
    assert selected == {
        "synthetic": ["shapes", "streets"],
        "datasets": {
            "shapes": {
                "task": "instance",
                "train": "outputs/demo/drawn/shapes/annotations/instances_train.json",
                "val": "outputs/demo/drawn/shapes/annotations/instances_val.json",
                "lvis": "outputs/demo/drawn/shapes/annotations/lvis_val.json",
            },
            **{
                f"streets_{task}": {
                    "task": task,
                    "train": "outputs/demo/drawn/streets/gtFine/train",
                    "val": "outputs/demo/drawn/streets/gtFine/val",
                    "lvis": "outputs/demo/drawn/streets/gtFine/val",
                }
                for task in ("instance", "semantic")
            },
        },
        "sweeps": {
            name: {"task": "instance", "dataset": "shapes", "starts_from": "train/coco_pointrend_r50-0"}
            for name in ("oversampling_importance", "subdivision")
        },
    }


def test_a_run_begins_with_one_that_begins_with_nothing(project: Project) -> None:
    path = project.root / "configs/experiments/demo/coco_4xconv_r50.yaml"
    path.write_text(path.read_text().replace("shapes_detector-0", "coco_pointrend_r50-0"))
    with pytest.raises(ConfigError, match=r"4xconv_r50\.yaml:\n  starts_from: 'coco_pointrend_r50-0' is not a run of"):
        project.select("demo", "data")


def test_what_a_run_begins_with_must_exist(project: Project) -> None:
    (project.configs / "experiments/demo/shapes_detector.yaml").unlink()
    with pytest.raises(ConfigError) as caught:
        project.select("demo", "data")
    # Of those that begin with it, the first by name.
    assert str(project.configs / "experiments/demo/cityscapes_4xconv_r50.yaml") in str(caught.value)
    assert "starts_from: 'shapes_detector-0' is not a run of this scale" in str(caught.value)
    assert "those are streets_segmenter-0" in str(caught.value)


def test_a_run_begins_with_a_seed_that_there_is(project: Project) -> None:
    path = project.configs / "experiments/demo/shapes_detector.yaml"
    path.write_text(edited(path.read_text(), "seeds: [0]", "seeds: [1, 2]"))
    with pytest.raises(
        ConfigError, match=r"'shapes_detector-0' is not a run .* shapes_detector-1, shapes_detector-2, streets"
    ):
        project.select("demo", "data")


def test_a_selection_loads_as_it_was_written(project: Project) -> None:
    params = project.select("paper", "/data")
    project.selection_file.write_text(yaml.safe_dump(params.model_dump(), sort_keys=False))
    assert project.selection() == params


def test_the_selected_runs_agree_with_their_experiments(repository: Path) -> None:
    project = Project(repository)
    selection = project.selection()
    for name, selected in selection.runs.items():
        project.run(project.params().scale, name, selected)
    assert {run.dataset for run in selection.runs.values()} <= selection.datasets.keys()
    project.check(project.params(), selection)


def test_an_unknown_scale_lists_the_scales(repository: Path) -> None:
    with pytest.raises(ConfigError, match=r"no scale 'papre'.*demo.*paper"):
        Project(repository).select("papre", "data")


def test_an_unknown_cluster_lists_the_clusters(repository: Path) -> None:
    with pytest.raises(ConfigError, match=r"lapdog\.yaml.*eight_gpus, laptop"):
        Project(repository).initial_params("demo", "data", "lapdog")


# Faults of a file


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
        (ModelConfig, MODEL, "backbone: false", "backbone: 'yes'", "pretrained_backbone", "'yes'"),
        (ModelConfig, MODEL, "backbone: false", "backbone: 0", "pretrained_backbone", "0"),
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


@pytest.mark.parametrize("value", [".inf", ".nan"])
def test_a_learning_rate_is_finite(written: Callable[[str], Path], value: str) -> None:
    message = refusal(ScheduleConfig, written(edited(SCHEDULE, "rate: 0.02}", f"rate: {value}}}")))
    assert "phases.0.learning_rate" in message


@pytest.mark.parametrize(
    ("text", "line", "key"),
    [
        (SCHEDULE + "batch_size: 16\n", 6, "batch_size"),
        (edited(SCHEDULE, "{updates: 1000,", "{updates: 1, updates: 1000,"), 2, "updates"),
        (edited(SCHEDULE, "{updates: 20000,", "{updates: 1, updates: 20000,"), 5, "updates"),
    ],
)
def test_a_repeated_key_is_named_with_its_line(written: Callable[[str], Path], text: str, line: int, key: str) -> None:
    assert f"line {line}: key '{key}' stands twice" in refusal(ScheduleConfig, written(text))


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


def test_an_empty_dataset_file(written: Callable[[str], Path]) -> None:
    path = written("")
    with pytest.raises(ConfigError, match=re.escape(str(path))):
        load_dataset(path)


def test_a_file_in_another_encoding(tmp_path: Path) -> None:
    path = tmp_path / "subject.yaml"
    path.write_bytes("description: Größe\n".encode("latin-1"))
    refusal(ExperimentConfig, path)


def test_a_missing_file_names_the_others(repository: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        Project(repository).schedule("coco_2x")
    assert str(repository / "configs" / "schedules" / "coco_2x.yaml") in str(caught.value)
    assert "coco8, coco_1x, coco_3x, coco_sweep, demo, demo_3x, demo_detector" in str(caught.value)


def test_a_missing_file_among_none(tmp_path: Path) -> None:
    assert "no such" in refusal(ScheduleConfig, tmp_path / "nowhere" / "x.yaml")


# Values


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


def test_defaults_are_those_of_the_paper(written: Callable[[str], Path]) -> None:
    schedule = load(ScheduleConfig, written(SCHEDULE))
    assert (schedule.momentum, schedule.weight_decay, schedule.precision) == (0.9, 0.0001, "float32")
    assert schedule.updates == 80000


def test_a_configuration_does_not_change_after_loading(written: Callable[[str], Path]) -> None:
    schedule = load(ScheduleConfig, written(SCHEDULE))
    with pytest.raises(ValidationError, match="frozen"):
        schedule.batch_size = 8  # type: ignore[misc]


@settings(deadline=None)
@given(
    rate=st.floats(min_value=0, exclude_min=True, allow_infinity=False),
    decay=st.floats(min_value=0, allow_infinity=False),
)
def test_what_configure_writes_is_what_the_stages_load(
    tmp_path_factory: pytest.TempPathFactory, rate: float, decay: float
) -> None:
    schedule = ScheduleConfig.model_validate(
        {
            "batch_size": 1,
            "warmup": {"updates": 1, "learning_rate": rate},
            "phases": [{"updates": 1, "learning_rate": rate}],
            "weight_decay": decay,
        }
    )
    path = tmp_path_factory.getbasetemp() / "schedule.json"
    path.write_text(schedule.model_dump_json(indent=1))
    assert load(ScheduleConfig, path) == schedule


@pytest.mark.parametrize("scale", SCALES)
def test_resolved_runs_survive_their_files(scale: str, repository: Path, tmp_path: Path) -> None:
    project = Project(repository)
    for name, run_params in project.select(scale, "data").runs.items():
        for value in project.run(scale, name, run_params):
            path = tmp_path / f"{name}.json"
            path.write_text(value.model_dump_json(indent=1))
            schema = RunConfig if isinstance(value, RunConfig) else EvaluationConfig
            assert load(schema, path) == value


# What files say about each other


def test_pointrend_needs_sampling(project: Project) -> None:
    path = project.configs / "experiments" / "demo" / "coco_pointrend_r50.yaml"
    path.write_text(path.read_text() + "sampling: null\n")
    with pytest.raises(ConfigError) as caught:
        project.experiment("demo", "coco_pointrend_r50")
    assert str(path) in str(caught.value)
    assert "sampling: missing" in str(caught.value)


def test_the_4xconv_head_has_no_sampling(project: Project) -> None:
    path = project.configs / "experiments" / "demo" / "coco_4xconv_r50.yaml"
    path.write_text(path.read_text() + EXPERIMENT.splitlines()[5] + "\n")
    with pytest.raises(ConfigError) as caught:
        project.experiment("demo", "coco_4xconv_r50")
    assert str(path) in str(caught.value)
    assert re.search(r"sampling: .*mask_rcnn_tiny_shapes.* has no point head", str(caught.value))


@pytest.mark.parametrize("evaluation", ["{resolution: 224}", "{resolution: 28, num_points: 784}"])
def test_the_4xconv_head_has_one_resolution_and_no_subdivision(project: Project, evaluation: str) -> None:
    path = project.configs / "experiments" / "demo" / "coco_4xconv_r50.yaml"
    path.write_text(edited(path.read_text(), "{resolution: 28}", evaluation))
    with pytest.raises(ConfigError, match=re.escape(str(path)) + r"(.|\n)*evaluations\.28x28"):
        project.experiment("demo", "coco_4xconv_r50")


@pytest.mark.parametrize("part", ["model", "schedule", "dataset"])
def test_an_experiment_with_a_part_that_does_not_exist(project: Project, part: str) -> None:
    path = project.configs / "experiments" / "demo" / "coco_4xconv_r50.yaml"
    path.write_text(re.sub(rf"^{part}: .*$", f"{part}: nothing", path.read_text(), flags=re.MULTILINE))
    with pytest.raises(ConfigError, match=rf"{part}s.nothing\.yaml: no such configuration file; .* has "):
        params = project.select("demo", "data")
        project.run("demo", "coco_4xconv_r50-0", params.runs["coco_4xconv_r50-0"])


@pytest.mark.parametrize(
    ("run", "key", "expected"),
    [
        (
            SelectedRun(
                task="instance",
                dataset="nuclei",
                experiment="coco_4xconv_r50",
                seed=0,
                starts_from="train/shapes_detector-0",
            ),
            "dataset",
            "'shapes'",
        ),
        (
            SelectedRun(
                task="instance",
                dataset="shapes",
                experiment="coco_4xconv_r50",
                seed=5,
                starts_from="train/shapes_detector-0",
            ),
            "seed",
            "[0]",
        ),
        (
            SelectedRun(
                task="instance", dataset="shapes", experiment="coco_4xconv_r50", seed=0, starts_from="data/shapes"
            ),
            "starts_from",
            "'train/shapes_detector-0'",
        ),
        (
            SelectedRun(
                task="instance",
                dataset="shapes",
                experiment="coco_5xconv_r50",
                seed=0,
                starts_from="train/shapes_detector-0",
            ),
            "",
            "coco_4xconv_r50, coco_4xconv_r50_3x",
        ),
    ],
)
def test_a_run_that_disagrees_with_its_experiment(project: Project, run: SelectedRun, key: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        project.run("demo", "mine", run)
    assert expected in str(caught.value)
    if key:
        assert "selection.yaml" in str(caught.value)
        assert f"runs.mine.{key}" in str(caught.value)


def test_a_resolved_run(repository: Path) -> None:
    project = Project(repository)
    params = SelectedRun(
        task="instance", dataset="coco2017", experiment="coco_pointrend_r50", seed=2, starts_from="data/coco2017"
    )
    run, evaluation = project.run("paper", "coco_pointrend_r50-2", params)
    assert (run.run, run.experiment, run.dataset, run.seed) == (
        "coco_pointrend_r50-2",
        "coco_pointrend_r50",
        "coco2017",
        2,
    )
    assert run.model == project.model("pointrend_r50_coco")
    assert run.schedule == project.schedule("coco_1x")
    assert run.starts_from is None
    # Those of Table 3.
    assert {name: (s.resolution, s.num_points) for name, s in evaluation.root.items()} == {
        "28x28": (28, 784),
        "56x56": (56, 784),
        "112x112": (112, 784),
        "224x224": (224, 784),
        "224x224_14": (224, 196),
        "224x224_56": (224, 3136),
        "224x224_112": (224, 12544),
    }


def test_a_resolved_run_knows_what_it_begins_with(repository: Path) -> None:
    params = SelectedRun(
        task="semantic",
        dataset="streets_semantic",
        experiment="cityscapes_deeplabv3_r103",
        seed=0,
        starts_from="train/streets_segmenter-0",
    )
    run, _ = Project(repository).run("demo", "cityscapes_deeplabv3_r103-0", params)
    assert run.starts_from == "streets_segmenter-0"


def test_a_run_that_is_not_evaluated(repository: Path) -> None:
    params = SelectedRun(
        task="instance", dataset="shapes", experiment="shapes_detector", seed=0, starts_from="data/shapes"
    )
    run, evaluation = Project(repository).run("demo", "shapes_detector-0", params)
    assert run.starts_from is None
    assert evaluation.root == {}


def test_an_unknown_model_lists_the_models(written: Callable[[str], Path]) -> None:
    text = edited(MODEL, "pointrend_rcnn_tiny_fpn", "pointrend_rcnn_tiny")
    message = refusal(ModelConfig, written(text))
    assert "'pointrend_rcnn_tiny'" in message
    for name in list_models("instance"):
        assert name in message


@pytest.mark.parametrize(("pretrained", "norm"), [("true", "group"), ("false", "frozen_batch")])
def test_imagenet_weights_and_frozen_normalisation_go_together(
    written: Callable[[str], Path], pretrained: str, norm: str
) -> None:
    text = edited(edited(MODEL, "backbone: false", f"backbone: {pretrained}"), "norm: group", f"norm: {norm}")
    message = refusal(ModelConfig, written(text))
    assert "pretrained_backbone" in message
    assert norm in message


@pytest.mark.parametrize(("name", "has"), [("pointrend_rcnn_tiny_fpn", True), ("maskrcnn_tiny_fpn", False)])
def test_which_models_have_a_point_head(written: Callable[[str], Path], name: str, has: bool) -> None:
    assert load_model(written(edited(MODEL, "pointrend_rcnn_tiny_fpn", name))).has_point_head is has


def test_sampling_and_rendering_as_the_network_takes_them(written: Callable[[str], Path]) -> None:
    experiment = load(ExperimentConfig, written(EXPERIMENT))
    assert experiment.sampling is not None
    sampling = experiment.sampling.build()
    assert (sampling.strategy, sampling.num_points, sampling.oversample_ratio, sampling.importance_sample_ratio) == (
        "biased", 196, 3.0, 0.75,
    )  # fmt: skip
    rendering = experiment.evaluations["28x28"].build()
    assert (rendering.resolution, rendering.num_points) == (28, 784)


# Tables


@pytest.mark.parametrize(
    ("baselines", "expected"),
    [
        ("---", [0, 0, 0]),
        ("x--", [0, 0, 0]),
        ("-x-", [1, 1, 1]),
        ("--x", [2, 2, 2]),
        ("x-x-", [0, 0, 2, 2]),
        ("-x-x-", [1, 1, 1, 3, 3]),
        ("xx-", [0, 1, 1]),
        ("x", [0]),
    ],
)
def test_gains_are_over_the_nearest_baseline_above_or_else_below(
    written: Callable[[str], Path], baselines: str, expected: list[int]
) -> None:
    rows = "".join(
        f"  - {{labels: [a, b], cells: {{}}, baseline: {str(is_one == 'x').lower()}}}\n" for is_one in baselines
    )
    table = load(TableConfig, written(TABLE[: TABLE.index("  - labels")] + rows))
    assert [table.baseline_of(index) for index in range(len(table.rows))] == expected


def test_a_table_has_measured_and_counted_cells(written: Callable[[str], Path]) -> None:
    both = edited(
        COSTS,
        "  - labels",
        "  - labels: [x]\n    cells: {flops: {experiment: a, evaluation: b, metric: AP}}\n  - labels",
    )
    table = load(TableConfig, written(both))
    assert [type(row.cells["flops"]) for row in table.rows] == [Cell, CostCell]
    assert [list(row.measured) for row in table.rows] == [["flops"], []]
    assert table.experiments == {"a"}
    assert load(TableConfig, written(COSTS)).experiments == set()
    assert TableConfig.model_validate(table.model_dump()) == table


def test_columns_have_a_unit_and_tables_a_heading(written: Callable[[str], Path]) -> None:
    table = load(TableConfig, written(TABLE))
    assert (table.heading, [column.unit for column in table.columns]) == (None, [1.0])
    table = load(TableConfig, written("heading: Section 4.2\n" + COSTS))
    assert (table.heading, [column.unit for column in table.columns]) == ("Section 4.2", [1e9])


# Datasets


def test_a_dataset_is_of_the_kind_of_its_source(repository: Path) -> None:
    project = Project(repository)
    assert isinstance(project.dataset("coco2017"), CocoDataset)
    assert isinstance(project.dataset("shapes"), CocoDataset)
    for task in ("instance", "semantic"):
        dataset = project.dataset(f"cityscapes_{task}")
        assert isinstance(dataset, CityscapesDataset)
        assert dataset.task == task


@pytest.mark.parametrize(
    ("name", "train", "val", "lvis"),
    [
        ("coco2017", 118_287, 5_000, 5_000),
        ("coco2017_lvis_v1", 118_287, 5_000, 4_809),
        ("cityscapes_instance", 2_975, 500, None),
        ("cityscapes_semantic", 2_975, 500, None),
    ],
)
def test_the_published_numbers_of_images(repository: Path, name: str, train: int, val: int, lvis: int | None) -> None:
    dataset = Project(repository).dataset(name)
    assert (dataset.train.num_images, dataset.val.num_images) == (train, val)
    assert (dataset.lvis.num_images if isinstance(dataset, CocoDataset) and dataset.lvis else None) == lvis
    assert "https://" in dataset.obtain


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("root: coco\n", "source"),
        ("source: voc\n", "'voc'"),
        ("source: coco\nroot: x\n", "train: missing"),
        ("source: coco\nroot: x\ntrain: {annotations: a}\nval: {annotations: a, images: b}\n", "train.images: missing"),
        ("source: synthetic\ntrain_images: 1\n", "'synthetic'"),
        (COCO + "  synsets: {a: x.n.01, b: x.n.01}\n", "lvis.synsets: a synset stands more than once"),
        (COCO + "  num_images: 0\n", "lvis.num_images: "),
        (edited(LABELS, "labels: b}\nval", "annotations: b}\nval"), "train.annotations: unknown key"),
        (edited(LABELS, "road: 1", "road: -1"), "classes.road: "),
        (edited(LABELS, "road: 1", "road: 0"), "no id for two things"),
        (edited(LABELS, "road: 1", "road: 255"), "no id for two things"),
        (edited(LABELS, "road: 1", "road: 65536"), "ids from 0 to 65535"),
        (edited(LABELS, "{sky: 0, road: 1}", "{}"), "classes: "),
        (edited(CITYSCAPES, "instance", "panoptic"), "task: "),
        (edited(CITYSCAPES, "task: instance\n", ""), "task: missing"),
    ],
)
def test_faults_of_a_dataset_file(written: Callable[[str], Path], text: str, said: str) -> None:
    path = written(text)
    with pytest.raises(ConfigError) as caught:
        load_dataset(path)
    assert str(path) in str(caught.value)
    assert said in str(caught.value)


def watched(project: Project, text: str, experiment: str, data_root: str = "data") -> dict[str, str]:
    """What DVC watches of a dataset that is given to one experiment of the demo, which then starts from no other."""
    shutil.rmtree(project.configs / "sweeps" / "demo")
    (project.configs / "datasets" / "mine.yaml").write_text(text)
    whole = project.experiment("demo", experiment).model_dump(exclude={"starts_from"}) | {"dataset": "mine"}
    for path in (project.configs / "experiments" / "demo").iterdir():
        path.unlink()
    (project.configs / "experiments" / "demo" / f"{experiment}.yaml").write_text(yaml.safe_dump(whole))
    selection = project.select("demo", data_root)
    assert selection.synthetic == []
    return selection.datasets["mine"].model_dump(exclude={"task"})


INSTANCE, SEMANTIC = "coco_4xconv_r50", "cityscapes_semantic_fpn_pointrend_r101"


@pytest.mark.parametrize(
    ("lvis", "expected"),
    [
        ("", "data/nuclei/instances_val.json"),
        ("lvis: {root: lvis, annotations: lvis.json}\n", "data/lvis/lvis.json"),
        ("lvis: {root: /elsewhere, annotations: lvis.json}\n", "/elsewhere/lvis.json"),
        ("lvis: {root: 's3://bucket/lvis', annotations: lvis.json}\n", "configs/datasets/mine.yaml"),
    ],
    ids=["none", "beside", "elsewhere", "behind a URI"],
)
def test_what_dvc_watches_of_coco_files(project: Project, lvis: str, expected: str) -> None:
    text = (CONFIGS / "datasets" / "nuclei.yaml").read_text() + lvis
    assert watched(project, text, INSTANCE) == {
        "train": "data/nuclei/instances_train.json",
        "val": "data/nuclei/instances_val.json",
        "lvis": expected,
    }


@pytest.mark.parametrize(
    ("text", "experiment"),
    [(CITYSCAPES, INSTANCE), (edited(CITYSCAPES, "instance", "semantic"), SEMANTIC), (LABELS, SEMANTIC)],
    ids=["cityscapes instance", "cityscapes semantic", "labels"],
)
def test_what_dvc_watches_of_label_files(project: Project, text: str, experiment: str) -> None:
    found = watched(project, text, experiment)
    assert found == {"train": "data/x/b", "val": "data/x/d", "lvis": "data/x/d"}


def test_an_absolute_root_stands_for_itself(project: Project) -> None:
    assert watched(project, edited(LABELS, "root: x", "root: /elsewhere"), SEMANTIC)["train"] == "/elsewhere/b"


@pytest.mark.parametrize(("root", "data_root"), [("x", "s3://bucket/data"), ("s3://bucket/x", "data")])
def test_of_data_behind_a_uri_dvc_watches_the_configuration(project: Project, root: str, data_root: str) -> None:
    found = watched(project, edited(LABELS, "root: x", f"root: {root}"), SEMANTIC, data_root)
    assert set(found.values()) == {"configs/datasets/mine.yaml"}


@pytest.mark.parametrize("data_root", ["data", "/somebody/elses", "s3://bucket"])
def test_what_is_drawn_lies_in_the_project_whatever_the_data_root(project: Project, data_root: str) -> None:
    for dataset in project.select("demo", data_root).datasets.values():
        for path in (dataset.train, dataset.val, dataset.lvis):
            assert path.startswith(("outputs/demo/drawn/shapes/", "outputs/demo/drawn/streets/"))


def test_finite_values_only_in_sampling(written: Callable[[str], Path]) -> None:
    text = edited(EXPERIMENT, "ratio: 3.0", "ratio: .inf")
    assert "sampling" in refusal(ExperimentConfig, written(text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("workers: 2\nmin_workers: 3\nimages_per_worker: 1\n", "min_workers is 3, more than the 2 workers"),
        ("workers: 2\nmin_workers: 1\n", "min_workers needs images_per_worker"),
        ("workers: 2\nmin_workers: 0\nimages_per_worker: 1\n", "min_workers: Input should be greater than 0"),
    ],
)
def test_a_varying_number_of_workers(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load(ClusterConfig, tmp_path / "mine.yaml")
