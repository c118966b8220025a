"""The configurations of scale ``paper`` against the paper, typed in from it."""

from pathlib import Path

import pytest

from pipeline.config.datasets import CocoDataset
from pipeline.config.experiments import RunConfig
from pipeline.config.project import Project
from pipeline.training.schedule import learning_rate

EXPERIMENTS = ("coco_4xconv_r50", "coco_pointrend_r50")


@pytest.fixture(scope="module")
def project(repository: Path) -> Project:
    return Project(repository)


@pytest.fixture(scope="module")
def runs(project: Project) -> dict[str, RunConfig]:
    params = project.select("paper", "data")
    return {
        name: project.run("paper", name, run)[0] for name, run in params.runs.items() if run.experiment in EXPERIMENTS
    }


def test_both_experiments_have_three_runs(runs: dict[str, RunConfig]) -> None:
    # Section 4: "using the median of 3 runs for COCO".
    found = {name: sorted(run.seed for run in runs.values() if run.experiment == name) for name in EXPERIMENTS}
    assert found == {name: [0, 1, 2] for name in EXPERIMENTS}
    assert len({(run.experiment, run.seed) for run in runs.values()}) == len(runs) == 6


def test_the_optimiser_of_appendix_a(runs: dict[str, RunConfig]) -> None:
    # "SGD with 0.9 momentum; a linear learning rate warmup over 1000 updates starting from a learning rate of 0.001
    # is applied; weight decay 0.0001 is applied"
    for run in runs.values():
        assert run.schedule.momentum == 0.9
        assert run.schedule.weight_decay == 0.0001
        assert (run.schedule.warmup.updates, run.schedule.warmup.learning_rate) == (1000, 0.001)


def test_the_schedule_of_appendix_a(runs: dict[str, RunConfig]) -> None:
    # "16 images per mini-batch; the training schedule is 60k / 20k / 10k updates at learning rates of
    # 0.02 / 0.002 / 0.0002 respectively"
    for run in runs.values():
        assert run.schedule.batch_size == 16
        phases = [(phase.updates, phase.learning_rate) for phase in run.schedule.phases]
        assert phases == [(60_000, 0.02), (20_000, 0.002), (10_000, 0.0002)]
        assert run.schedule.updates == 90_000
        assert run.schedule.precision == "float32"
        assert learning_rate(run.schedule, 75_000) == 0.002


def test_the_image_sizes_of_appendix_a(runs: dict[str, RunConfig]) -> None:
    # "training images are resized randomly to a shorter edge from 640 to 800 pixels with a step of 32 pixels and
    # inference images are resized to a shorter edge size of 800 pixels"
    for run in runs.values():
        assert run.model.train_min_sizes == [640, 672, 704, 736, 768, 800]
        assert run.model.test_min_size == 800


def test_the_networks(runs: dict[str, RunConfig]) -> None:
    # Table 1: "A ResNet-50-FPN backbone"; Appendix A: "the batch normalization (BN) layers from the ImageNet
    # pre-trained models are frozen"
    names = {run.experiment: run.model.name for run in runs.values()}
    assert names == {
        "coco_4xconv_r50": "maskrcnn_r50_fpn_coco",
        "coco_pointrend_r50": "pointrend_rcnn_r50_fpn_coco",
    }
    for run in runs.values():
        assert run.model.pretrained_backbone == "detectron2"
        assert run.model.norm == "frozen_batch"


def test_the_heads_differ_in_nothing_else(runs: dict[str, RunConfig]) -> None:
    for seed in (0, 1, 2):
        conv, point = (runs[f"{name}-{seed}"] for name in EXPERIMENTS)
        assert conv.dataset == point.dataset == "coco2017"
        assert conv.schedule == point.schedule
        assert conv.model.model_dump(exclude={"name"}) == point.model.model_dump(exclude={"name"})


def test_the_sampling_of_section_4(runs: dict[str, RunConfig]) -> None:
    # "we sample 14^2 points using the biased sampling strategy described in the Section 3.1 with k=3 and beta=0.75"
    for run in runs.values():
        if run.experiment == "coco_pointrend_r50":
            assert run.sampling is not None
            assert (run.sampling.strategy, run.sampling.num_points) == ("biased", 14**2)
            assert (run.sampling.oversample_ratio, run.sampling.importance_sample_ratio) == (3, 0.75)
        else:
            assert run.sampling is None


def test_the_rendering_of_section_4(project: Project) -> None:
    # "refine the coarse 7x7 prediction for class c to the 224x224 in 5 steps. At each step, we select and update
    # (at most) the N=28^2 most uncertain points"; Table 3 varies both.
    point = project.experiment("paper", "coco_pointrend_r50").evaluations
    assert {name: (s.resolution, s.num_points) for name, s in point.items()} == {
        "28x28": (28, 28**2),
        "56x56": (56, 28**2),
        "112x112": (112, 28**2),
        "224x224": (224, 28**2),
        "224x224_14": (224, 14**2),
        "224x224_56": (224, 56**2),
        "224x224_112": (224, 112**2),
    }
    conv = project.experiment("paper", "coco_4xconv_r50").evaluations
    assert {name: (s.resolution, s.num_points) for name, s in conv.items()} == {"28x28": (28, None)}


def test_the_dataset_has_its_published_size(project: Project) -> None:
    # COCO 2017: 118,287 training and 5,000 validation images.
    dataset = project.dataset("coco2017")
    assert isinstance(dataset, CocoDataset)
    assert (dataset.train.num_images, dataset.val.num_images) == (118_287, 5_000)
    assert dataset.train.annotations.endswith("instances_train2017.json")
    assert dataset.val.annotations.endswith("instances_val2017.json")


def test_table_1_takes_each_number_from_its_own_run_and_setting(project: Project) -> None:
    table = project.table("table1")
    sources = {
        (i, key): (cell.experiment, cell.evaluation, cell.metric)
        for i, row in enumerate(table.rows)
        for key, cell in row.cells.items()
    }
    assert sources == {
        (row, key): (f"{dataset}_{head}_r50", setting, metric)
        for row, (head, setting) in enumerate([("4xconv", "28x28"), ("pointrend", "28x28"), ("pointrend", "224x224")])
        for key, dataset, metric in [
            ("coco_ap", "coco", "AP"),
            ("coco_ap_star", "coco", "AP_star"),
            ("coco_boundary_ap", "coco", "boundary_AP"),
            ("cityscapes_ap", "cityscapes", "AP"),
        ]
    }


def test_table_1_s_coco_cells_exist_at_every_scale(project: Project) -> None:
    table = project.table("table1")
    for scale in ("paper", "demo", "nuclei", "coco8"):
        experiments = {name: project.experiment(scale, name) for name in project.experiment_names(scale)}
        for row in table.rows:
            cell = row.cells["coco_ap"]
            assert cell.evaluation in experiments[cell.experiment].evaluations, scale
