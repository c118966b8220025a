"""The Makefile: what `make clean` removes, and that the others do with any folder name."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith(("GIT_", "MAKE"))]:
        monkeypatch.delenv(name)
    root = tmp_path / "my prøject"
    (root / "configs/experiments/demo").mkdir(parents=True)
    shutil.copy(REPOSITORY / "Makefile", root)
    for package in ("benchmarks", "pipeline", "pointrend", "stages", "tests"):
        (root / package).mkdir()
    return root


def write(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)


def make(root: Path, *arguments: str) -> str:
    result = subprocess.run(["make", *arguments], cwd=root, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_clean_removes_what_the_project_made_and_nothing_else(project: Path) -> None:
    kept = {
        "Makefile",
        ".dvc/config.local",
        "data/coco/train2017/1.jpg",
        "data/shapes/mine.png",
        "mine/__pycache__/mine.pyc",
        "outputs/demo/notes.txt",
        "outputs/mine/train/weights.bin",
        "reports/mine/index.html",
    }
    write(project, *(kept - {"Makefile"}))
    graph = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"].values()
    outputs = [
        output if isinstance(output, str) else next(iter(output))  # with options, a mapping of one key
        for stage in graph
        for kind in ("outs", "metrics", "plots")
        for output in stage.get("do", stage).get(kind, [])
    ]
    made = [re.sub(r"\$\{(item|key)\}", "one", output.replace("${scale}", "demo")) for output in outputs]
    assert "outputs/demo/drawn/one" in made
    write(project, *(f"{output}/file" for output in made))
    write(project, ".venv/bin/python", "mlflow.db", "mlartifacts/0/model", ".pointrend/ray/ray.log", "dvc.lock")
    write(project, "mlflow.db.lock", "dvc_plots/index.html", ".venv-docs/bin/mkdocs", "site/index.html")
    write(project, "build/lib/pointrend/old.py", "dist/pointrend-0.1.0-py3-none-any.whl")
    write(project, ".dvc/cache/files/md5/00/11", ".dvc/tmp/lock", "pipeline/data/__pycache__/coco.cpython-311.pyc")
    make(project, "clean")
    assert files(project) == kept
    assert make(project, "clean")


def test_clean_leaves_no_empty_folders(project: Path) -> None:
    write(project, "outputs/demo/train/one/model.safetensors", "reports/demo/index.html")
    make(project, "clean")
    assert not (project / "outputs").exists()
    assert not (project / "reports").exists()


def git(project: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    return subprocess.run(
        ["git", *identity, *arguments], cwd=project, check=True, capture_output=True, text=True
    ).stdout


def test_clean_leaves_a_committed_dvc_lock_and_says_so(project: Path) -> None:
    write(project, "dvc.lock")
    git(project, "init")
    git(project, "add", "dvc.lock")
    git(project, "commit", "--message", "results")
    assert "dvc.lock stays: it is committed" in make(project, "clean")
    assert (project / "dvc.lock").is_file()


def test_clean_removes_a_dvc_lock_that_dvc_alone_has_added_to_the_index(project: Path) -> None:
    write(project, "dvc.lock")
    git(project, "init")
    git(project, "add", "dvc.lock")
    make(project, "clean")
    assert not (project / "dvc.lock").exists()
    assert git(project, "ls-files") == ""


def test_clean_stops_while_something_runs_but_not_at_a_broken_environment(project: Path) -> None:
    write(project, "mlflow.db", ".venv/bin/python")
    python = project / ".venv/bin/python"
    python.chmod(0o755)
    python.write_text("#!/bin/sh\necho 'error: jobs of this project run' >&2; exit 75\n")
    result = subprocess.run(["make", "clean"], cwd=project, capture_output=True, text=True)
    assert result.returncode != 0
    assert "error: jobs of this project run" in result.stderr
    assert (project / "mlflow.db").is_file()
    python.write_text("#!/bin/sh\nexit 1\n")
    make(project, "clean")
    assert not (project / "mlflow.db").exists()
    assert not python.exists()


def test_install_works_in_a_folder_with_spaces_and_umlauts(project: Path) -> None:
    # Stands for the Python of the machine, and for those that it makes: notes what it is asked to do.
    stand_in = project / "stand in.sh"
    stand_in.write_text(
        "#!/bin/sh\n"
        'printf "%s|" "$@" >>"$LOG"; echo >>"$LOG"\n'
        'if [ "$2" = venv ]; then mkdir -p "$3/bin" && cp "$0" "$3/bin/python"; fi\n'
    )
    stand_in.chmod(0o755)
    write(project, "requirements.lock", "pyproject.toml")
    log = project / "log"
    subprocess.run(
        ["make", "install", f"PYTHON='{stand_in}'"],
        cwd=project,
        env={**os.environ, "LOG": str(log)},
        check=True,
        capture_output=True,
    )
    asked = log.read_text().splitlines()
    assert asked[1] == "-m|venv|.venv|"
    assert [line for line in asked if "requirements.lock" in line] == [
        "-m|uv|pip|install|--quiet|--python|.venv/bin/python|-r|requirements.lock|"
    ]
    assert asked[-1].startswith("-c|import stages.run_job,"), "last, the bytecode of what commands import is compiled"
    assert (project / ".venv/.installed").is_file()
    assert make(project, "install") == "make: Nothing to be done for 'install'.\n"
