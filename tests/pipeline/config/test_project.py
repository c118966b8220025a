"""What files say about each other, and what runs resolve to."""

import hashlib
import re
from pathlib import Path

import pytest
from made_up_configs import (
    EXPERIMENT,
    SCALES,
    edited,
)

from pipeline.config.evaluations import EvaluationConfig
from pipeline.config.experiments import RunConfig
from pipeline.config.project import Project
from pipeline.config.reader import ConfigError, load
from pipeline.config.selection import SelectedRun


@pytest.mark.parametrize("scale", SCALES)
def test_resolved_runs_survive_their_files(scale: str, repository: Path, tmp_path: Path) -> None:
    project = Project(repository)
    for name, run_params in project.select(scale, "data").runs.items():
        for value in project.run(scale, name, run_params):
            path = tmp_path / f"{name}.json"
            path.write_text(value.model_dump_json(indent=1))
            schema = RunConfig if isinstance(value, RunConfig) else EvaluationConfig
            assert load(schema, path) == value


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
            "",
            "runs.mine: expected the name 'coco_4xconv_r50-5'",
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
def test_a_run_that_disagrees_with_its_experiment(chain: Project, run: SelectedRun, key: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        chain.run("demo", "mine", run)
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


def test_a_resolved_run_knows_what_it_begins_with(chain: Project) -> None:
    params = SelectedRun(
        task="semantic",
        dataset="streets_semantic",
        experiment="cityscapes_deeplabv3_r103",
        seed=0,
        starts_from="train/streets_segmenter-0",
    )
    run, _ = chain.run("demo", "cityscapes_deeplabv3_r103-0", params)
    assert run.starts_from == "streets_segmenter-0"


@pytest.mark.parametrize("name", ["coco_pointrend_r50", "cityscapes_4xconv_r50", "cityscapes_deeplabv3_r103"])
def test_another_number_of_resamples_is_another_evaluation_and_no_other_training(project: Project, name: str) -> None:
    selected = project.select("demo", "data").runs[f"{name}-0"]
    before = project.run("demo", f"{name}-0", selected)
    assert {setting.resamples for setting in before[1].root.values()} == {200}
    path = project.configs / "metrics.yaml"
    path.write_text(path.read_text().replace("resamples: 200", "resamples: 50"))
    after = project.run("demo", f"{name}-0", selected)
    assert {setting.resamples for setting in after[1].root.values()} == {50}
    assert after[0] == before[0]
    path.write_text(path.read_text().replace("resamples: 50", "resamples: -1"))
    with pytest.raises(ConfigError, match=r"metrics\.yaml.*\n  resamples: .*greater than or equal to 0"):
        project.run("demo", f"{name}-0", selected)


def test_an_experiment_may_have_a_number_of_resamples_of_its_own(project: Project) -> None:
    path = project.configs / "experiments/demo/coco_4xconv_r50.yaml"
    path.write_text(edited(path.read_text(), "{resolution: 28}", "{resolution: 28, resamples: 30}"))
    assert project.experiment("demo", "coco_4xconv_r50").evaluations["28x28"].resamples == 30


def test_a_run_that_is_not_evaluated(chain: Project) -> None:
    path = chain.configs / "experiments" / "demo" / "shapes_detector.yaml"
    path.write_text(edited(path.read_text(), "evaluations:\n  28x28: {resolution: 28}\n", "evaluations: {}\n"))
    params = chain.select("demo", "data").runs["shapes_detector-0"]
    assert params.starts_from == "data/shapes_pretraining"
    run, evaluation = chain.run("demo", "shapes_detector-0", params)
    assert run.starts_from is None
    assert evaluation.root == {}


def change(project: Project, name: str, text: str) -> None:
    """Adds a setting to an experiment of the demo, or replaces it."""
    path = project.configs / "experiments" / "demo" / f"{name}.yaml"
    key = text.partition(":")[0]
    kept = [line for line in path.read_text().splitlines() if not line.startswith(f"{key}:")]
    path.write_text("\n".join([*kept, text, ""]))


def test_a_run_may_start_from_a_file_of_weights(project: Project) -> None:
    name, file = "coco_4xconv_r50", "weights/detector.safetensors"
    change(project, name, f"starts_from: {file}")
    # Of the experiments with that file, the first by name: it has this one as its base.
    with pytest.raises(ConfigError, match=r"coco_4xconv_r101_3x\.yaml:\n  starts_from: there is no file .*detector"):
        project.select("demo", "data")
    (project.root / "weights").mkdir()
    (project.root / file).write_bytes(b"weights")
    selected = project.select("demo", "data").runs[f"{name}-0"]
    assert selected.starts_from == "data/shapes", "it waits for no other run"
    run, _ = project.run("demo", f"{name}-0", selected)
    assert (run.starts_from, run.starts_from_digest) == (file, hashlib.sha256(b"weights").hexdigest())
    (project.root / file).write_bytes(b"other weights")
    assert project.run("demo", f"{name}-0", selected)[0] != run, "DVC sees another configuration"


@pytest.mark.parametrize("name", ["cityscapes_semantic_fpn_r101", "shapes_detector"])
def test_only_a_run_that_starts_from_a_detector_can_leave_it_as_it_is(chain: Project, name: str) -> None:
    change(chain, name, "train: mask_head")
    with pytest.raises(ConfigError, match=r"train: 'mask_head' needs an instance model and the weights of a detector"):
        chain.experiment("demo", name)
    change(chain, "coco_4xconv_r50", "train: mask_head")
    assert chain.experiment("demo", "coco_4xconv_r50").train == "mask_head"


def test_only_a_semantic_model_whose_norm_does_not_learn_can_leave_its_backbone_as_it_is(chain: Project) -> None:
    assert chain.experiment("demo", "cityscapes_deeplabv3_r103").train == "head"
    change(chain, "coco_4xconv_r50", "train: head")
    with pytest.raises(ConfigError, match=r"train: 'head' needs a semantic model and the weights of a backbone"):
        chain.experiment("demo", "coco_4xconv_r50")
    path = chain.configs / "models" / "deeplabv3_tiny_streets.yaml"
    path.write_text(path.read_text().replace("norm: group", "norm: batch"))
    with pytest.raises(ConfigError, match=r"train: 'head' leaves the backbone as it is, but the batch norm of model"):
        chain.experiment("demo", "cityscapes_deeplabv3_r103")
