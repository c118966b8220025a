"""Configuration of semantic models, their schedules and evaluation settings."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.config.evaluations import EvaluationConfig, RenderingConfig, SemanticRenderingConfig
from pipeline.config.models import InstanceModelConfig, SemanticModelConfig, load_model
from pipeline.config.parameters import run_parameters
from pipeline.config.project import Project
from pipeline.config.reader import ConfigError, load
from pipeline.config.schedules import ScheduleConfig

MODEL = """\
name: pointrend_semantic_fpn_tiny
pretrained_backbone: null
norm: group
levels: [p3, p4, p5]
crop_size: [192, 256]
scales: {smallest: 0.5, largest: 2.0, step: 32}
color_augmentation: true
max_class_share: 0.75
"""


@pytest.fixture
def model(tmp_path: Path) -> Callable[..., SemanticModelConfig]:
    def read(old: str = "", new: str = "") -> SemanticModelConfig:
        assert old in MODEL
        path = tmp_path / "subject.yaml"
        path.write_text(MODEL.replace(old, new) if old else MODEL)
        found = load_model(path)
        assert isinstance(found, SemanticModelConfig)
        return found

    return read


def change(project: Project, file: str, old: str, new: str) -> None:
    path = project.configs / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def test_the_name_says_what_the_rest_must_be(model: Callable[..., SemanticModelConfig], repository: Path) -> None:
    assert (model().task, model().architecture, model().has_point_head) == ("semantic", "SemanticFPN", True)
    project = Project(repository)
    assert isinstance(project.model("pointrend_r50_coco"), InstanceModelConfig)
    deeplab = project.model("deeplabv3_tiny_camvid")
    assert isinstance(deeplab, SemanticModelConfig)
    assert (deeplab.architecture, deeplab.has_point_head) == ("DeepLabV3", False)


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("[192, 256]", "[192]", "  crop_size: .*at least 2"),
        ("[192, 256]", "[192, 0]", r"  crop_size\.1: .*greater than 0"),
        ("smallest: 0.5", "smallest: 3.0", "  scales: smallest is 3.0, above largest"),
        ("step: 32", "steps: 32", r"  scales\.step: missing\n  scales\.steps: unknown key"),
        ("max_class_share: 0.75", "max_class_share: 1.5", "  max_class_share: .*less than 1"),
        ("max_class_share: 0.75\n", "", "  max_class_share: missing"),
        ("max_class_share", "test_min_size: 8\nmax_class_share", "  test_min_size: unknown key"),
        ("null", "true", "  pretrained_backbone: .*'torchvision' or 'detectron2'"),
        ("null", "torchvision", "  file: .*norm 'group'"),
        ("norm: group", "norm: frozen_batch", "  file: pretrained_backbone is None and norm 'frozen_batch'"),
        ("[p3, p4, p5]", "[p4, p5]", "  file: levels is"),
        ("name: pointrend_semantic", "points_per_step: 8\nname: semantic", "  file: points_per_step is for PointRend"),
        ("semantic_fpn_tiny", "deeplabv3_tiny", "  file: levels is for SemanticFPN"),
        ("semantic_fpn_tiny", "semantic_fpn_tinny", "  name: expected one of .*semantic_fpn_tiny"),
        ("pointrend_semantic_fpn_tiny", "maskrcnn_tiny_fpn", "  train_min_sizes: missing"),
    ],
)
def test_a_fault_is_named_with_its_key(
    model: Callable[..., SemanticModelConfig], old: str, new: str, line: str
) -> None:
    with pytest.raises(ConfigError, match=rf"(?s)subject\.yaml:\n.*{line}"):
        model(old, new)


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_norms_from_scratch(model: Callable[..., SemanticModelConfig], norm: str) -> None:
    assert model("norm: group", f"norm: {norm}").norm == norm


SCHEDULE = "batch_size: 4\nwarmup: {updates: 1, learning_rate: 0.1}\n"
PHASES = "phases: [{updates: 5, learning_rate: 0.2}]\n"
POLY = "poly: {updates: 7, learning_rate: 0.3, power: 0.9}\n"


def test_a_schedule_has_phases_or_a_power(tmp_path: Path) -> None:
    path = tmp_path / "subject.yaml"
    for text, expected in ((PHASES, (5, 0.2)), (POLY, (7, 0.3))):
        path.write_text(SCHEDULE + text)
        schedule = load(ScheduleConfig, path)
        assert (schedule.updates, schedule.learning_rate) == expected
    for text in ("", PHASES + POLY):
        path.write_text(SCHEDULE + text)
        with pytest.raises(ConfigError, match="file: expected either phases or poly"):
            load(ScheduleConfig, path)


# What goes together


FPN = "experiments/camvid/cityscapes_semantic_fpn_pointrend_r101.yaml"
DEEPLAB = "experiments/camvid/cityscapes_deeplabv3_r103.yaml"


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        (FPN, "{num_points: 675}", "{}", "evaluations.full: model .* has a point head and needs num_points"),
        (FPN, "{num_points: 675}", "{num_points: 675, output_stride: 8}", "evaluations.full: .* no output_stride"),
        (FPN, "{num_points: 675}", "{num_points: 675, output_stride: 32}", "evaluations.full.output_stride: "),
        (FPN, "{num_points: 675}", "{num_points: 675, resolution: 224}", "evaluations.full: .* semantic"),
        (FPN, "{num_points: 675}", "{points: 675}", "evaluations.full.points: unknown key"),
        (FPN, "description:", "dataset: shapes\ndescription:", "dataset: 'shapes' is for instance models"),
        (DEEPLAB, "{output_stride: 8}", "{}", "evaluations.os8: .* needs an output_stride"),
        (DEEPLAB, "{output_stride: 8}", "{output_stride: 8, num_points: 9}", "evaluations.os8: .* no point head"),
        ("experiments/demo/coco_4xconv_r50.yaml", "{resolution: 28}", "{}", "evaluations.28x28: .* needs a resolution"),
        ("experiments/demo/coco_4xconv_r50.yaml", "schedule: demo_4xconv", "schedule: cityscapes_deeplabv3",
         "schedule: .* head_multiplier"),
    ],
)  # fmt: skip
def test_an_experiment_that_does_not_fit_together(project: Project, file: str, old: str, new: str, said: str) -> None:
    change(project, file, old, new)
    _, scale, name = Path(file).with_suffix("").parts
    with pytest.raises(ConfigError, match=rf"{name}\.yaml:\n  {said}"):
        project.experiment(scale, name)


def test_settings_are_of_one_kind() -> None:
    mixed = EvaluationConfig({"a": RenderingConfig(resolution=7), "b": SemanticRenderingConfig(output_stride=8)})
    with pytest.raises(ConfigError, match="evaluations b are not of RenderingConfig"):
        mixed.all_of(RenderingConfig)
    assert EvaluationConfig.model_validate(mixed.model_dump()) == mixed


# In MLflow


def test_a_semantic_run_has_the_parameters_of_an_instance_run(repository: Path) -> None:
    project = Project(repository)
    params = project.select("paper", "data")
    semantic, instance = (
        run_parameters(project.run("paper", name, params.runs[name])[0])
        for name in ("cityscapes_deeplabv3_pointrend_r103-3", "coco_pointrend_r50-0")
    )
    assert list(semantic) == [key for key in instance if key != "test_size"], "images keep their size"
    assert semantic == {
        "dataset": "cityscapes_semantic",
        "head": "DeepLabV3 + PointRend",
        "backbone": "r103",
        "seed": "3",
        "batch_size": "16",
        "updates": "90000",
        "learning_rate": "0.01",
        "precision": "float32",
        "norm": "batch",
        "train_size": "768x768",
        "sampling": "biased",
        "train_points": "2304",
        "oversample_ratio": "3",
        "importance_sample_ratio": "0.75",
        "point_layers": "3",
        "point_channels": "256",
    }
