"""Fixtures of all tests."""

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mini_project import FirstRepro, MiniProject, make_project

import pipeline  # noqa: F401 - before Ray, which reads its settings when it is imported


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> MiniProject:
    """A miniature project in which nothing has run; the tests of a module share it."""
    return make_project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="session")
def first_repro(tmp_path_factory: pytest.TempPathFactory) -> FirstRepro:
    """One for all tests, and for all processes that run tests side by side: whoever needs it first makes it."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    root, record = shared / "base_project", shared / "base_project.json"
    with (shared / "base_project.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not record.exists():
            root.mkdir()  # it is there already where another process has failed to run it
            record.write_text(json.dumps(make_project(root).repro()))
    return FirstRepro(MiniProject(root), json.loads(record.read_text()))


@pytest.fixture(scope="session")
def base_project(first_repro: FirstRepro) -> MiniProject:
    """A miniature project in which `dvc repro` has run. Tests read it; what changes it takes a copy."""
    return first_repro.project


RAY = """
import sys
from pipeline.cluster.connection import local_ray
with local_ray(2) as addresses:
    print(addresses.dashboard, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="session")
def ray_address() -> Iterator[str]:
    """The address of a Ray that is there for the jobs of several projects: it takes seconds to start."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    with subprocess.Popen(
        [sys.executable, "-c", RAY],
        cwd=Path(__file__).parents[1],
        env={**environment, "RAY_USAGE_STATS_ENABLED": "0"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        yield next(line.strip() for line in lines if line.startswith("http://"))
        # Its standard input is closed at the end of the block, and with that it stops.


@pytest.fixture
def project_copy(base_project: MiniProject, tmp_path: Path) -> MiniProject:
    """A copy of the base project for one test."""
    return base_project.copy(tmp_path / "project")


@pytest.fixture
def project_copy_on_ray(project_copy: MiniProject, ray_address: str) -> MiniProject:
    """A copy of the base project for one test, whose jobs run on a Ray that has been started before."""
    variables = {"RAY_ADDRESS": ray_address, "RAY_AUTH_MODE": "token", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    return replace(project_copy, variables=variables)


WHOLE_PROJECTS = {"project", "base_project"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that run whole projects come first: they take longest, and other files run beside them.

    Tests marked ``gpu`` are skipped without a CUDA device.
    """
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
    items.sort(key=lambda item: WHOLE_PROJECTS.isdisjoint(getattr(item, "fixturenames", ())))
