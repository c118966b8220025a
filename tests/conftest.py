"""Fixtures of all tests."""

import pytest
import torch
from mini_project import MiniProject, make_project

import pipeline  # noqa: F401 - before Ray, which reads its settings when it is imported


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> MiniProject:
    """A miniature project; the tests of a module share it."""
    return make_project(tmp_path_factory.mktemp("project"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that run whole projects come first: they take longest, and other files run beside them.

    Tests marked ``gpu`` are skipped without a CUDA device.
    """
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
    items.sort(key=lambda item: "project" not in getattr(item, "fixturenames", ()))
