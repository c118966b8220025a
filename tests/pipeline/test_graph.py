"""What DVC would run, asked from within one of its stages, and which code a stage depends on."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.graph import code_digest

CONFIG = """
[core]
    no_scm = true
    analytics = false
    check_update = false
"""
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
from pipeline.graph import runs_everything, stages_to_run
print(*stages_to_run(Path.cwd(), ["copy@a", "copy@b"]))
print(runs_everything())
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

    def ask(self, *targets: str) -> tuple[list[str], bool]:
        """What the stage was told in a `dvc repro`."""
        self.asked += 1
        (self.root / "ask").write_text(str(self.asked))
        subprocess.run([Path(sys.executable).parent / "dvc", "repro", *targets], cwd=self.root, check=True)
        stages, everything = (self.root / f"answer-{self.asked}").read_text().splitlines()
        return stages.split(), everything == "True"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    repository = Path(__file__).parents[2]
    monkeypatch.setenv("PYTHONPATH", str(repository))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")
    return Folder(tmp_path)


def test_what_is_to_run(folder: Folder) -> None:
    assert folder.ask() == (["copy@a", "copy@b"], True)
    assert folder.ask() == ([], True), "nothing has changed"
    folder.write("b", "2")
    assert folder.ask() == (["copy@b"], True)
    folder.write("b", "1")
    assert folder.ask() == ([], True), "DVC still has the result"
    (folder.root / "out-a").unlink()
    assert folder.ask() == ([], True), "DVC still has the result"


def test_a_target_is_not_everything(folder: Folder) -> None:
    assert folder.ask("--force") == (["copy@a", "copy@b"], True)
    assert folder.ask("ask") == ([], False)


def test_outside_of_dvc_nothing_is_everything() -> None:
    from pipeline.graph import runs_everything

    assert not runs_everything()


class TestCode:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        (tmp_path / "dvc.yaml").write_text('stages: {train: {do: {deps: ["outputs/${key}", code, one.py]}}}')
        (tmp_path / "code").mkdir()
        (tmp_path / "code" / "two.py").write_text("x = 1\n")
        (tmp_path / "one.py").write_text("y = 1\n")
        return tmp_path

    def test_every_file_counts(self, root: Path) -> None:
        digests = [code_digest(root, "train")]
        assert code_digest(root, "train") == digests[0]
        (root / "one.py").write_text("y = 2\n")
        digests.append(code_digest(root, "train"))
        (root / "code" / "two.py").write_text("x = 2\n")
        digests.append(code_digest(root, "train"))
        (root / "code" / "two.py").rename(root / "code" / "three.py")
        digests.append(code_digest(root, "train"))
        assert len(set(digests)) == 4

    def test_what_is_no_code_does_not(self, root: Path) -> None:
        before = code_digest(root, "train")
        (root / "code" / "__pycache__").mkdir()
        (root / "code" / "__pycache__" / "two.pyc").write_bytes(b"1")
        assert code_digest(root, "train") == before

    def test_a_missing_file_is_named(self, root: Path) -> None:
        (root / "one.py").unlink()
        with pytest.raises(UserError, match=r"one\.py: missing"):
            code_digest(root, "train")
