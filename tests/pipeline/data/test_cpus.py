import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.data.cpus import usable_cpus


@pytest.fixture(autouse=True)
def eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    if hasattr(os, "process_cpu_count"):
        monkeypatch.setattr(os, "process_cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))


def cpus(folder: Path, mine: str, **limits: str) -> int:
    """What is usable for a process of the control groups ``mine``, of which those have ``limits``: files by path."""
    for name, content in limits.items():
        file = folder / "cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    (folder / "mine").write_text(mine)
    return usable_cpus(folder / "cgroup", folder / "mine")


def test_without_control_groups_all_that_the_process_may_run_on(tmp_path: Path) -> None:
    assert usable_cpus(tmp_path, tmp_path / "none") == 8


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("max 100000", 8), ("100000 100000", 1), ("250000 100000", 3), ("10000 100000", 1), ("6400000 100000", 8)],
)
def test_version_2(tmp_path: Path, limit: str, expected: int) -> None:
    assert cpus(tmp_path, "0::/jobs/mine\n", **{"jobs/mine/cpu.max": f"{limit}\n"}) == expected


def test_a_limit_of_a_group_above_holds_too(tmp_path: Path) -> None:
    limits = {"jobs/mine/cpu.max": "400000 100000\n", "jobs/cpu.max": "200000 100000\n", "cpu.max": "max 100000\n"}
    assert cpus(tmp_path, "0::/jobs/mine\n", **limits) == 2


@pytest.mark.parametrize(("quota", "expected"), [("-1", 8), ("150000", 2)])
@pytest.mark.parametrize("where", ["cpu", "cpu/docker/0123"])
def test_version_1(tmp_path: Path, quota: str, expected: int, where: str) -> None:
    # In a container only its own group is to be seen, as the root, though it has a longer name outside.
    mine = "12:memory:/docker/0123\n4:cpu,cpuacct:/docker/0123\n0::/\n"
    limits = {f"{where}/cpu.cfs_quota_us": f"{quota}\n", f"{where}/cpu.cfs_period_us": "100000\n"}
    assert cpus(tmp_path, mine, **limits) == expected


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs sched_setaffinity")
def test_one_cpu_granted_of_many() -> None:
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
        "from pipeline.data.cpus import usable_cpus; print(usable_cpus())"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "1\n"
