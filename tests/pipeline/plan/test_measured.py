"""The plan before and after `pointrend check` has measured trainings."""

import io
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
    return copied_project(tmp_path)


def measurement(project: Project, cluster: str, **changes: object) -> Measurement:
    runs = project.select("paper", "data").runs
    config, _ = project.run("paper", f"{EXPERIMENT}-0", runs[f"{EXPERIMENT}-0"])
    values = {
        "kind": kind_of(config),
        "code": digest(code_of(project.root, "train", "instance")),
        "cluster": cluster,
        "speed": speed_of(project.cluster(cluster)),
        "place": measured.place(),
        "device": "NVIDIA H100",
        "workers": 8,
        "seconds_per_update": 0.2,
        "memory": 10**9,
        "date": "2026-01-02",
    }
    return Measurement.model_validate(values | changes)


def planned(project: Project, cluster: str = "eight_gpus") -> tuple[Plan, dict[str, PlannedRun], str]:
    found = make_plan(project, "paper", cluster, 1)
    console = Console(width=160, record=True, file=io.StringIO())
    show(found, console)
    return found, {run.run: run for run in found.runs}, console.export_text()


def test_before_and_after(project: Project) -> None:
    _, before, text = planned(project)
    assert "GPU-hours are estimates for one NVIDIA V100" in text
    assert all(run.measured is None for run in before.values())
    keep_measurements(project.root, [measurement(project, "eight_gpus")])
    plan, after, text = planned(project)
    assert "Hours of 6 runs: measured on 8 × NVIDIA H100 (eight_gpus) on 2026-01-02." in text
    assert "All other hours are estimates for one NVIDIA V100" in text
    for name, updates in ((EXPERIMENT, 90_000), (f"{EXPERIMENT}_3x", 270_000)):
        for seed in range(3):
            run = after[f"{name}-{seed}"]
            assert run.hours == pytest.approx(updates * 0.2 / 3600)
            assert run.gpu_hours == pytest.approx(8 * run.hours)
    assert plan.unused_measurements == []
    others = [name for name in before if not name.startswith((f"{EXPERIMENT}-", f"{EXPERIMENT}_3x-"))]
    assert [after[name] for name in others] == [before[name] for name in others]


def test_hours_of_a_cluster_without_gpus_are_known_once_measured(project: Project) -> None:
    found, _, text = planned(project, "laptop")
    assert found.training_hours is None
    keep_measurements(project.root, [measurement(project, "laptop", device="1 CPU thread", workers=1)])
    found, runs, text = planned(project, "laptop")
    assert runs[f"{EXPERIMENT}-0"].hours == pytest.approx(5.0)
    assert found.training_hours is not None
    assert "time: trainings at least" in text


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"place": "http://elsewhere:8265"}, "jobs ran at http://elsewhere:8265 then"),
        ({"code": "0"}, "the code of the trainings has changed since"),
        ({"speed": "0"}, "configs/clusters/eight_gpus.yaml has changed since"),
    ],
)
def test_figures_that_no_longer_hold_are_not_used_and_the_plan_says_so(
    project: Project, changes: dict, reason: str
) -> None:
    _, before, _ = planned(project)
    keep_measurements(project.root, [measurement(project, "eight_gpus", **changes)])
    found, after, text = planned(project)
    assert after == before
    (line,) = found.unused_measurements
    assert reason in line
    assert line in text.replace("\n", "") or line in text
    assert "NVIDIA H100 (eight_gpus) on 2026-01-02" in line


def test_another_cluster_has_its_own(project: Project) -> None:
    keep_measurements(project.root, [measurement(project, "eight_gpus")])
    found, _, _ = planned(project, "nodes_of_8_gpus")
    assert (found.measured, found.unused_measurements) == ({}, [])


def test_a_new_measurement_replaces_the_old_one(project: Project) -> None:
    first, other = measurement(project, "eight_gpus"), measurement(project, "one_gpu")
    keep_measurements(project.root, [first, other])
    second = measurement(project, "eight_gpus", seconds_per_update=0.4, date="2026-02-03")
    keep_measurements(project.root, [second])
    assert measured.read_measurements(project.root) == [other, second]
    assert measured_file(project.root).parent == project.root / ".pointrend" / "check"
