"""Only the training of a run that validates depends on the code that evaluates."""

from pathlib import Path

import pytest
import yaml
from mini_project import make_project

import stages.configure
from pipeline.cluster.lookup import training_of
from pipeline.config.project import Project
from pipeline.config.reader import ConfigError
from pipeline.stage import Stage

VALIDATED, PLAIN = "coco_pointrend_r50-0", "coco_4xconv_r50-0"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project, which is the working directory; one of its two runs validates."""
    make_project(tmp_path)
    (tmp_path / "configs/schedules/validated.yaml").write_text("base: demo\nvalidate_every: 2\n")
    file = tmp_path / "configs/experiments/demo/coco_pointrend_r50.yaml"
    assert "schedule: demo" in file.read_text()
    file.write_text(file.read_text().replace("schedule: demo", "schedule: validated"))
    prepared = tmp_path / "outputs/demo/data/shapes"
    prepared.mkdir(parents=True)
    for name in ("dataset.json", "train.parquet", "val.parquet"):
        (prepared / name).write_text(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def configured() -> dict[str, tuple[bytes, str]]:
    """What DVC compares of each run's training, and the training's key."""
    stages.configure.main()
    stage = Stage()
    return {
        name: (stage.outputs.config("train", name).read_bytes(), training_of(stage, name).key)
        for name in (VALIDATED, PLAIN)
    }


def changed(before: dict[str, tuple[bytes, str]]) -> set[str]:
    """The runs whose training is another one now, to DVC and by its key."""
    after = configured()
    to_dvc, by_key = ({name for name in after if after[name][part] != before[name][part]} for part in (0, 1))
    assert to_dvc == by_key
    return by_key


@pytest.mark.parametrize(
    "file", ["pipeline/metrics/coco_ap.py", "pipeline/evaluation/validation.py", "pointrend/instance_inference.py"]
)
def test_an_edit_of_what_evaluates(root: Path, file: str) -> None:
    before, code = configured(), (root / "outputs/demo/config/code/train-instance.json").read_bytes()
    with (root / file).open("a") as stream:
        stream.write("\n# a remark\n")
    assert changed(before) == set()
    with (root / file).open("a") as stream:
        stream.write("\nANOTHER_CONSTANT = 1\n")
    assert changed(before) == {VALIDATED}
    assert (root / "outputs/demo/config/code/train-instance.json").read_bytes() == code


def test_only_the_setting_to_validate_under_matters(root: Path) -> None:
    before = configured()
    file = root / "configs/experiments/demo/coco_pointrend_r50.yaml"
    evaluations = yaml.safe_load(file.read_text())["evaluations"]
    assert list(evaluations) == ["28x28", "224x224"]

    def write() -> None:
        content = yaml.safe_load(file.read_text()) | {"evaluations": evaluations}
        file.write_text(yaml.safe_dump(content, sort_keys=False))

    evaluations["28x28"]["num_points"] = 100
    evaluations["224x224"]["resamples"] = 7
    write()
    assert changed(before) == set()
    evaluations["224x224"]["num_points"] = 100
    write()
    assert changed(before) == {VALIDATED}


def test_there_must_be_a_setting(root: Path) -> None:
    file = root / "configs/experiments/demo/coco_pointrend_r50.yaml"
    text = file.read_text()
    file.write_text(text[: text.index("evaluations:")] + "evaluations: {}\n")
    with pytest.raises(ConfigError, match="evaluations: empty, but schedule 'validated' validates under the last one"):
        Project(root).experiment("demo", "coco_pointrend_r50")
