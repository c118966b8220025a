"""Fixtures of all tests."""

import pytest
from mini_project import MiniProject, make_project


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> MiniProject:
    """A miniature project; the tests of a module share it."""
    return make_project(tmp_path_factory.mktemp("project"))
