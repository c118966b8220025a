"""The semantic configurations of scale ``paper`` against Section 5, Appendix B and Tables 6 to 8, typed in."""

from pathlib import Path

import pytest

from pipeline.config.evaluations import SemanticRenderingConfig
from pipeline.config.experiments import RunConfig
from pipeline.config.models import SemanticModelConfig
from pipeline.config.project import Project
from pipeline.training.schedule import learning_rate
from pointrend.specs import PAPER_POINTS_PER_STEP

DEEPLAB = ("cityscapes_deeplabv3_r103", "cityscapes_deeplabv3_pointrend_r103")
FPN = tuple(f"cityscapes_semantic_fpn{levels}{head}_r101" for levels in ("", "_p3") for head in ("", "_pointrend"))

TABLE_6 = [
    ("DeepLabV3-OS-16", "64×128", "cityscapes_deeplabv3_r103", "os16", 77.2),
    ("DeepLabV3-OS-8", "128×256", "cityscapes_deeplabv3_r103", "os8", 77.8),
    ("DeepLabV3-OS-16 + PointRend", "1024×2048", "cityscapes_deeplabv3_pointrend_r103", "os16", 78.4),
]
TABLE_7 = [
    ("SemanticFPN P2-P5", "256×512", "cityscapes_semantic_fpn_r101", "full", 77.7),
    ("SemanticFPN P2-P5 + PointRend", "1024×2048", "cityscapes_semantic_fpn_pointrend_r101", "full", 78.6),
    ("SemanticFPN P3-P5", "128×256", "cityscapes_semantic_fpn_p3_r101", "full", 77.4),
    ("SemanticFPN P3-P5 + PointRend", "1024×2048", "cityscapes_semantic_fpn_p3_pointrend_r101", "full", 78.5),
]
# Columns: trimap mIoU of 8 and of 20 pixels, mIoU.
TABLE_8 = [
    ("DeepLabV3-OS-16", "cityscapes_deeplabv3_r103", 42.4, 57.5, 77.2),
    ("DeepLabV3-OS-16 + PointRend", "cityscapes_deeplabv3_pointrend_r103", 47.3, 61.2, 78.4),
    ("SemanticFPN P2-P5", "cityscapes_semantic_fpn_r101", 47.0, 60.6, 77.7),
    ("SemanticFPN P2-P5 + PointRend", "cityscapes_semantic_fpn_pointrend_r101", 48.6, 62.1, 78.6),
]


@pytest.fixture(scope="module")
def project(repository: Path) -> Project:
    return Project(repository)


@pytest.fixture(scope="module")
def runs(project: Project) -> dict[str, RunConfig]:
    """One run of each experiment."""
    params = project.select("paper", "data")
    return {name: project.run("paper", f"{name}-0", params.runs[f"{name}-0"])[0] for name in DEEPLAB + FPN}


def network(run: RunConfig) -> SemanticModelConfig:
    assert isinstance(run.model, SemanticModelConfig)
    return run.model


def test_every_experiment_has_five_runs(project: Project) -> None:
    # Section 5: "We report the median mIoU of 5 trials."
    for name in DEEPLAB + FPN:
        experiment = project.experiment("paper", name)
        assert experiment.seeds == [0, 1, 2, 3, 4]
        assert experiment.dataset == "cityscapes_semantic"


def test_the_optimiser(runs: dict[str, RunConfig]) -> None:
    # "SGD with 0.9 momentum", "a linear learning rate warmup over 1000 updates starting from a learning rate of 0.001",
    # "weight decay 0.0001"
    for run in runs.values():
        assert (run.schedule.momentum, run.schedule.weight_decay) == (0.9, 0.0001)
        assert (run.schedule.warmup.updates, run.schedule.warmup.learning_rate) == (1000, 0.001)


def test_deeplab_s_schedule(runs: dict[str, RunConfig]) -> None:
    # "16 images per mini-batch"; "90k updates with a poly learning rate update strategy, starting from 0.01"; "the
    # learning rate for ASPP and the prediction convolution are multiplied by 10"
    for name in DEEPLAB:
        schedule = runs[name].schedule
        assert (schedule.batch_size, schedule.updates, schedule.learning_rate) == (16, 90_000, 0.01)
        assert schedule.head_multiplier == 10
        assert learning_rate(schedule, 45_000) == pytest.approx(0.01 * 0.5**0.9)


def test_semantic_fpn_s_schedule(runs: dict[str, RunConfig]) -> None:
    # "32 images per mini-batch"; "40k / 15k / 10k updates at learning rates of 0.01 / 0.001 / 0.0001"
    for name in FPN:
        schedule = runs[name].schedule
        assert (schedule.batch_size, schedule.head_multiplier) == (32, 1)
        assert [(p.updates, p.learning_rate) for p in schedule.parts] == [
            (40_000, 0.01),
            (15_000, 0.001),
            (10_000, 0.0001),
        ]


def test_deeplab_s_crops(runs: dict[str, RunConfig]) -> None:
    # "cropped to a fixed 768x768 size"; "random horizontal flipping and scaling of 0.5x to 2.0x with a 32 pixel step";
    # "BN is applied to 16 images mini-batches"
    for name in DEEPLAB:
        model = network(runs[name])
        assert model.crop_size == [768, 768]
        assert model.scales.model_dump() == {"smallest": 0.5, "largest": 2.0, "step": 32}
        assert (model.color_augmentation, model.max_class_share) == (False, None)
        assert (model.norm, model.pretrained_backbone) == ("batch", "detectron2")


def test_semantic_fpn_s_crops(runs: dict[str, RunConfig]) -> None:
    # "cropped to a fixed 512x1024 size"; "color augmentation, and crop bootstrapping are used during training"; "0.5x
    # to 2.0x with a 32 pixel step"; "BN layers are frozen"
    for name in FPN:
        model = network(runs[name])
        assert model.crop_size == [512, 1024]
        assert model.scales.model_dump() == {"smallest": 0.5, "largest": 2.0, "step": 32}
        assert (model.color_augmentation, model.max_class_share) == (True, 0.75)
        assert (model.norm, model.pretrained_backbone) == ("frozen_batch", "torchvision")
        assert model.levels == (["p3", "p4", "p5"] if "_p3" in name else None)


def test_pointrend_differs_in_nothing_else(runs: dict[str, RunConfig]) -> None:
    for plain, point in (DEEPLAB, FPN[:2], FPN[2:]):
        assert runs[plain].schedule == runs[point].schedule
        assert network(runs[point]).name == f"pointrend_{network(runs[plain]).name}"
        assert network(runs[plain]).model_dump(exclude={"name"}) == network(runs[point]).model_dump(exclude={"name"})


def test_the_sampling_of_section_5(runs: dict[str, RunConfig]) -> None:
    # "as many points as there are on a stride 16 feature map of the input (2304 for deeplabV3 and 2048 for
    # SemanticFPN)"; "the same k=3, beta=0.75"
    for name, run in runs.items():
        if not run.model.has_point_head:
            assert run.sampling is None
            continue
        height, width = network(run).crop_size
        assert run.sampling is not None
        assert run.sampling.num_points == (height // 16) * (width // 16) == (2304 if name in DEEPLAB else 2048)
        assert (run.sampling.strategy, run.sampling.oversample_ratio, run.sampling.importance_sample_ratio) == (
            "biased",
            3,
            0.75,
        )


def test_the_rendering_of_section_5(project: Project) -> None:
    # "During inference, subdivision uses N=8096 ... until reaching the input image resolution"; Table 6 has DeepLabV3
    # at output strides 16 and 8.
    found = {
        name: {
            key: setting.model_dump(exclude_none=True, exclude={"trimap_widths", "resamples"})
            for key, setting in project.experiment("paper", name).evaluations.items()
        }
        for name in DEEPLAB + FPN
    }
    assert found == {
        DEEPLAB[0]: {"os16": {"output_stride": 16}, "os8": {"output_stride": 8}},
        DEEPLAB[1]: {"os16": {"output_stride": 16, "num_points": 8096}},
        **{name: {"full": {"num_points": 8096} if "pointrend" in name else {}} for name in FPN},
    }


def test_the_trimaps_of_table_8(project: Project) -> None:
    for name in DEEPLAB + FPN:
        for setting in project.experiment("paper", name).evaluations.values():
            assert isinstance(setting, SemanticRenderingConfig)
            assert setting.trimap_widths == [8, 20]


@pytest.mark.parametrize(("name", "rows"), [("table6", TABLE_6), ("table7", TABLE_7)], ids=["table6", "table7"])
def test_tables_6_and_7(project: Project, name: str, rows: list[tuple[str, ...]]) -> None:
    found = []
    for row in project.table(name).rows:
        cell = row.cells["miou"]
        assert cell.metric == "mIoU"
        found.append((*row.labels, cell.experiment, cell.evaluation, cell.paper))
    assert found == rows


def test_table_8(project: Project) -> None:
    table = project.table("table8")
    found = []
    for row in table.rows:
        cells = [row.cells[key] for key in ("trimap8", "trimap20", "miou")]
        assert [cell.metric for cell in cells] == ["trimap8_mIoU", "trimap20_mIoU", "mIoU"]
        assert {cell.evaluation for cell in cells} == {"os16" if "deeplab" in cells[0].experiment else "full"}
        assert len({cell.experiment for cell in cells}) == 1
        found.append((*row.labels, cells[0].experiment, *(cell.paper for cell in cells)))
    assert found == TABLE_8


@pytest.mark.parametrize("scale", ["paper", "demo", "camvid"])
def test_predictions_of_the_weights_are_what_was_measured(project: Project, scale: str) -> None:
    """Their number of points at inference is that of the main evaluation, the last one."""
    measured, carried = {}, {}
    for name in project.experiment_names(scale):
        experiment = project.experiment(scale, name)
        model = project.model(experiment.model)
        if isinstance(model, SemanticModelConfig) and model.has_point_head:
            setting = list(experiment.evaluations.values())[-1]
            assert isinstance(setting, SemanticRenderingConfig)
            measured[name], carried[name] = setting.num_points, model.points_per_step or PAPER_POINTS_PER_STEP
    assert measured == carried
    assert measured


def test_camvid_has_every_cell_of_tables_6_and_8(project: Project) -> None:
    for table in ("table6", "table8"):
        for row in project.table(table).rows:
            for cell in row.cells.values():
                assert cell.evaluation in project.experiment("camvid", cell.experiment).evaluations
