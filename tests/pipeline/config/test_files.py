"""The project's own files, and the files that stages read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_configs import CONFIGS

from pipeline.config.clusters import ClusterConfig
from pipeline.config.datasets import load_dataset
from pipeline.config.experiments import load_experiment
from pipeline.config.figures import FiguresConfig
from pipeline.config.findings import FindingsConfig
from pipeline.config.metrics import MetricsConfig
from pipeline.config.models import load_model
from pipeline.config.reader import load
from pipeline.config.scales import ScalesConfig
from pipeline.config.schedules import ScheduleConfig, load_schedule
from pipeline.config.sweeps import load_sweep
from pipeline.config.synthetic import SyntheticConfig
from pipeline.config.tables import TableConfig
from pipeline.config.tracking import TrackingConfig
from pipeline.plan.throughput import Throughput

SCHEMAS: dict[str, Callable[[Path], Any]] = {
    "clusters": lambda path: load(ClusterConfig, path),
    "datasets": load_dataset,
    "experiments": load_experiment,
    "figures.yaml": lambda path: load(FiguresConfig, path),
    "findings.yaml": lambda path: load(FindingsConfig, path),
    "metrics.yaml": lambda path: load(MetricsConfig, path),
    "models": load_model,
    "scales.yaml": lambda path: load(ScalesConfig, path),
    "sweeps": load_sweep,
    "schedules": load_schedule,
    "synthetic": lambda path: load(SyntheticConfig, path),
    "tables": lambda path: load(TableConfig, path),
    "tracking.yaml": lambda path: load(TrackingConfig, path),
    "throughput.yaml": lambda path: load(Throughput, path),
}


FILES = sorted(
    path.relative_to(CONFIGS)
    for path in CONFIGS.rglob("*")
    if path.is_file() and path.parent.name != "launch"  # those are for Ray and Kubernetes
)


@pytest.mark.parametrize("file", FILES, ids=str)
def test_every_file_of_the_project_is_valid(file: Path) -> None:
    assert file.suffix == ".yaml"
    SCHEMAS[file.parts[0]](CONFIGS / file)


def test_there_is_no_group_of_files_without_a_schema() -> None:
    assert {file.parts[0] for file in FILES} == set(SCHEMAS)


@settings(deadline=None)
@given(
    rate=st.floats(min_value=0, exclude_min=True, allow_infinity=False),
    decay=st.floats(min_value=0, allow_infinity=False),
)
def test_what_configure_writes_is_what_the_stages_load(
    tmp_path_factory: pytest.TempPathFactory, rate: float, decay: float
) -> None:
    schedule = ScheduleConfig.model_validate(
        {
            "batch_size": 1,
            "warmup": {"updates": 1, "learning_rate": rate},
            "phases": [{"updates": 1, "learning_rate": rate}],
            "weight_decay": decay,
        }
    )
    path = tmp_path_factory.getbasetemp() / "schedule.json"
    path.write_text(schedule.model_dump_json(indent=1))
    assert load(ScheduleConfig, path) == schedule
