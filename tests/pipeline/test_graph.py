"""What DVC would run and what it works on, asked from within one of its stages."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.graph import GraphError, refuse_while_running, stages_in_scope, stages_under_way

STAGES = """
stages:
  ask:
    cmd: python ask.py > answer-$(cat ask)
    deps: [ask]
    always_changed: true
  copy:
    foreach: [a, b]
    do:
      cmd: cp in-${item} out-${item}
      deps: ["in-${item}"]
      outs: ["out-${item}"]
"""
ASK = """
from pathlib import Path
from pipeline.graph import stages_in_scope, stages_to_run, stages_under_way, unchanged_stages
names = ["copy@a", "copy@b"]
print(*stages_to_run(Path.cwd(), names))
print(*stages_in_scope(names))
print(*unchanged_stages(Path.cwd(), names))
print(*stages_under_way())
"""


class Folder:
    """A DVC project with a stage that asks what else is to run, before it does."""

    def __init__(self, root: Path) -> None:
        self.root, self.asked = root, 0
        (root / ".dvc").mkdir()
        (root / ".dvc/config").write_text(
            "[core]\n    no_scm = true\n    analytics = false\n    check_update = false\n"
        )
        (root / "dvc.yaml").write_text(STAGES)
        (root / "ask.py").write_text(ASK)
        for name in "ab":
            self.write(name, "1")

    def write(self, name: str, text: str) -> None:
        (self.root / f"in-{name}").write_text(text)

    def ask(self, *targets: str) -> list[list[str]]:
        """What the stage was told in a `dvc repro`: what is to run, in scope, unchanged and under way."""
        self.asked += 1
        (self.root / "ask").write_text(str(self.asked))
        subprocess.run([Path(sys.executable).parent / "dvc", "repro", *targets], cwd=self.root, check=True)
        return [line.split() for line in (self.root / f"answer-{self.asked}").read_text().splitlines()]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    repository = Path(__file__).parents[2]
    monkeypatch.setenv("PYTHONPATH", str(repository))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")
    return Folder(tmp_path)


def test_what_is_to_run(folder: Folder) -> None:
    both = ["copy@a", "copy@b"]
    assert folder.ask()[:3] == [both, both, []]
    assert folder.ask()[:3] == [[], both, both], "nothing has changed"
    folder.write("b", "2")
    assert folder.ask()[:3] == [["copy@b"], both, ["copy@a"]]
    folder.write("b", "1")
    assert folder.ask()[0] == [], "DVC still has the result"
    (folder.root / "out-a").unlink()
    assert folder.ask()[:3] == [[], both, ["copy@b"]], "DVC still has the result"


def test_what_is_in_scope(folder: Folder) -> None:
    assert sorted(folder.ask()[3]) == ["ask", "copy@a", "copy@b"]
    assert folder.ask("ask", "copy@b")[1:] == [["copy@b"], ["copy@a", "copy@b"], ["ask", "copy@b"]]
    assert folder.ask("ask")[1:] == [[], ["copy@a", "copy@b"], ["ask"]]


def test_outside_of_dvc_all_is_in_scope() -> None:
    assert stages_under_way() is None
    assert stages_in_scope(["copy@a", "train@x"]) == ["copy@a", "train@x"]


def test_what_a_running_command_reads_is_not_changed(tmp_path: Path) -> None:
    refuse_while_running(tmp_path)  # DVC has never run here
    locks = tmp_path / ".dvc" / "tmp" / "rwlock"
    locks.parent.mkdir(parents=True)
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", "bin/dvc", "repro"]) as process:
        held = {"pid": process.pid, "cmd": "dvc repro"}
        locks.write_text(json.dumps({"write": {"/outputs/demo/train/a": held}, "read": {}}))
        with pytest.raises(GraphError, match=rf"`dvc repro` runs here already \(process {process.pid}\), so nothing"):
            refuse_while_running(tmp_path)
        process.kill()
    refuse_while_running(tmp_path)
