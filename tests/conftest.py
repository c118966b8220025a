"""Fixtures of all tests."""

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from mini_project import FirstRepro, MiniProject, make_project, wait_for

import pipeline  # noqa: F401 - before Ray, which reads its settings when it is imported


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> MiniProject:
    """A miniature project in which nothing has run; the tests of a module share it."""
    return make_project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes share that run tests side by side."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session")
def first_repro(shared_folder: Path) -> FirstRepro:
    """One for all tests, and for all processes that run tests side by side: whoever needs it first makes it."""
    root, record = shared_folder / "base_project", shared_folder / "base_project.json"
    with (shared_folder / "base_project.lock").open("w") as lock:
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
import fcntl, sys
from pathlib import Path
from pipeline.cluster.connection import local_ray
from pipeline.files import write_json
with local_ray(4) as addresses, open(sys.argv[1]) as users:
    write_json(Path(sys.argv[2]), addresses.head)
    fcntl.flock(users, fcntl.LOCK_EX)  # when no process that runs tests holds it any more
"""


@pytest.fixture(scope="session")
def ray_address(shared_folder: Path) -> Iterator[str]:
    """The address of a Ray for the jobs of several projects. All processes that run tests side by side use it."""
    users, record = shared_folder / "ray.users", shared_folder / "ray.json"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    with (shared_folder / "ray.lock").open("w") as lock, users.open("a") as own:
        fcntl.flock(lock, fcntl.LOCK_EX)
        fcntl.flock(own, fcntl.LOCK_SH)
        if not record.exists():
            # No child of this process: a test that ends a Ray of its own also ends what else was started meanwhile.
            subprocess.run(
                ["sh", "-c", '"$@" >/dev/null 2>&1 </dev/null &', "sh", sys.executable, "-c", RAY, users, record],
                cwd=Path(__file__).parents[1],
                env={**environment, "RAY_USAGE_STATS_ENABLED": "0"},
                check=True,
            )
            wait_for(record.exists, "a Ray")
        fcntl.flock(lock, fcntl.LOCK_UN)
        yield json.loads(record.read_text())


@pytest.fixture
def project_copy(base_project: MiniProject, tmp_path: Path) -> MiniProject:
    """A copy of the base project for one test."""
    return base_project.copy(tmp_path / "project")


@pytest.fixture
def project_copy_on_ray(project_copy: MiniProject, ray_address: str) -> MiniProject:
    """A copy of the base project for one test, whose jobs run on a Ray that has been started before."""
    return project_copy.on_ray(ray_address)


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
