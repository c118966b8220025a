"""Adds to the wheel what a project has beside its packages, for `pointrend init`. All else is in pyproject.toml."""

import runpy
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

FILES = runpy.run_path("pipeline/project_files.py")


class BuildWithProjectFiles(build_py):
    """Copies the project's files, of which the repository has one copy at its root, into the package."""

    def run(self) -> None:
        if self.editable_mode:  # then `pointrend init` copies the checkout's
            super().run()
            return
        # A wheel gets all that is in this folder, also what an earlier build left there.
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()
        for path in FILES["project_files"](Path()):
            target = Path(self.build_lib) / FILES["INSTALLED"] / path
            self.mkpath(str(target.parent))
            self.copy_file(str(path), str(target))

    def get_source_files(self) -> list[str]:
        """What an sdist has."""
        return [*super().get_source_files(), *map(str, FILES["project_files"](Path()))]


setup(cmdclass={"build_py": BuildWithProjectFiles})
