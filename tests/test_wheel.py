"""The wheel, as a user gets it: built from the sdist, and used outside the repository."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.code import KINDS, code_of
from pipeline.project_files import INSTALLED, project_files
from pointrend import __version__

REPOSITORY = Path(__file__).parents[1]
PACKAGES = ("pointrend", "pipeline", "stages")


def build(source: Path, kind: str, target: Path) -> Path:
    """Runs the installed setuptools as pip does, which needs no network."""
    call = f"from setuptools import build_meta; build_meta.build_{kind}({str(target)!r})"
    done = subprocess.run([sys.executable, "-c", call], cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = target.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return built


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's content, as in site-packages."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in PACKAGES:
        shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (*project_files(REPOSITORY), *map(Path, ("LICENSE", "README.md", "pyproject.toml", "setup.py"))):
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(REPOSITORY / path, source / path)
    sdist = build(source, "sdist", folder)
    safely: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # of Python 3.11.4
    shutil.unpack_archive(sdist, folder / "unpacked", **safely)
    (unpacked,) = (folder / "unpacked").iterdir()
    stale = unpacked / "build/lib/pointrend/removed_since.py"
    stale.parent.mkdir(parents=True)
    stale.touch()
    wheel = build(unpacked, "wheel", folder)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "installed")
    return folder / "installed"


def test_it_has_the_packages_and_what_they_read(installed: Path) -> None:
    def files(folder: Path) -> set[str]:
        found = {path.relative_to(folder) for name in PACKAGES for path in (folder / name).rglob("*")}
        return {
            path.as_posix()
            for path in found
            if (folder / path).is_file() and "__pycache__" not in path.parts and not path.is_relative_to(INSTALLED)
        }

    # The shell script is a project's own file.
    assert files(REPOSITORY) ^ files(installed) == {"stages/run"}
    assert sorted(path.name for path in installed.iterdir()) == sorted(
        [*PACKAGES, f"pointrend-{__version__}.dist-info"]
    )


def test_it_has_the_project_s_files_unchanged(installed: Path) -> None:
    expected = {path: (REPOSITORY / path).read_bytes() for path in project_files(REPOSITORY)}
    folder = installed / INSTALLED
    assert {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()} == expected


def run(folder: Path, environment: dict[str, str], *command: str) -> str:
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def environment(installed: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(installed), "DO_NOT_TRACK": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}


@pytest.fixture(scope="module")
def project(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made by the wheel's own command."""
    folder = tmp_path_factory.mktemp("elsewhere")
    call = "from pointrend.cli import main; main()"
    assert "project: wrote .dvc, " in run(folder, environment, sys.executable, "-c", call, "init", "project")
    return folder / "project"


def test_a_project_of_the_wheel_is_the_demo(project: Path) -> None:
    for path in (*project_files(REPOSITORY), Path("params.yaml"), Path("selection.yaml")):
        assert (project / path).read_bytes() == (REPOSITORY / path).read_bytes(), path


def test_its_stages_run_the_installed_code_and_watch_it(
    project: Path, installed: Path, environment: dict[str, str]
) -> None:
    run(project, environment, "sh", "stages/run", "configure")
    folder = project / "outputs" / "demo" / "config" / "code"
    written = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
    # The same code as the repository's, so results of one are current in the other.
    assert written == {"-".join(kind): code_of(REPOSITORY, *kind) for kind in KINDS}
    loop = installed / "pipeline" / "training" / "loop.py"
    loop.write_text(loop.read_text() + "\nchanged = True\n")
    run(project, environment, "sh", "stages/run", "configure")
    changed = {kind for kind in written if json.loads((folder / f"{kind}.json").read_text()) != written[kind]}
    assert changed == {f"{kind}-{task}" for kind in ("train", "sweep") for task in ("instance", "semantic")}
