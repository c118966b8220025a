"""What `--without` leaves out of a selection."""

from pathlib import Path

import pytest
from made_up_configs import linked_project

from pipeline.config.batch_norm import check_batch_norm
from pipeline.config.exclusions import ExclusionError, _matched, exclude, patterns_of, select_command
from pipeline.config.params import Params
from pipeline.config.project import Project
from pipeline.config.reader import ConfigError
from pipeline.config.selection import Selection


@pytest.fixture(scope="module")
def paper(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Selection]:
    project = linked_project(tmp_path_factory.mktemp("paper"))
    return project, project.select("paper", "data")


def test_no_pattern_leaves_everything(paper: tuple[Project, Selection]) -> None:
    assert exclude(*paper, []) == paper[1]


def test_runs_sweeps_and_the_datasets_that_only_they_use(paper: tuple[Project, Selection]) -> None:
    left = exclude(*paper, ["*semantic_fpn*", "*deeplabv3*", "subdivision"])
    kept = {name for name in paper[1].experiments if "semantic_fpn" not in name and "deeplabv3" not in name}
    assert set(left.experiments) == kept
    assert set(paper[1].experiments) - kept | {"subdivision"} == set(left.excluded)
    assert left.sweeps.keys() == paper[1].sweeps.keys() - {"subdivision"}
    assert paper[1].datasets.keys() - left.datasets.keys() == {"cityscapes_semantic"}
    # What is left out stays known, and may be named again.
    again = exclude(paper[0], left, ["subdivision", "coco_pointrend_x101_3x"])
    assert again.excluded == sorted([*left.excluded, "coco_pointrend_x101_3x"])


def test_drawn_datasets_that_nothing_uses_are_not_drawn(repository: Path) -> None:
    project = Project(repository)
    left = exclude(project, project.select("demo", "data"), ["cityscapes_*"])
    assert (left.synthetic, list(left.datasets)) == (["shapes"], ["shapes"])


@pytest.mark.parametrize(
    ("pattern", "near"),
    [
        ("*deplabv3*", "cityscapes_deeplabv3_r103"),
        ("coco_pointrend_r5", "coco_pointrend_r50"),
        ("coco_pointrend_r50-0", "coco_pointrend_r50"),
        ("subdivison", "subdivision"),
        ("Coco_4xconv_r50", "coco_4xconv_r50"),
    ],
)
def test_a_pattern_that_matches_nothing(paper: tuple[Project, Selection], pattern: str, near: str) -> None:
    with pytest.raises(ExclusionError) as raised:
        exclude(*paper, ["*p3*", pattern])
    message = str(raised.value)
    assert message.startswith(f"--without {pattern}: matches no experiment or sweep")
    assert near in message.partition("near it: ")[2].split(", ")


def test_a_pattern_like_nothing(paper: tuple[Project, Selection]) -> None:
    with pytest.raises(ExclusionError, match=r"there are cityscapes_4xconv_r50, .* and 34 more"):
        exclude(*paper, ["zzz"])


def test_nothing_is_left(paper: tuple[Project, Selection]) -> None:
    with pytest.raises(ExclusionError, match=r"--without '\*' leaves no experiment to run"):
        exclude(*paper, ["*"])


def test_sweeps_that_start_from_what_is_left_out(paper: tuple[Project, Selection]) -> None:
    with pytest.raises(ExclusionError) as raised:
        exclude(*paper, ["coco_pointrend_r50"])
    message = str(raised.value)
    assert "leaves out coco_pointrend_r50, but sweep point_head and 2 more would start from its run" in message
    for name in ("point_head", "subdivision", "training_points"):
        assert f"--without {name}" in message
    left = exclude(*paper, ["coco_pointrend_r50", "point_head", "subdivision", "training_points"])
    # This one varies the experiment's settings, but starts from ImageNet's weights.
    assert list(left.sweeps) == ["oversampling_importance"]


def test_experiments_that_start_from_what_is_left_out(chain: Project) -> None:
    selection = chain.select("demo", "data")
    with pytest.raises(
        ExclusionError, match=r"leaves out streets_segmenter, but experiment cityscapes_\w+ and \d more"
    ):
        exclude(chain, selection, ["streets_segmenter"])
    # One pattern may match both.
    assert "streets_segmenter" in exclude(chain, selection, ["*segmenter", "*deeplabv3*", "*semantic_fpn*"]).excluded


@pytest.mark.parametrize(
    ("chosen", "patterns"),
    [
        ({"a_deeplabv3_r103", "a_deeplabv3_pointrend_r103"}, ["*deeplabv3*"]),
        ({"a_deeplabv3_r103"}, ["a_deeplabv3_r103"]),
        ({"a_fpn_r50", "a_fpn_r101"}, ["*a_fpn*"]),
        ({"a_fpn_r50", "b_fpn_r50"}, ["*r50*"]),
        ({"a_fpn_r50", "b_fpn_r101"}, ["a_fpn_r50", "b_fpn_r101"]),
    ],
)
def test_the_shortest_patterns(chosen: set[str], patterns: list[str]) -> None:
    names = ["a_deeplabv3_r103", "a_deeplabv3_pointrend_r103", "a_fpn_r50", "a_fpn_r101", "b_fpn_r50", "b_fpn_r101"]
    assert patterns_of(chosen, names) == patterns


def test_a_refused_cluster_names_the_command_that_selects_the_rest(paper: tuple[Project, Selection]) -> None:
    project, selection = paper
    with pytest.raises(ConfigError) as raised:
        check_batch_norm(project, "paper", selection, "one_gpu")
    assert str(raised.value).splitlines()[-1].strip() == (
        "pointrend select paper --cluster one_gpu --without '*deeplabv3*'"
    )
    check_batch_norm(project, "paper", exclude(project, selection, ["*deeplabv3*"]), "one_gpu")
    only = exclude(project, selection, ["coco_*", "*r50*", "*semantic_fpn*", *selection.sweeps])
    with pytest.raises(ConfigError) as raised:
        check_batch_norm(project, "paper", only, "one_gpu")
    assert "--without" not in str(raised.value)  # nothing would be left


def test_the_command_repeats_what_was_given() -> None:
    params = Params(scale="paper", data_root="s3://my bucket", cluster="one_gpu")
    assert select_command(params, ["*r101*"], 2) == (
        "pointrend select paper --cluster one_gpu --data-root 's3://my bucket' --seeds 2 --without '*r101*'"
    )


@pytest.mark.parametrize(
    ("names", "said"),
    [(["a", "b"], "there are a, b"), (["a", "b", "c"], "a, b, c"), (["a", "b", "c", "d"], "c and 1 more")],
)
def test_what_there_is_is_counted(names: list[str], said: str) -> None:
    with pytest.raises(ExclusionError) as caught:
        _matched(["nothing*"], names)
    assert str(caught.value).endswith(said)
