"""What `pointrend select` chooses, and what DVC watches of it."""

import re
import shutil
from pathlib import Path

import pytest
import yaml
from made_up_configs import (
    CITYSCAPES,
    CONFIGS,
    LABELS,
    SCALES,
    edited,
)

from pipeline.config.project import Project
from pipeline.config.reader import ConfigError


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
    assert runs["coco_4xconv_r50-0"] == {
        "task": "instance",
        "dataset": "shapes",
        "experiment": "coco_4xconv_r50",
        "seed": 0,
        "starts_from": "data/shapes",
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


def test_runs_that_others_start_from_come_first_the_shortest_before_the_others(chain: Project) -> None:
    runs = chain.select("demo", "data").runs
    names = [f"{name}-0" for name in chain.experiment_names("demo")]
    first = ["streets_segmenter-0", "streets_detector-0", "shapes_detector-0"]  # of 1,500, 2,000 and 4,000 updates
    assert list(runs) == first + [name for name in names if name not in first]
    found = [runs[name].model_dump() for name in ("coco_4xconv_r50-0", "shapes_detector-0")]
    assert found == [
        {
            "task": "instance",
            "dataset": "shapes",
            "experiment": "coco_4xconv_r50",
            "seed": 0,
            "starts_from": "train/shapes_detector-0",
        },
        {
            "task": "instance",
            "dataset": "shapes_pretraining",
            "experiment": "shapes_detector",
            "seed": 0,
            "starts_from": "data/shapes_pretraining",
        },
    ]


def test_a_run_begins_with_one_that_begins_with_nothing(chain: Project) -> None:
    path = chain.root / "configs/experiments/demo/coco_4xconv_r50.yaml"
    path.write_text(edited(path.read_text(), "shapes_detector-0", "coco_pointrend_r50-0"))
    # Of the experiments with that start, the first by name: it has this one as its base.
    with pytest.raises(ConfigError, match=r"4xconv_r101_3x\.yaml:\n  starts_from: 'coco_pointrend_r50-0' is not a run"):
        chain.select("demo", "data")


def test_what_a_run_begins_with_must_exist(chain: Project) -> None:
    (chain.configs / "experiments/demo/shapes_detector.yaml").unlink()
    with pytest.raises(ConfigError) as caught:
        chain.select("demo", "data")
    # Of those that begin with it, the first by name.
    assert str(chain.configs / "experiments/demo/coco_4xconv_r101_3x.yaml") in str(caught.value)
    assert "starts_from: 'shapes_detector-0' is not a run of this scale" in str(caught.value)
    assert "those are streets_detector-0, streets_segmenter-0" in str(caught.value)


def test_a_run_begins_with_a_seed_that_there_is(chain: Project) -> None:
    path = chain.configs / "experiments/demo/shapes_detector.yaml"
    path.write_text(edited(path.read_text(), "seeds: [0]", "seeds: [1, 2]"))
    with pytest.raises(
        ConfigError, match=r"'shapes_detector-0' is not a run .* shapes_detector-1, shapes_detector-2, streets"
    ):
        chain.select("demo", "data")


def test_a_run_begins_with_one_of_the_same_norm(chain: Project) -> None:
    path = chain.configs / "models/mask_rcnn_r50_coco8.yaml"
    text = edited(path.read_text(), "pretrained_backbone: null", "pretrained_backbone: detectron2")
    (chain.configs / "models/frozen.yaml").write_text(edited(text, "norm: group", "norm: frozen_batch"))
    path = chain.configs / "experiments/demo/coco_4xconv_r50.yaml"
    path.write_text(edited(path.read_text(), "model: mask_rcnn_tiny_shapes", "model: frozen"))
    with pytest.raises(ConfigError, match=r"starts_from: 'shapes_detector-0' has norm 'group', model 'frozen' has"):
        chain.select("demo", "data")


@pytest.mark.parametrize(
    ("model", "source", "others"),
    [
        ("mask_rcnn_tiny_detector", "torchvision", "null"),
        ("deeplabv3_r103_cityscapes", "torchvision", "detectron2 or null"),
    ],
)
def test_a_backbone_that_its_source_has_no_weights_of(chain: Project, model: str, source: str, others: str) -> None:
    path = chain.configs / f"models/{model}.yaml"
    text = re.sub("pretrained_backbone: .*", f"pretrained_backbone: {source}", path.read_text())
    path.write_text(text.replace("norm: group", "norm: frozen_batch"))
    message = f"model: {source} has no ImageNet weights for the backbone of .*; expected pretrained_backbone {others}"
    with pytest.raises(ConfigError, match=message):
        chain.select("paper" if "r103" in model else "demo", "data")


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


@pytest.mark.parametrize("file", ["findings.yaml", "figures.yaml", "tables/table1.yaml"])
def test_what_the_report_is_made_from_is_checked_before_anything_runs(
    repository: Path, project: Project, file: str
) -> None:
    params, selection = Project(repository).params(), Project(repository).selection()
    project.check(params, selection)
    path = project.configs / file
    path.write_text(path.read_text(encoding="utf-8") + "\nfoo: 3\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"(?s){path}.*foo"):
        project.check(params, selection)


@pytest.mark.parametrize(("key", "value", "names"), [("scale", "dmeo", "demo"), ("cluster", "labtop", "laptop")])
def test_a_scale_or_cluster_that_does_not_exist(repository: Path, key: str, value: str, names: str) -> None:
    project = Project(repository)
    params = project.params().model_copy(update={key: value})
    with pytest.raises(ConfigError, match=rf"params\.yaml:\n  {key}: '{value}', expected one of .*{names}"):
        project.check(params, project.selection())


def test_an_unknown_scale_lists_the_scales(repository: Path) -> None:
    with pytest.raises(ConfigError, match=r"no scale 'papre'.*demo.*paper"):
        Project(repository).select("papre", "data")


def test_an_unknown_cluster_lists_the_clusters(repository: Path) -> None:
    with pytest.raises(ConfigError, match=r"lapdog\.yaml.*eight_gpus, laptop"):
        Project(repository).initial_params("demo", "data", "lapdog")


def watched(project: Project, text: str, experiment: str, data_root: str = "data") -> dict[str, str]:
    """What DVC watches of a dataset that is given to one experiment of the demo, which then starts from no other."""
    shutil.rmtree(project.configs / "sweeps" / "demo")
    (project.configs / "datasets" / "mine.yaml").write_text(text)
    whole = project.experiment("demo", experiment).model_dump(exclude={"starts_from", "train"}) | {"dataset": "mine"}
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
        ("finer_val: fine/val.json\n", "data/nuclei/fine/val.json"),
        ("finer_val: /elsewhere/val.json\n", "/elsewhere/val.json"),
    ],
    ids=["none", "beside", "elsewhere", "behind a URI", "finer", "finer elsewhere"],
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
