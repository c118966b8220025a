"""The configuration at paper scale against the paper itself, transcribed here on its own."""

import re
from pathlib import Path

import pytest

from pipeline.config.evaluations import EvaluationSetting
from pipeline.config.experiments import ExperimentConfig
from pipeline.config.models import InstanceModelConfig, SemanticModelConfig
from pipeline.config.project import Project
from pipeline.config.schedules import ScheduleConfig
from pointrend.specs import MODELS, DeepLabV3Spec, SemanticFPNSpec

# The numbers of each table, row by row as they are printed there.
TABLES = {
    "table1": """
        35.2 37.6 33.0
        36.1(+0.9) 39.2(+1.6) 35.5(+2.5)
        36.3(+1.1) 39.7(+2.1) 35.8(+2.8)""",
    "table2": """
        0.5 0.5
        34 33
        0.9 0.7""",
    "table3": """
        36.1 39.2 35.4
        36.2 39.6 35.8
        36.3 39.7 35.8
        36.3 39.7 35.8
        36.1 39.4 35.5
        36.3 39.7 35.8
        36.3 39.7 35.8
        36.3 39.7 35.8""",
    "table4": """
        35.7 39.1 34.4
        35.9 39.0 34.5
        36.3 39.7 35.8
        34.4 37.5 34.1""",
    "table5": """
        37.2 39.5
        38.2(+1.0) 41.5(+2.0)
        38.6 41.4
        39.8(+1.2) 43.5(+2.1)
        39.5 42.1
        40.9(+1.4) 44.9(+2.8)""",
    "table6": """
        77.2
        77.8(+0.6)
        78.4(+1.2)""",
    "table7": """
        77.7
        78.6(+0.9)
        77.4
        78.5(+1.1)""",
    "table8": """
        42.4 57.5 77.2
        47.3(+4.9) 61.2(+3.7) 78.4(+1.2)
        47.0 60.6 77.7
        48.6(+1.6) 62.1(+1.5) 78.6(+0.9)""",
}

SEEDS = {"coco": 3, "cityscapes": 5}  # Section 4: medians of so many runs; Section 5: "5 trials"


@pytest.fixture(scope="module")
def project(repository: Path) -> Project:
    return Project(repository)


@pytest.fixture(scope="module")
def experiments(project: Project) -> dict[str, ExperimentConfig]:
    return {name: project.experiment("paper", name) for name in project.experiment_names("paper")}


@pytest.mark.parametrize("name", TABLES)
def test_published_numbers(project: Project, name: str) -> None:
    table = project.table(name)
    lines = [line.split() for line in TABLES[name].strip().splitlines()]
    assert len(table.rows) == len(lines)
    for index, (row, line) in enumerate(zip(table.rows, lines, strict=True)):
        base = table.rows[table.baseline_of(index)]
        # Boundary AP is ours alone.
        published = [(column.key, row.cells[column.key]) for column in table.columns if column.key in row.cells]
        published = [(key, cell) for key, cell in published if cell.paper is not None]
        assert len(published) == len(line)
        for (key, cell), printed in zip(published, line, strict=True):
            number, _, gain = printed.rstrip(")").partition("(")
            assert cell.paper == float(number)
            if gain:
                other = base.cells[key].paper
                assert other is not None
                assert cell.paper - other == pytest.approx(float(gain))


def test_every_table_of_the_paper_and_no_training_twice(
    project: Project, experiments: dict[str, ExperimentConfig]
) -> None:
    assert {f"table{number}" for number in range(1, 9)} <= set(project.table_names())
    named = set().union(*(project.table(name).experiments for name in project.table_names()))
    assert named == experiments.keys()
    trained = [
        experiment.model_dump_json(exclude={"description", "evaluations", "seeds"})
        for experiment in experiments.values()
    ]
    assert len(set(trained)) == len(trained)
    in_tables = set().union(*(project.table(name).experiments for name in TABLES))
    assert len(in_tables) == 22, "distinct trainings"
    for name in project.table_names():
        for row in project.table(name).rows:
            for cell in row.measured.values():
                assert cell.evaluation in experiments[cell.experiment].evaluations


def test_seeds(experiments: dict[str, ExperimentConfig]) -> None:
    for name, experiment in experiments.items():
        assert len(set(experiment.seeds)) == SEEDS[name.split("_")[0]]


def steps(schedule: ScheduleConfig) -> list[tuple[int, float]]:
    return [(phase.updates, phase.learning_rate) for phase in schedule.phases or []]


# Appendix A and B: images per batch, then updates and learning rates.
SCHEDULES = {
    "coco_1x": (16, [(60_000, 0.02), (20_000, 0.002), (10_000, 0.0002)]),
    "coco_3x": (16, [(210_000, 0.02), (40_000, 0.002), (20_000, 0.0002)]),
    "cityscapes_instance": (8, [(18_000, 0.01), (6_000, 0.001)]),
    "cityscapes_semantic_fpn": (32, [(40_000, 0.01), (15_000, 0.001), (10_000, 0.0001)]),
}


def test_schedules(project: Project, experiments: dict[str, ExperimentConfig]) -> None:
    used = {experiment.schedule for experiment in experiments.values()}
    assert used == {*SCHEDULES, "cityscapes_deeplabv3"}
    for name in used:
        schedule = project.schedule(name)
        assert (schedule.warmup.updates, schedule.warmup.learning_rate) == (1000, 0.001)
        assert (schedule.momentum, schedule.weight_decay) == (0.9, 0.0001)
        if name in SCHEDULES:
            assert (schedule.batch_size, steps(schedule)) == SCHEDULES[name]
            assert schedule.head_multiplier == 1
    deeplab = project.schedule("cityscapes_deeplabv3")
    assert deeplab.poly is not None
    assert (deeplab.batch_size, deeplab.poly.updates, deeplab.poly.learning_rate) == (16, 90_000, 0.01)
    assert deeplab.head_multiplier == 10


def test_who_trains_by_which_schedule(experiments: dict[str, ExperimentConfig]) -> None:
    for name, experiment in experiments.items():
        expected = {
            r"coco_.*_3x": "coco_3x",
            r"coco_.*(?<!_3x)": "coco_1x",
            r"cityscapes_(4xconv|pointrend)_.*": "cityscapes_instance",
            r"cityscapes_deeplabv3_.*": "cityscapes_deeplabv3",
            r"cityscapes_semantic_fpn_.*": "cityscapes_semantic_fpn",
        }
        assert [value for pattern, value in expected.items() if re.fullmatch(pattern, name)] == [experiment.schedule]


def test_images_of_instance_models(project: Project, experiments: dict[str, ExperimentConfig]) -> None:
    """Appendix A: shorter edges in steps of 32 pixels, frozen batch norm from ImageNet."""
    edges = {"coco2017": (640, 800), "cityscapes_instance": (800, 1024)}
    for experiment in experiments.values():
        model = project.model(experiment.model)
        if isinstance(model, InstanceModelConfig):
            first, last = edges[experiment.dataset]
            assert model.train_min_sizes == list(range(first, last + 1, 32))
            assert model.test_min_size == last
            assert model.pretrained_backbone == "detectron2"
            assert model.norm == "frozen_batch"


def test_crops_of_semantic_models(project: Project, experiments: dict[str, ExperimentConfig]) -> None:
    """Appendix B."""
    for experiment in experiments.values():
        model = project.model(experiment.model)
        if not isinstance(model, SemanticModelConfig):
            continue
        assert (model.scales.smallest, model.scales.largest, model.scales.step) == (0.5, 2.0, 32)
        spec = MODELS[model.name]
        if isinstance(spec, DeepLabV3Spec):
            assert (model.crop_size, model.norm, model.color_augmentation) == ([768, 768], "batch", False)
            assert spec.backbone == "r103"
        else:
            assert isinstance(spec, SemanticFPNSpec)
            assert (model.crop_size, model.norm, model.color_augmentation) == ([512, 1024], "frozen_batch", True)
            assert model.max_class_share is not None
            assert spec.backbone == "r101"


def test_training_points(experiments: dict[str, ExperimentConfig]) -> None:
    """Section 4: 14^2 points, k = 3, beta = 0.75; Section 5: those of a map of stride 16; Table 4 and Section 4.2."""
    changed = {
        "grid": ("grid", 196, None, None),
        "uniform": ("biased", 196, 1.0, 0.0),
        "heavy": ("biased", 196, 10.0, 1.0),
        "49_points": ("biased", 49, 3.0, 0.75),
        "784_points": ("biased", 784, 3.0, 0.75),
        "k2": ("biased", 196, 2.0, 0.75),
        "k5": ("biased", 196, 5.0, 0.75),
        "beta_0_9": ("biased", 196, 3.0, 0.9),
    }
    for name, experiment in experiments.items():
        sampling = experiment.sampling
        assert (sampling is not None) == ("pointrend" in name)
        if sampling is None:
            continue
        number = {"deeplabv3": 48 * 48, "semantic": 32 * 64}.get(name.split("_")[1], 14 * 14)
        change = name.partition("pointrend_r50_")[2]
        strategy, points, k, beta = changed.get(change, ("biased", number, 3.0, 0.75))
        assert (sampling.strategy, sampling.num_points) == (strategy, points)
        if strategy == "biased":
            assert (sampling.oversample_ratio, sampling.importance_sample_ratio) == (k, beta)


def test_subdivision(experiments: dict[str, ExperimentConfig]) -> None:
    """Table 3, and N = 8096 in Section 5."""

    def rendered(setting: EvaluationSetting) -> tuple[int | None, int | None]:
        return getattr(setting, "resolution", None), setting.num_points

    for name in ("coco_pointrend_r50", "cityscapes_pointrend_r50"):
        found = [rendered(setting) for setting in experiments[name].evaluations.values()]
        by_resolution = [(side, 28**2) for side in (28, 56, 112, 224)]
        assert sorted(found) == sorted(by_resolution + [(224, n**2) for n in (14, 56, 112)])
    for name, experiment in experiments.items():
        if "deeplabv3_pointrend" in name or ("semantic_fpn" in name and "pointrend" in name):
            assert {setting.num_points for setting in experiment.evaluations.values()} == {8096}
