"""What an edit makes stale. Nothing is trained here: `configure` runs, then DVC is asked what it would run."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from mini_project import MiniProject

from pipeline.graph import stages_to_run
from stages import configure

RUNS = ("coco_4xconv_r50-0", "coco_pointrend_r50-0")
TRAIN, EVALUATE = ({f"{kind}@{run}" for run in RUNS} for kind in ("train", "evaluate"))
GENERATE, PREPARE, SWEEP, REPORT = {"generate@shapes"}, {"prepare@shapes"}, {"sweep@steps"}, {"report"}
STAGES = sorted(GENERATE | PREPARE | TRAIN | EVALUATE | SWEEP | REPORT)
SUBDIVISION = "kind: subdivision\ntitle: steps\nrun: coco_pointrend_r50-0\nsteps: [2]\nnum_points: [196]\n"


class Settled:
    """A project in which nothing is stale, and the edits of its code.

    Args:
        project: it, after `dvc repro`; a sweep is added, with a result that nobody has computed.
    """

    def __init__(self, project: MiniProject) -> None:
        self.project, self.root = project, project.root
        selection = yaml.safe_load((self.root / "selection.yaml").read_text())
        selection["sweeps"] = {"steps": {"task": "instance", "dataset": "shapes", "starts_from": f"train/{RUNS[1]}"}}
        (self.root / "selection.yaml").write_text(yaml.safe_dump(selection))
        (self.root / "configs/sweeps/demo").mkdir()
        (self.root / "configs/sweeps/demo/steps.yaml").write_text(SUBDIVISION)
        (self.root / "outputs/demo/sweeps/steps").mkdir()
        self.configure()
        committed = project.run("dvc", "commit", "--force")
        assert committed.returncode == 0, committed.stdout

    def configure(self, **variables: str) -> None:
        """Runs the stage `configure` in a process of its own."""
        given = (f"{name}={value}" for name, value in variables.items())
        result = self.project.run("env", *given, "sh", "stages/run", "configure")
        assert result.returncode == 0, result.stdout

    def stale(self) -> set[str]:
        """The stages that DVC would run."""
        return set(stages_to_run(self.root, STAGES))

    @contextmanager
    def edited(self, *files: Path, edit: Callable[[Path, str], str]) -> Iterator[None]:
        """Changes files, relative to the project, for as long as the block lasts, and configures."""
        before = {self.root / file: (self.root / file).read_text() for file in files}
        try:
            for file, text in before.items():
                changed = edit(file, text)
                assert changed != text, file
                file.write_text(changed)
            configure.main()
            yield
        finally:
            for file, text in before.items():
                file.write_text(text)


@pytest.fixture(scope="module")
def settled(base_project: MiniProject, tmp_path_factory: pytest.TempPathFactory) -> Settled:
    return Settled(base_project.copy(tmp_path_factory.mktemp("staleness") / "project"))


@pytest.fixture(autouse=True)
def in_project(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests of the settled project work in its folder, as a stage does."""
    if "settled" in request.fixturenames:
        monkeypatch.chdir(request.getfixturevalue("settled").root)


def modules(*folders: str) -> list[Path]:
    """The Python files of folders of the project, which is the working directory."""
    return sorted(path for folder in folders for path in Path(folder).rglob("*.py"))


def with_a_constant(file: Path, text: str) -> str:
    """The file with another statement at its end; of a template, with another line."""
    return f"{text}\nANOTHER_CONSTANT = 1\n" if file.suffix == ".py" else f"{text}<!-- another line -->\n"


def with_remarks(file: Path, text: str) -> str:
    """The file with comments, blank lines and other docstrings, which compute what they computed before."""
    text = re.sub(r'^(\s*)"""(?=\w)', r'\1"""In other words: ', text, flags=re.MULTILINE)
    text = re.sub(r"^(import \w+|    return \w+)$", r"\1  # a remark", text, flags=re.MULTILINE)
    return f"# Another remark.\n\n{text}\n\n# The last remark.\n"


def test_nothing_is_stale_where_nothing_has_changed(settled: Settled) -> None:
    configure.main()
    assert settled.stale() == set()


def test_comments_docstrings_and_blank_lines_in_every_module_rerun_nothing(settled: Settled) -> None:
    every = modules("pipeline", "pointrend", "stages")
    assert len(every) > 100
    with settled.edited(*every, edit=with_remarks):
        assert settled.stale() == set()


@pytest.mark.parametrize(
    ("file", "stale"),
    [
        ("pipeline/synthetic/shapes.py", GENERATE),
        ("pipeline/synthetic/drawing.py", GENERATE),
        ("pipeline/data/prepare.py", PREPARE),
        ("pipeline/data/coco.py", PREPARE | TRAIN | EVALUATE | SWEEP | REPORT),
        ("pipeline/data/rle.py", PREPARE | TRAIN | EVALUATE | SWEEP | REPORT),
        ("pipeline/data/pictures.py", PREPARE | TRAIN | EVALUATE | SWEEP | REPORT),
        ("pipeline/training/loop.py", TRAIN | SWEEP),
        ("pipeline/training/checkpoint.py", TRAIN | SWEEP),
        ("pointrend/points.py", TRAIN | EVALUATE | SWEEP | REPORT),
        ("pointrend/weights.py", TRAIN | EVALUATE | SWEEP | REPORT),
        ("pointrend/paste.py", EVALUATE | SWEEP | REPORT),
        ("pointrend/instance_inference.py", EVALUATE | SWEEP | REPORT),
        ("pointrend/rendering.py", EVALUATE | SWEEP | REPORT),
        ("pointrend/subdivision.py", EVALUATE | SWEEP | REPORT),
        ("pipeline/evaluation/instances.py", EVALUATE | SWEEP),
        ("pipeline/metrics/boundary_ap.py", EVALUATE | SWEEP),
        ("pipeline/metrics/coco_ap.py", EVALUATE | SWEEP),
        ("pipeline/sweep/trial.py", SWEEP),
        ("pipeline/sweep/search.py", SWEEP),
        ("pipeline/report/figures/gallery.py", REPORT),
        ("pipeline/report/tables/table.py", REPORT),
        ("pipeline/report/templates/page.html.j2", REPORT),
    ],
)
def test_an_edit_reruns_the_stages_that_compute_with_the_module(settled: Settled, file: str, stale: set[str]) -> None:
    with settled.edited(Path(file), edit=with_a_constant):
        assert settled.stale() == stale


@pytest.mark.parametrize("folder", ["pipeline/cluster", "pipeline/tracking", "pipeline/plan"])
def test_an_edit_of_what_schedules_logs_or_plans_reruns_nothing(settled: Settled, folder: str) -> None:
    with settled.edited(*modules(folder), edit=with_a_constant):
        assert settled.stale() == set()


@pytest.mark.parametrize(
    "file", ["pointrend/semantic.py", "pointrend/semantic_heads.py", "pipeline/data/semantic_dataset.py"]
)
def test_an_edit_of_what_only_semantic_runs_have_reruns_no_instance_run(settled: Settled, file: str) -> None:
    with settled.edited(Path(file), edit=with_a_constant):
        assert settled.stale() <= REPORT


def test_another_torch_reruns_what_computes_with_it(settled: Settled, tmp_path: Path) -> None:
    installed = tmp_path / "torch-99.0.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 99.0.0\n")
    settled.configure(PYTHONPATH=str(tmp_path))
    assert settled.stale() == TRAIN | EVALUATE | SWEEP | REPORT


def test_dvc_commit_after_a_harmless_edit_keeps_every_result(project_copy: MiniProject) -> None:
    results = project_copy.root / "reports/demo/results.parquet"
    table = project_copy.root / "reports/demo/tables/table1.csv"
    before, cells = pq.read_table(results), table.read_text()
    assert before.num_rows
    # A local variable with another name.
    loop = project_copy.root / "pipeline/training/loop.py"
    text, count = re.subn(r"\bnumber\b", "update_number", loop.read_text())
    assert count
    loop.write_text(text)
    for command in (("repro", "configure"), ("commit", "--force")):
        result = project_copy.run("dvc", *command)
        assert result.returncode == 0, result.stdout
    assert project_copy.repro() == []
    again = project_copy.run("dvc", "repro", "--single-item", "--force", "report")
    assert again.returncode == 0, again.stdout
    assert pq.read_table(results).equals(before)
    assert table.read_text() == cells
