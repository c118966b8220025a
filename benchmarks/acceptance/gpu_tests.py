"""The tests marked ``gpu``."""

import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import torch
from checkout import ROOT

from acceptance.rows import Budget, DisagreementError, NotRunError, Result, Task


def files() -> list[Path]:
    """The files that have such tests. The others import more than an acceptance may need."""
    return sorted(path for path in (ROOT / "tests").rglob("test_*.py") if "mark.gpu" in path.read_text("utf-8"))


def run(file: Path, device: torch.device, budget: Budget) -> Result:
    """Runs the marked tests of a file in a process of its own.

    Raises:
        DisagreementError: if one fails, or all are skipped.
    """
    if device.type != "cuda":
        raise NotRunError("the tests need a CUDA device")
    if importlib.util.find_spec("pytest") is None:
        raise NotRunError("pytest is not installed")
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        # tests/conftest.py imports what only tests of whole projects need, MLflow for one.
        options = ["--noconftest", "-p", "no:cacheprovider", "-q", "-m", "gpu", f"--junitxml={report}"]
        try:
            done = subprocess.run(
                [sys.executable, "-m", "pytest", *options, str(file)],
                cwd=ROOT,
                capture_output=True,
                text=True,
                timeout=max(1, budget.left),
                check=False,
            )
        except subprocess.TimeoutExpired:
            budget.check(" before its tests had ended")
            raise
        if not report.is_file():
            raise RuntimeError(f"pytest exited with {done.returncode}: {(done.stdout + done.stderr)[-300:]}")
        return outcome(report)


def outcome(report: Path) -> Result:
    """The outcome that pytest has written in JUnit's format.

    Raises:
        DisagreementError: if a test failed, or all were skipped.
    """
    cases = list(ElementTree.parse(report).iter("testcase"))
    failed = [str(case.get("name")) for case in cases if {child.tag for child in case} & {"failure", "error"}]
    skipped = sum(any(child.tag == "skipped" for child in case) for case in cases)
    figures = {"passed": len(cases) - len(failed) - skipped, "failed": len(failed), "skipped": skipped}
    if failed:
        raise DisagreementError(f"failed: {', '.join(failed)}", figures)
    if not figures["passed"]:
        raise DisagreementError("no test ran", figures)
    return Result(figures, checked=True)


def tasks(device: torch.device, budget: Budget) -> Iterator[Task]:
    """One row for each file."""
    for file in files():
        yield str(file.relative_to(ROOT)), lambda file=file: run(file, device, budget)
