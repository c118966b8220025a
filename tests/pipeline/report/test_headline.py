"""The page's first numbers."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.config.figures import HeadlineConfig
from pipeline.config.project import Project
from pipeline.config.reader import ConfigError
from pipeline.report.headline import headline_of
from pipeline.report.results import RunResult
from pipeline.report.tables.table import build_table

CONFIG = HeadlineConfig(table="table1", columns=["coco_ap", "coco_ap_star"], pictured=[0, 2], objects=5)


def test_its_numbers_are_those_of_the_table(repository: Path, made_up: Callable[..., RunResult]) -> None:
    runs = [
        made_up("coco_4xconv_r50", 0, {"28x28": {"AP": 30.0}}),
        made_up("coco_pointrend_r50", 0, {"28x28": {"AP": 36.0}, "224x224": {"AP": 40.0}}),
    ]
    found = headline_of(CONFIG, [build_table("table1", Project(repository).table("table1"), runs)])
    assert found is not None
    ap, ap_star = found.cards
    assert ap.label == "COCO AP"
    assert [(line.label, line.value.ours, line.value.gain, line.percent) for line in ap.lines] == [
        ("4×conv 28×28", 30.0, None, 75.0),
        ("PointRend 28×28", 36.0, 6.0, 90.0),
        ("PointRend 224×224", 40.0, 10.0, 100.0),
    ]
    assert [(line.value.ours, line.percent) for line in ap_star.lines] == [(None, 0.0)] * 3
    assert found.missing == ["AP_star was not measured"]


def test_without_its_table_there_is_none() -> None:
    assert headline_of(CONFIG, []) is None


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"columns": ["nothing"]}, "columns: table1 has no column 'nothing'; it has coco_ap, "),
        ({"pictured": [0, 3]}, "pictured: table1 has no row 3; its rows are 0 to 2"),
    ],
)
def test_what_the_table_lacks_is_an_error(repository: Path, change: dict[str, object], problem: str) -> None:
    found = CONFIG.model_copy(update=change).problem(Project(repository).table("table1"))
    assert found is not None
    assert found.startswith(problem)


def test_the_configuration_is_checked(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "configs" / "tables").mkdir(parents=True)
    (tmp_path / "configs" / "tables" / "table1.yaml").symlink_to(repository / "configs" / "tables" / "table1.yaml")
    text = (repository / "configs" / "figures.yaml").read_text()
    (tmp_path / "configs" / "figures.yaml").write_text(text.replace("pictured: [0, 2]", "pictured: [0, 9]"))
    with pytest.raises(ConfigError, match=r"figures\.yaml:\n  headline\.pictured: table1 has no row 9"):
        Project(tmp_path).figures()
