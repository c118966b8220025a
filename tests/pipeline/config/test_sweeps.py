"""Sweeps' files: what is refused, and what they resolve to."""

from pathlib import Path

import pytest

from pipeline.config.project import Project
from pipeline.config.reader import ConfigError
from pipeline.config.selection import SelectedRun
from pipeline.config.sweep_tasks import SubdivisionTask, TrainingTask, resolve_sweep, select_sweeps
from pipeline.config.sweeps import load_sweep

RUNS = {
    "coco_pointrend_r50-0": SelectedRun(
        task="instance",
        dataset="shapes",
        experiment="coco_pointrend_r50",
        seed=0,
        starts_from="train/shapes_detector-0",
    ),
    "coco_4xconv_r50-0": SelectedRun(
        task="instance", dataset="shapes", experiment="coco_4xconv_r50", seed=0, starts_from="train/shapes_detector-0"
    ),
    "cityscapes_pointrend_r50-0": SelectedRun(
        task="instance",
        dataset="streets_instance",
        experiment="cityscapes_pointrend_r50",
        seed=0,
        starts_from="train/streets_detector-0",
    ),
}
TRAINING = """\
kind: training
title: k and beta
experiment: coco_pointrend_r50
space:
  oversample_ratio: [1.0, 3.0]
  importance_sample_ratio: [0.0, 0.75]
search: {method: grid}
early_stopping: {grace: 10, reduction: 3}
evaluation: 224x224
heat_map: [oversample_ratio, importance_sample_ratio]
"""
SUBDIVISION = """\
kind: subdivision
title: steps and N
run: coco_pointrend_r50-0
steps: [2, 5]
num_points: [196, 784]
"""


SCHEDULE = """\
batch_size: 4
warmup: {updates: 10, learning_rate: 0.002}
phases:
  - {updates: 70, learning_rate: 0.02}
"""


@pytest.fixture
def chain(chain: Project) -> Project:
    """With a schedule of 70 updates, however long the demo's own is."""
    (chain.configs / "schedules/demo.yaml").write_text(SCHEDULE)
    return chain


def write(project: Project, text: str) -> Path:
    path = project.root / "mine.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "old", "new", "expected"),
    [
        (TRAINING, "oversample_ratio:", "oversampel:", "space.oversampel: unknown key"),
        (TRAINING, "[1.0, 3.0]", "[1.0, 1.0]", "oversample_ratio has a value twice"),
        (TRAINING, "[1.0, 3.0]", "[]", "space.oversample_ratio"),
        (TRAINING, "[1.0, 3.0]", "three", "space.oversample_ratio"),
        (TRAINING, "oversample_ratio: [1.0, 3.0]", "num_points: [14.5]", "num_points is a count"),
        (TRAINING, "[0.0, 0.75]", "{low: 0.9, high: 0.1}", "low is 0.9, expected less than high"),
        (TRAINING, "[0.0, 0.75]", "{low: 0.0, high: 0.1, log: true}", "no logarithm"),
        (
            TRAINING,
            "[0.0, 0.75]",
            "{low: 0.0, high: 1.0}",
            "space.importance_sample_ratio is a range, which has no grid",
        ),
        (TRAINING, "method: grid", "method: bayes", "search"),
        (TRAINING, "method: grid", "method: optuna", "search.trials: missing"),
        (
            TRAINING,
            "[oversample_ratio, importance_sample_ratio]",
            "[oversample_ratio, num_points]",
            "heat_map: num_points has no list",
        ),
        (
            TRAINING,
            "  oversample_ratio: [1.0, 3.0]\n  importance_sample_ratio: [0.0, 0.75]\n",
            "  {}\n",
            "no parameter",
        ),
        (TRAINING, "kind: training", "kind: retraining", "kind"),
        (SUBDIVISION, "[2, 5]", "[0]", "steps.0"),
        (SUBDIVISION, "steps: [2, 5]\n", "", "steps: missing"),
        (
            SUBDIVISION,
            "title:",
            "heat_map: [steps, oversample_ratio]\ntitle:",
            "'oversample_ratio' is neither steps nor num_points",
        ),
    ],
)
def test_a_wrong_file_is_an_error_that_names_it_and_the_key(
    project: Project, text: str, old: str, new: str, expected: str
) -> None:
    assert old in text
    path = write(project, text.replace(old, new))
    with pytest.raises(ConfigError) as raised:
        load_sweep(path)
    assert str(path) in str(raised.value)
    assert expected in str(raised.value)


@pytest.mark.parametrize(
    ("text", "old", "new", "expected"),
    [
        (TRAINING, "224x224", "448x448", "evaluation: 'coco_pointrend_r50' has 28x28, 56x56, 112x112, 224x224_14, "),
        (TRAINING, "coco_pointrend_r50", "coco_4xconv_r50", "experiment: 'coco_4xconv_r50' has no point head"),
        (TRAINING, "coco_pointrend_r50", "coco_pointrent_r50", "no such configuration file"),
        (TRAINING, "grace: 10", "grace: 100", "early_stopping.grace: 100, but trials end after 70 updates"),
        (
            TRAINING,
            "[1.0, 3.0]",
            "[0.5, 3.0]",
            "space.oversample_ratio: 0.5: oversample_ratio (k) is 0.5, expected a finite number from 1",
        ),
        (TRAINING, "[0.0, 0.75]", "[0.0, 1.5]", "space.importance_sample_ratio: 1.5"),
        (TRAINING, "title:", "starts_from: nothing-0\ntitle:", "starts_from: no run 'nothing-0' in selection.yaml"),
        (TRAINING, "title:", "starts_from: cityscapes_pointrend_r50-0\ntitle:", "has another dataset or model"),
        (SUBDIVISION, "coco_pointrend_r50-0", "coco_pointrend_r50-7", "run: no run 'coco_pointrend_r50-7'"),
        (SUBDIVISION, "coco_pointrend_r50-0", "coco_4xconv_r50-0", "run: 'coco_4xconv_r50-0' has no masks that"),
    ],
)
def test_what_does_not_go_with_the_rest_is_an_error(
    chain: Project, text: str, old: str, new: str, expected: str
) -> None:
    assert old in text
    path = write(chain, text.replace(old, new))
    with pytest.raises(ConfigError) as raised:
        resolve_sweep(chain, "demo", path, RUNS)
    assert expected in str(raised.value)


def test_trials_that_train_no_detector_need_one(project: Project) -> None:
    """Without weights to start from, each trial would freeze a random detector."""
    with pytest.raises(ConfigError, match="starts_from: missing; 'coco_pointrend_r50' trains no detector of its own"):
        resolve_sweep(project, "demo", write(project, TRAINING), RUNS)


def test_trials_train_what_the_run_that_they_start_from_trained(chain: Project) -> None:
    other = chain.configs / "experiments" / "demo" / "coco_pointrend_r50_k2.yaml"
    other.write_text(other.read_text() + "train: mask_head\n")
    started = RUNS["coco_pointrend_r50-0"].model_copy(update={"experiment": "coco_pointrend_r50_k2"})
    text = TRAINING + "starts_from: coco_pointrend_r50_k2-0\n"
    with pytest.raises(
        ConfigError, match=r"'coco_pointrend_r50_k2-0' trains 'mask_head', but 'coco_pointrend_r50' 'all'"
    ):
        resolve_sweep(chain, "demo", write(chain, text), RUNS | {"coco_pointrend_r50_k2-0": started})


def test_a_limit_of_val_images_is_for_coco_datasets(chain: Project) -> None:
    text = TRAINING.replace("coco_pointrend_r50", "cityscapes_pointrend_r50") + "val_images: 4\n"
    with pytest.raises(ConfigError, match="val_images: 'streets_instance' is no COCO dataset"):
        resolve_sweep(chain, "demo", write(chain, text), RUNS)


def test_a_training_sweep_resolves_to_runs_of_its_points(chain: Project) -> None:
    task, read = resolve_sweep(chain, "demo", write(chain, TRAINING), RUNS)
    assert isinstance(task, TrainingTask)
    assert read.starts_from == "data/shapes"
    assert task.rungs == [10, 30, 70]
    run = task.trial(
        {
            "oversample_ratio": 8.0,
            "importance_sample_ratio": 0.5,
            "num_points": 49,
            "point_layers": 2,
            "point_channels": 32,
        }
    )
    assert run.sampling is not None
    assert (run.sampling.num_points, run.sampling.oversample_ratio, run.sampling.importance_sample_ratio) == (
        49,
        8.0,
        0.5,
    )
    assert run.point_head_size == (2, 32)
    assert task.trial({"oversample_ratio": 8.0}).point_head_size == (3, 64), "the model's own"
    best = task.best({"oversample_ratio": 8.0})
    assert best.sampling is not None
    assert (best.sampling.oversample_ratio, best.sampling.importance_sample_ratio) == (8.0, 0.75)


def test_other_evaluations_seeds_and_titles_run_no_sweep_again(chain: Project) -> None:
    path = write(chain, TRAINING)
    before = resolve_sweep(chain, "demo", path, RUNS)[0].model_dump_json()
    experiment = chain.configs / "experiments/demo/coco_pointrend_r50.yaml"
    text = experiment.read_text().replace("seeds: [0]", "seeds: [0, 1]")
    settings = "  224x224: {resolution: 224, num_points: 784}\n  7x7: {resolution: 7, num_points: 49}\n"
    experiment.write_text(f"{text}evaluations:\n{settings}")
    path.write_text(TRAINING.replace("k and beta", "beta and k").replace("heat_map", "cost: multiply_adds\nheat_map"))
    assert resolve_sweep(chain, "demo", path, RUNS)[0].model_dump_json() == before
    path.write_text(TRAINING.replace("[1.0, 3.0]", "[1.0, 4.0]"))
    assert resolve_sweep(chain, "demo", path, RUNS)[0].model_dump_json() != before


def test_a_sweep_does_not_resample_what_its_trials_are_compared_by(chain: Project) -> None:
    task = resolve_sweep(chain, "demo", write(chain, TRAINING), RUNS)[0]
    assert isinstance(task, TrainingTask)
    assert task.setting.resamples is None


def test_a_subdivision_sweep_reads_its_runs_training(chain: Project) -> None:
    task, read = resolve_sweep(chain, "demo", write(chain, SUBDIVISION), RUNS)
    assert isinstance(task, SubdivisionTask)
    assert read.starts_from == "train/coco_pointrend_r50-0"
    assert [(point["steps"], point["num_points"]) for point in task.points] == [(2, 196), (2, 784), (5, 196), (5, 784)]
    assert task.best({"steps": 5, "num_points": 196}).evaluations["best"].model_dump() == {
        "resolution": 224,
        "num_points": 196,
        "resamples": None,
    }


@pytest.mark.parametrize("scale", ["demo", "paper"])
def test_every_sweep_of_the_repository_resolves(repository: Path, scale: str) -> None:
    project = Project(repository)
    runs = project.select(scale, "data").runs
    sweeps = select_sweeps(project, scale, runs)
    assert {"oversampling_importance", "subdivision"} <= sweeps.keys()
