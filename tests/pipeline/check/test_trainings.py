"""Which trainings are distinct, what a check changes of them, and what it says of one that fails."""

from pathlib import Path

import pytest

from pipeline.check.remedies import explain
from pipeline.check.shrink import shrunk, starts_at_random
from pipeline.check.task import UPDATES, CheckTask, Failure, Kind, distinct_trainings, read_failure, three_updates
from pipeline.config.clusters import ClusterConfig
from pipeline.config.evaluations import EvaluationConfig
from pipeline.config.project import Project
from pipeline.files import write_json
from pipeline.training.schedule import learning_rate

PROJECT = Project(Path(__file__).parents[3])


@pytest.fixture(scope="module")
def paper() -> list[Kind]:
    selection = PROJECT.select("paper", "data")
    return distinct_trainings(PROJECT.run("paper", name, run) for name, run in selection.runs.items())


def kind(kinds: list[Kind], experiment: str) -> Kind:
    (found,) = [each for each in kinds if experiment in each.experiments]
    return found


class TestDistinct:
    def test_every_run_is_in_one(self, paper: list[Kind]) -> None:
        runs = [config.run for each in paper for config in each.configs]
        assert sorted(runs) == sorted(PROJECT.select("paper", "data").runs)

    def test_seeds_learning_rates_and_lengths_make_no_difference(self, paper: list[Kind]) -> None:
        both = kind(paper, "coco_pointrend_r50")
        assert list(both.experiments) == ["coco_pointrend_r50", "coco_pointrend_r50_3x"]
        assert [config.seed for config in both.experiments["coco_pointrend_r50_3x"]] == [0, 1, 2]

    @pytest.mark.parametrize(
        "other", ["coco_pointrend_r50_k2", "coco_pointrend_r50_deep", "coco_pointrend_r101_3x", "coco_4xconv_r50"]
    )
    def test_points_heads_and_networks_do(self, paper: list[Kind], other: str) -> None:
        assert kind(paper, other).key != kind(paper, "coco_pointrend_r50").key

    def test_batch_and_precision_do(self, paper: list[Kind]) -> None:
        config = kind(paper, "coco_pointrend_r50").first
        changed = [
            config.model_copy(update={"schedule": config.schedule.model_copy(update=update)})
            for update in ({"batch_size": 8}, {"precision": "bfloat16"}, {"momentum": 0.5})
        ]
        none = EvaluationConfig({})
        assert len(distinct_trainings((each, none) for each in [config, *changed])) == 4

    def test_every_setting_is_evaluated_once(self, paper: list[Kind]) -> None:
        both = kind(paper, "coco_pointrend_r50")
        assert list(both.settings.root) == list(PROJECT.experiment("paper", "coco_pointrend_r50").evaluations)


@pytest.mark.parametrize("name", ["coco_1x", "cityscapes_deeplabv3", "demo"])
def test_three_updates_begin_as_the_schedule_does(name: str) -> None:
    schedule = PROJECT.schedule(name)
    short = three_updates(schedule)
    assert short.updates == UPDATES
    assert learning_rate(short, 0) == learning_rate(schedule, 0)
    for update in range(1, UPDATES):
        assert learning_rate(short, update) == pytest.approx(learning_rate(schedule, update), rel=1e-3)
    assert (short.batch_size, short.precision, short.validate_every) == (
        schedule.batch_size,
        schedule.precision,
        None,
    )


class TestShrunk:
    def test_instances(self, paper: list[Kind]) -> None:
        config = kind(paper, "coco_pointrend_x101_3x").first
        small = shrunk(config)
        assert small.schedule.batch_size == 2
        assert max(small.model.train_min_sizes) < 100
        kept = ("name", "norm", "pretrained_backbone")
        assert [getattr(small.model, key) for key in kept] == [getattr(config.model, key) for key in kept]
        assert (small.sampling, small.point_head) == (config.sampling, config.point_head)
        assert small.fine_tune, "stem and res2 are frozen, without a download"
        assert starts_at_random(small)

    def test_crops_keep_their_shape(self, paper: list[Kind]) -> None:
        assert shrunk(kind(paper, "cityscapes_semantic_fpn_r101").first).model.crop_size == [64, 128]
        deeplab = shrunk(kind(paper, "cityscapes_deeplabv3_r103").first)
        assert deeplab.model.crop_size == [64, 64]
        assert deeplab.model.norm == "group"


@pytest.fixture
def task(paper: list[Kind], tmp_path: Path) -> CheckTask:
    found = kind(paper, "coco_pointrend_r50")
    return CheckTask(
        name=found.first.run,
        key="0",
        config=found.first,
        start=None,
        settings=found.settings,
        cluster=ClusterConfig(workers=4, images_per_worker=2),
        prepared="p",
        images="i",
        weights=None,
        folder=str(tmp_path),
    )


class TestRemedies:
    def test_parameters_without_gradient_are_named(self, task: CheckTask) -> None:
        message = (
            "Expected to have finished reduction in the prior iteration before starting a new one. This error ...\n"
            "Parameters which did not receive grad for rank 1: backbone.fpn.bias, backbone.fpn.weight\n"
            "Parameter indices which did not receive grad for rank 1: 17 18"
        )
        text = explain(Failure(kind="RuntimeError", message=message, fixable=False), task, "eight_gpus")
        assert "(backbone.fpn.bias, backbone.fpn.weight)" in text
        assert "freeze" in text

    def test_memory(self, task: CheckTask) -> None:
        failure = Failure(kind="OutOfMemoryError", message="CUDA out of memory. Tried ...", fixable=False)
        assert "with 2 images in a pass; set images_per_worker: 1 in configs/clusters/eight_gpus.yaml" in explain(
            failure, task, "eight_gpus"
        )
        single = task.model_copy(update={"cluster": ClusterConfig(workers=4, images_per_worker=1)})
        assert "images_per_worker" not in explain(failure, single, "eight_gpus")

    def test_messages_that_say_what_to_do_are_kept(self, task: CheckTask) -> None:
        assert explain(Failure(kind="UserError", message="do this", fixable=True), task, "one_gpu") == "do this"
        other = Failure(kind="KeyError", message="'p9'\nmore", fixable=False)
        assert explain(other, task, "one_gpu") == "KeyError: 'p9'"
        placed = other.model_copy(update={"where": "heads.py:7"})
        assert explain(placed, task, "one_gpu") == "KeyError: 'p9' (heads.py:7)"

    def test_a_worker_that_lost_the_others_is_not_the_reason(self, tmp_path: Path) -> None:
        assert read_failure(tmp_path) is None
        for rank, message in enumerate(["Connection closed by peer", "the reason"]):
            failure = Failure(kind="RuntimeError", message=message, fixable=False)
            write_json(tmp_path / f"failed-{rank}.json", failure.model_dump())
        assert read_failure(tmp_path).message == "the reason"
