"""Files that are based on others."""

import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from pipeline.config.experiments import ExperimentConfig, load_experiment
from pipeline.config.models import load_model
from pipeline.config.project import Project
from pipeline.config.reader import ConfigError
from pipeline.config.schedules import load_schedule

ROOT = """\
description: the base
dataset: shapes
model: pointrend_tiny_shapes
schedule: demo
seeds: [0, 1]
sampling: {strategy: biased, num_points: 196, oversample_ratio: 3.0, importance_sample_ratio: 0.75}
point_head: {layers: 5}
evaluations:
  28x28: {resolution: 28, num_points: 784}
  56x56: {resolution: 56, num_points: 784}
"""

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes ``<scale>/<name>.yaml`` beside the base, and returns its path."""

    def write(name: str, text: str, scale: str = "mine") -> Path:
        path = tmp_path / scale / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    write("root", ROOT)
    return write


def changed(path: Path, write: Write) -> dict[str, object]:
    """The keys in which an experiment differs from the base."""
    base, own = load_experiment(write("root", ROOT)).model_dump(), load_experiment(path).model_dump()
    return {key: own[key] for key in base if own[key] != base[key]}


def test_a_file_has_all_of_its_base(write: Write) -> None:
    assert changed(write("own", "base: root\n"), write) == {}


def test_values_and_lists_replace_those_of_the_base(write: Write) -> None:
    path = write("own", "base: root\ndescription: mine\nseeds: [7]\n")
    assert changed(path, write) == {"description": "mine", "seeds": [7]}


def test_mappings_are_merged(write: Write) -> None:
    path = write("own", "base: root\nsampling: {oversample_ratio: 5.0}\n")
    sampling = {"strategy": "biased", "num_points": 196, "oversample_ratio": 5.0, "importance_sample_ratio": 0.75}
    assert changed(path, write) == {"sampling": sampling}


def test_evaluations_are_replaced(write: Write) -> None:
    path = write("own", "base: root\nevaluations:\n  7x7: {resolution: 7, num_points: 49}\n")
    assert list(load_experiment(path).evaluations) == ["7x7"]


def test_null_takes_away_what_may_be_missing(write: Write) -> None:
    assert changed(write("own", "base: root\npoint_head: null\n"), write) == {"point_head": None}
    with pytest.raises(ConfigError, match=r"own\.yaml:\n  seeds: Input should be a valid list"):
        load_experiment(write("own", "base: root\nseeds: null\n"))


def test_bases_have_bases(write: Write) -> None:
    write("middle", "base: root\nseeds: [3]\nschedule: coco_1x\n")
    path = write("own", "base: middle\nseeds: [4]\n")
    assert changed(path, write) == {"seeds": [4], "schedule": "coco_1x"}


def test_a_base_in_another_folder(write: Write) -> None:
    write("named", "base: root\nseeds: [5]\n")
    assert load_experiment(write("own", "base: mine/named\n", "other")).seeds == [5]


@pytest.mark.parametrize("chain", [["own"], ["a", "own"], ["a", "b", "a"]])
def test_a_cycle_is_an_error_that_shows_it(write: Write, chain: list[str]) -> None:
    path = write("own", f"base: {chain[0]}\n")
    for name, base in pairwise(chain):
        write(name, f"base: {base}\n")
    with pytest.raises(ConfigError, match=rf"own\.yaml:\n  base: .*own\.yaml -> .*{chain[-1]}\.yaml$"):
        load_experiment(path)


@pytest.mark.parametrize(
    ("base", "said"),
    [
        ("rot", r"no such file: .*mine/rot\.yaml; .*mine has own, root"),
        ("theirs/root", r"no such file: .*theirs/root\.yaml"),
        ("../mine/root", r"expected the name of a file, .*\(got '\.\./mine/root'\)"),
        ("/etc/passwd", "expected the name of a file"),
        ("root.yaml", "expected the name of a file"),
        ("[root]", "expected the name of a file"),
        ("3", "expected the name of a file"),
    ],
)
def test_a_base_that_does_not_exist(write: Write, base: str, said: str) -> None:
    with pytest.raises(ConfigError, match=rf"own\.yaml:\n  base: {said}"):
        load_experiment(write("own", f"base: {base}\n"))


def test_an_error_names_the_file_in_which_the_key_stands(write: Write) -> None:
    base = write("root", ROOT.replace("num_points: 196", "num_pionts: 196"))
    own = write("own", "base: root\nseeds: [-1]\nschedule: 3\n")
    with pytest.raises(ConfigError) as caught:
        load_experiment(own)
    mine, _, of_base = str(caught.value).partition(f"{base}, a base of {own}:\n")
    assert [line.split(":")[0].strip() for line in mine.splitlines()[1:]] == ["schedule", "seeds.0"]
    assert "sampling.num_pionts: unknown key" in of_base
    assert "sampling.num_points: missing" in of_base
    with pytest.raises(ConfigError, match=r"own\.yaml:\n  dataset: missing$"):
        load_experiment(write("own", ROOT.replace("dataset: shapes\n", "")))


def test_a_value_that_does_not_go_with_the_base_is_of_the_file_that_has_it(write: Write) -> None:
    write("root", ROOT.replace("num_points: 196", "num_points: 200"))
    path = write("own", "base: root\nsampling: {strategy: grid}\n")
    with pytest.raises(ConfigError, match=rf"^{re.escape(str(path))}:\n  sampling: num_points is 200"):
        load_experiment(path)


def test_a_base_without_keys(write: Write) -> None:
    write("empty", "# nothing\n")
    with pytest.raises(ConfigError, match=r"own\.yaml: the file and its base must have keys"):
        load_experiment(write("own", "base: empty\n"))


def test_models_and_schedules_have_bases(repository: Path) -> None:
    project = Project(repository)
    for name, read in (("models/pointrend_r101_coco", load_model), ("schedules/coco_3x", load_schedule)):
        path = repository / "configs" / f"{name}.yaml"
        assert "base: " in path.read_text()
        read(path)
    model, base = project.model("pointrend_r101_coco"), project.model("mask_rcnn_r50_coco")
    assert model.model_dump(exclude={"name"}) == base.model_dump(exclude={"name"})
    assert project.schedule("coco_3x").batch_size == project.schedule("coco_1x").batch_size


def test_base_is_no_setting(write: Write) -> None:
    assert "base" not in ExperimentConfig.model_fields
    assert "base" not in load_experiment(write("own", "base: root\n")).model_dump()
