"""Outputs of earlier commits, from a real git repository with DVC's cache."""

from pathlib import Path

import pytest
from dvc.repo import Repo
from dvc.scm import Git

from pipeline.revisions import RevisionError, commit_of, copy_outputs


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose outputs were "first" when it was committed, and are "second" now."""
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "Test")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "test@localhost")
    root = tmp_path / "project"
    (root / "outputs/run").mkdir(parents=True)
    monkeypatch.chdir(root)
    git = Git.init(str(root))
    with Repo.init() as repo:
        for text in ("first", "second"):
            (root / "outputs/run/record.json").write_text(text)
            repo.add(["outputs/run"])
            if text == "first":
                git.add([".dvc", "outputs/run.dvc", "outputs/.gitignore"])
                git.commit("first")
    git.close()
    return root


def test_a_commit_has_the_outputs_of_its_time(project: Path, tmp_path: Path) -> None:
    commit = commit_of(project, "HEAD")
    assert len(commit) >= 7
    copy_outputs(project, commit, ["outputs/run"], tmp_path / "copy")
    assert (tmp_path / "copy/outputs/run/record.json").read_text() == "first"
    assert (project / "outputs/run/record.json").read_text() == "second"


def test_what_a_commit_lacks_is_named(project: Path, tmp_path: Path) -> None:
    with pytest.raises(RevisionError, match=r"commit \w+ has no outputs/other: "):
        copy_outputs(project, commit_of(project, "HEAD"), ["outputs/other"], tmp_path / "copy")


@pytest.mark.parametrize("revision", ["nowhere", "--all", ""])
def test_an_unknown_revision(project: Path, revision: str) -> None:
    with pytest.raises(RevisionError, match="git knows no such commit"):
        commit_of(project, revision)


def test_a_folder_without_git(tmp_path: Path) -> None:
    with pytest.raises(RevisionError, match="git knows no such commit"):
        commit_of(tmp_path, "HEAD")
