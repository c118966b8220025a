"""The plan before and after `pointrend check` has measured trainings."""

import io
import shutil
from pathlib import Path

import pytest
from made_up_configs import copied_project
from rich.console import Console

from pipeline.config.code import code_of, digest
from pipeline.config.project import Project
from pipeline.plan import measured
from pipeline.plan.make import make_plan
from pipeline.plan.measured import Measurement, keep_measurements, kind_of, measured_file, speed_of
from pipeline.plan.plan import Plan, PlannedRun
from pipeline.plan.text import show

EXPERIMENT = "coco_pointrend_r50"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A demo of three experiments, two of which are one training."""
    project = copied_project(tmp_path)
    for path in (project.configs / "experiments" / "demo").iterdir():
        if path.stem not in (EXPERIMENT, f"{EXPERIMENT}_3x", "coco_4xconv_r50"):
            path.unlink()
    shutil.rmtree(project.configs / "sweeps" / "demo")
    return project


def measurement(project: Project, cluster: str, **changes: object) -> Measurement:
    runs = project.select("demo", "data").runs
    config, _ = project.run("demo", f"{EXPERIMENT}-0", runs[f"{EXPERIMENT}-0"])
    values = {
        "kind": kind_of(config),
        "code": digest(code_of(project.root, "train", "instance")),
        "cluster": cluster,
        "speed": speed_of(project.cluster(cluster)),
        "place": measured.place(),
        "device": "NVIDIA H100",
        "workers": 4,
        "seconds_per_update": 0.2,
        "memory": 10**9,
        "date": "2026-01-02",
    }
    return Measurement.model_validate(values | changes)


def planned(project: Project, cluster: str = "spot_gpus") -> tuple[Plan, dict[str, PlannedRun], str]:
    found = make_plan(project, "demo", cluster, 1)
    console = Console(width=160, record=True, file=io.StringIO())
    show(found, console)
    return found, {run.run: run for run in found.runs}, console.export_text()


def test_before_and_after(project: Project) -> None:
    _, before, text = planned(project)
    assert "GPU-hours are estimates for one NVIDIA V100" in text
    assert all(run.measured is None for run in before.values())
    keep_measurements(project.root, [measurement(project, "spot_gpus")])
    plan, after, text = planned(project)
    assert "Hours of 2 runs: measured on 4 × NVIDIA H100 (spot_gpus) on 2026-01-02." in text
    assert "All other hours are estimates for one NVIDIA V100" in text
    for name in (f"{EXPERIMENT}-0", f"{EXPERIMENT}_3x-0"):
        run = after[name]
        assert run.hours == pytest.approx(run.updates * 0.2 / 3600)
        assert run.gpu_hours == pytest.approx(4 * run.hours)
    assert after[f"{EXPERIMENT}-0"].updates != after[f"{EXPERIMENT}_3x-0"].updates
    assert plan.unused_measurements == []
    assert after["coco_4xconv_r50-0"] == before["coco_4xconv_r50-0"]


def test_hours_of_a_cluster_without_gpus_are_known_once_measured(project: Project) -> None:
    found, _, _ = planned(project, "laptop")
    assert found.training_hours is None
    keep_measurements(project.root, [measurement(project, "laptop", device="1 CPU thread", workers=1)])
    found, runs, text = planned(project, "laptop")
    run = runs[f"{EXPERIMENT}-0"]
    assert run.hours == pytest.approx(run.updates * 0.2 / 3600)
    assert found.training_hours is not None
    assert "time: trainings at least" in text


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"place": "http://elsewhere:8265"}, "jobs ran at http://elsewhere:8265 then"),
        ({"code": "0"}, "the code of the trainings has changed since"),
        ({"speed": "0"}, "configs/clusters/spot_gpus.yaml has changed since"),
    ],
)
def test_figures_that_no_longer_hold_are_not_used_and_the_plan_says_so(
    project: Project, changes: dict, reason: str
) -> None:
    _, before, _ = planned(project)
    keep_measurements(project.root, [measurement(project, "spot_gpus", **changes)])
    found, after, text = planned(project)
    assert after == before
    (line,) = found.unused_measurements
    assert reason in line
    assert line in text.replace("\n", "") or line in text
    assert "NVIDIA H100 (spot_gpus) on 2026-01-02" in line


def test_another_cluster_has_its_own(project: Project) -> None:
    keep_measurements(project.root, [measurement(project, "spot_gpus")])
    found, _, _ = planned(project, "one_gpu")
    assert (found.measured, found.unused_measurements) == ({}, [])


def test_a_new_measurement_replaces_the_old_one(project: Project) -> None:
    first, other = measurement(project, "spot_gpus"), measurement(project, "one_gpu")
    keep_measurements(project.root, [first, other])
    second = measurement(project, "spot_gpus", seconds_per_update=0.4, date="2026-02-03")
    keep_measurements(project.root, [second])
    assert measured.read_measurements(project.root) == [other, second]
    assert measured_file(project.root).parent == project.root / ".pointrend" / "check"
