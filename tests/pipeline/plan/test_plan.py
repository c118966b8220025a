"""What `pointrend plan` says: schedules by hand, the configurations as they are, and what DVC has."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from made_up_configs import chained_project, copied_project, linked_project
from rich.console import Console
from typer.testing import CliRunner

from pipeline.cli import plan as command
from pipeline.cli import select
from pipeline.cluster.ray_train import for_batch
from pipeline.config.clusters import ClusterConfig
from pipeline.config.labels import ranges_text
from pipeline.config.project import Project
from pipeline.config.reader import ConfigError, load
from pipeline.config.selection_files import params_text, selection_text
from pipeline.data.samplers import BatchShareError
from pipeline.plan.estimates import runs_at_a_time, workers_of
from pipeline.plan.make import make_plan
from pipeline.plan.plan import Plan, makespan
from pipeline.plan.text import bytes_text, hours_text, show
from pipeline.plan.throughput import Counter, Throughput, training_size, validation_area

REPOSITORY = Path(__file__).parents[3]


class TestMakespan:
    @pytest.mark.parametrize(
        ("hours", "slots", "end"),
        [
            # 6 | 4 + 2 | 3 + 2 + 2: the last one is the tail, beyond 19 / 3.
            ([2, 2, 3, 4, 6, 2], 3, 7),
            # Longest first: 3 beside 2 + 1. In the order given it would be 1 + 3 beside 2.
            ([1, 2, 3], 2, 3),
            # Longest first is not always best: 3 + 2 + 2 beside 3 + 2, where 3 + 3 beside 2 + 2 + 2 would be 6.
            ([3, 3, 2, 2, 2], 2, 7),
            ([10, 1, 1, 1], 2, 10),
            ([1.5, 2.5], 1, 4),
            ([5, 1], 8, 5),
            ([], 2, 0),
        ],
    )
    def test_by_hand(self, hours: list[float], slots: int, end: float) -> None:
        assert makespan(hours, slots) == end

    def test_somebody_must_do_it(self) -> None:
        with pytest.raises(ValueError, match="slots is 0"):
            makespan([1], 0)


class TestRoom:
    @pytest.mark.parametrize(
        ("cluster", "nodes", "runs"),
        [
            ({"workers": 8, "gpus_per_worker": 1}, 3, 3),
            ({"workers": 0, "gpus_per_worker": 1}, 4, 4),
            ({"workers": 0, "gpus_per_worker": 0.25}, 2, 8),
            ({"workers": 3, "gpus_per_worker": 0.5}, 1, 1),
            ({"workers": 0}, 1, 6),
            ({"workers": 2, "cpus_per_worker": 2}, 3, 3),
            ({"workers": 4, "cpus_per_worker": 2}, 1, 1),
        ],
    )
    def test_by_hand(self, cluster: dict, nodes: int, runs: int) -> None:
        assert runs_at_a_time(ClusterConfig(**cluster), nodes, cores=6) == runs

    @pytest.mark.parametrize("batch_size", [2, 8, 16])
    @pytest.mark.parametrize(
        "cluster",
        [
            {"workers": 0},
            {"workers": 2},
            {"workers": 8, "min_workers": 1, "images_per_worker": 1},
            {"workers": 8, "min_workers": 2, "images_per_worker": 4},
            {"workers": 8},
        ],
    )
    def test_workers_are_those_that_train(self, cluster: dict, batch_size: int) -> None:
        config = ClusterConfig(**cluster)
        try:
            trains = max(for_batch(config, batch_size).workers, 1)
        except BatchShareError:
            with pytest.raises(BatchShareError):
                workers_of(config, batch_size)
        else:
            assert workers_of(config, batch_size) == trains


@pytest.fixture(scope="module")
def paper() -> Plan:
    return make_plan(Project(REPOSITORY), "paper", "nodes_of_8_gpus", 4)


class TestPaper:
    def test_every_run_and_evaluation_of_its_experiments_is_there(self, paper: Plan) -> None:
        project = Project(REPOSITORY)
        experiments = {name: project.experiment("paper", name) for name in project.experiment_names("paper")}
        assert {run.run for run in paper.runs} == {f"{n}-{s}" for n, e in experiments.items() for s in e.seeds}
        assert paper.evaluations == sum(len(e.seeds) * len(e.evaluations) for e in experiments.values())

    def test_hours(self, paper: Plan) -> None:
        assert paper.runs_at_a_time == 4
        for run in paper.runs:
            assert run.hours == run.gpu_hours / 8
        total = sum(run.gpu_hours for run in paper.runs)
        longest = max(run.gpu_hours for run in paper.runs)
        assert paper.training_hours is not None
        # No schedule is shorter; a list schedule is at most a run longer.
        assert total / 32 <= paper.training_hours <= total / 32 + longest / 8

    def test_seeds_cost_the_same_and_images_cost(self, paper: Plan) -> None:
        runs = {run.run: run for run in paper.runs}
        first, second = runs["coco_4xconv_r50-0"], runs["coco_4xconv_r50-1"]
        assert (first.gpu_hours, first.weights) == (second.gpu_hours, second.weights)
        assert (first.updates, first.batch_size) == (90_000, 16)
        # The zoo's own 0.261 s an update, on 8 GPUs.
        assert first.gpu_hours == pytest.approx(90_000 * 0.261 * 8 / 3600, rel=0.01)

    def test_sweeps(self, paper: Plan) -> None:
        sweeps = {sweep.sweep: sweep for sweep in paper.sweeps}
        trial = next(run.gpu_hours for run in paper.runs if run.run == "coco_pointrend_r50-0")
        grid = sweeps["oversampling_importance"]
        assert (grid.trials, grid.updates) == (9, 90_000)
        assert grid.gpu_hours == pytest.approx(9 * trial)
        assert grid.hours == pytest.approx(2 * trial), "eight trials at a time, a GPU each, and the ninth"
        searched = sweeps["training_points"]
        assert (searched.trials, searched.hours) == (48, pytest.approx(6 * trial / 10)), "a tenth of the updates"
        rendered = sweeps["subdivision"]
        assert (rendered.kind, rendered.trials, rendered.gpu_hours) == ("subdivision", 16, 0)
        assert paper.sweep_hours == pytest.approx(sum(sweep.hours or 0 for sweep in paper.sweeps))

    def test_groups(self, paper: Plan) -> None:
        everything = paper.total(paper.runs)
        by_dataset = paper.by_dataset.values()
        assert sum(total.runs for total in by_dataset) == everything.runs == len(paper.runs)
        assert sum(total.gpu_hours for total in by_dataset) == pytest.approx(everything.gpu_hours)
        mean = {"cityscapes_deeplabv3_r103", "cityscapes_deeplabv3_pointrend_r103"}
        assert paper.by_table["table6"].runs == sum(run.experiment in mean for run in paper.runs)

    def test_disk(self, paper: Plan) -> None:
        runs = {run.run: run for run in paper.runs}
        assert runs["coco_pointrend_r50-0"].predictions == 7 * 5000 * 20_000
        assert runs["cityscapes_deeplabv3_r103-0"].predictions == 2 * 500 * 25_000
        largest = sorted((run.checkpoint for run in paper.runs), reverse=True)[:4]
        assert paper.checkpoints == 3 * sum(largest), "the last two and the one being written, of four trainings"

    def test_nothing_is_known_to_be_cached_of_a_scale_that_is_not_selected(self, paper: Plan) -> None:
        assert {run.cached for run in paper.runs} == {sweep.cached for sweep in paper.sweeps} == {None}
        assert paper.unknown is not None
        assert "scale paper is not the selected one" in paper.unknown


@pytest.mark.parametrize("scale", [scale for scale in Project(REPOSITORY).scales() if scale != "paper"])
def test_every_scale_can_be_planned(scale: str, tmp_path: Path) -> None:
    found = make_plan(linked_project(tmp_path), scale, "one_gpu", 1)
    assert found.runs
    for run in found.runs:
        assert 0 < run.gpu_hours < 10
    assert {path.name for path in tmp_path.iterdir()} == {"configs", "dvc.yaml", "pipeline"}, "nothing is written"


def test_a_cluster_whose_batch_norm_would_not_see_whole_batches(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"spot_gpus\.yaml:\n  experiment cityscapes_deeplabv3_.*: eight_gpus, "):
        make_plan(linked_project(tmp_path), "paper", "spot_gpus", 1)


def test_a_missing_figure_leaves_hours_unknown_and_all_else_planned(tmp_path: Path) -> None:
    project = copied_project(tmp_path)
    file = project.configs / "throughput.yaml"
    file.write_text(file.read_text().replace("    tiny18: 0.05\n", ""))
    found = make_plan(project, "demo", "one_gpu", 1)
    without = {run.experiment for run in found.runs if run.gpu_hours is None}
    assert without == {"coco_4xconv_r101_3x", "coco_pointrend_r101_3x"}
    assert all(run.hours is None and run.weights > 0 for run in found.runs if run.experiment in without)
    total = found.total(found.runs)
    assert total.runs_without_hours == total.remaining_without_hours > 0
    assert total.gpu_hours == sum(run.gpu_hours for run in found.runs if run.gpu_hours is not None)
    (reason,) = found.missing_figures
    assert "utilisation.v100_float32 has no 'tiny18'" in reason
    console = Console(width=120, record=True, file=io.StringIO())
    show(found, console)
    text = console.export_text()
    (line,) = [line for line in text.splitlines() if line.startswith("coco_pointrend_r101_3x ")]
    assert line.count("not known") == 2, "the hours, and whether it is cached"
    (line,) = [line for line in text.splitlines() if line.startswith("all ")]
    assert line.count("at least") == 2
    assert "time: trainings at least" in text
    assert f"hours not known: {reason}" in text


def test_a_precision_without_a_figure_leaves_its_hours_unknown(tmp_path: Path) -> None:
    project = copied_project(tmp_path)
    file = project.configs / "schedules" / "coco_3x.yaml"
    file.write_text(file.read_text() + "precision: bfloat16\n")
    known = {gpu: make_plan(project, "paper", "eight_gpus", 1, gpu=gpu) for gpu in ("V100", "H100")}
    without = {run.experiment for run in known["V100"].runs if run.gpu_hours is None}
    assert without == {run.experiment for run in known["V100"].runs if run.updates == 270_000}
    assert known["V100"].missing_figures == [
        "configs/throughput.yaml: gpus.V100.peak_tflops has no 'bfloat16'; state it there (it has float32)"
    ]
    assert all(run.gpu_hours for run in known["H100"].runs)
    assert known["H100"].gpu == "NVIDIA H100 (SXM5)"


def test_validations_take_time(tmp_path: Path) -> None:
    """A val image takes its forward pass, on as many pixels as it has."""
    project = copied_project(tmp_path)
    before = {run.run: run for run in make_plan(project, "demo", "one_gpu", 1).runs}
    file = project.configs / "schedules" / "demo.yaml"
    text = file.read_text()
    assert "validate_every" not in text
    file.write_text(text + "validate_every: 30\n")
    found = make_plan(project, "demo", "one_gpu", 1)
    after = {run.run: run for run in found.runs}
    name = "coco_pointrend_r50-0"
    config = project.run("demo", name, project.select("demo", "data").runs[name])[0]
    size = project.synthetic("shapes").image_size
    shape = training_size(config, lambda dataset: (size, size))
    cost = Counter().cost(config, shape, load(Throughput, project.configs / "throughput.yaml").foreground)
    pixels = validation_area(config, (size, size)) / (shape[0] * shape[1])
    of_one = cost.forward / cost.flops * pixels
    updates = config.schedule.updates
    validations = -(-updates // 30)
    extra = validations * project.synthetic("shapes").val_images * of_one / (updates * config.schedule.batch_size)
    assert after[name].validations == validations > 1
    assert after[name].gpu_hours == pytest.approx(before[name].gpu_hours * (1 + extra))
    assert {run.validations for run in before.values()} == {0}
    console = Console(width=120, record=True, file=io.StringIO())
    show(found, console)
    assert f"validations: {found.validations} while trainings run, in the hours" in console.export_text()


@pytest.fixture
def pointrend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    linked_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    app = typer.Typer()
    app.command()(command)
    app.command()(select)
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


class TestCommand:
    def test_json(self, pointrend) -> None:
        result = pointrend("plan", "demo", "--cluster", "laptop", "--json")
        assert result.exit_code == 0, result.output
        found = json.loads(result.output)
        assert (found["scale"], found["cluster"], found["nodes"]) == ("demo", "laptop", 1)
        assert found["runs"][0]["hours"] is found["total"]["hours"] is None, "no GPUs"
        assert found["total"]["runs"] == len(found["runs"])
        assert "V100-h" in pointrend("plan", "demo", "--cluster", "laptop").output
        assert found["total"]["evaluations"] == sum(run["evaluations"] for run in found["runs"])

    def test_what_is_selected(self, pointrend) -> None:
        assert pointrend("select", "demo", "--cluster", "one_gpu").exit_code == 0
        selection = Path("selection.yaml")
        selection.write_text(selection.read_text().split("sweeps:")[0] + "sweeps: {}\n")
        result = pointrend("plan")
        assert result.exit_code == 0, result.output
        assert "demo on 1 × one_gpu: 1 run at a time" in result.output
        assert "cityscapes_semantic_fpn_pointrend_r101" in result.output
        assert "not known" in result.output
        assert "trials" not in result.output, "its sweeps are deleted"

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["plan"], "pointrend select demo"),
            (["plan", "nowhere", "--cluster", "laptop"], "no scale 'nowhere'"),
            (["plan", "demo", "--cluster", "moon"], "moon.yaml"),
            (["plan", "demo", "--cluster", "laptop", "--gpu", "K80"], "has A100, H100, L4, RTX4090, T4, V100"),
            (["plan", "paper", "--cluster", "one_gpu"], "plan paper --cluster one_gpu --without '*deeplabv3*'"),
            (["plan", "demo", "--cluster", "laptop", "--without", "no*"], "--without no*: matches no experiment"),
            (["plan", "demo", "--cluster", "laptop", "--nodes", "0"], "--nodes"),
        ],
    )
    def test_errors(self, pointrend, arguments: list[str], words: str) -> None:
        result = pointrend(*arguments)
        assert result.exit_code != 0
        assert words in result.output + result.stderr


STAGES = """
vars: [selection.yaml]
stages:
  generate:
    foreach: ${synthetic}
    do:
      cmd: mkdir -p data/${item} && cp made data/${item}/made
      deps: [made, "outputs/${scale}/config/synthetic/${item}.json"]
      outs: ["data/${item}"]
  prepare:
    foreach: ${datasets}
    do:
      cmd: mkdir -p outputs/${scale}/data && cp made outputs/${scale}/data/${key}
      deps: [data, "outputs/${scale}/config/datasets/${key}.json"]
      outs: ["outputs/${scale}/data/${key}"]
  train:
    foreach: ${runs}
    do:
      cmd: mkdir -p outputs/${scale}/train && cp outputs/${scale}/config/train/${key}.json outputs/${scale}/train/${key}
      deps: ["outputs/${scale}/config/train/${key}.json", "outputs/${scale}/data/${item.dataset}"]
      outs: ["outputs/${scale}/train/${key}"]
  sweep:
    foreach: ${sweeps}
    do:
      cmd: cp outputs/${scale}/config/sweep/${key}.json outputs/${scale}/sweeps/${key}
      deps: ["outputs/${scale}/config/sweep/${key}.json", "outputs/${scale}/${item.starts_from}"]
      outs: ["outputs/${scale}/sweeps/${key}"]
"""


RUNS = (
    "shapes_detector-0",
    "streets_detector-0",
    "streets_segmenter-0",
    "coco_4xconv_r50-0",
    "coco_pointrend_r50-0",
    "cityscapes_4xconv_r50-0",
)


class DvcProject:
    """Some runs of a demo that trains what they start from, and its sweeps, with stages that copy files instead."""

    def __init__(self, root: Path) -> None:
        self.root = root
        project = chained_project(root)
        selected = project.select("demo", "data")
        selected = selected.model_copy(update={"runs": {run: selected.runs[run] for run in RUNS}})
        project.selection_file.write_text(selection_text("demo", selected))
        project.params_file.write_text(params_text(project.initial_params("demo", "data", "laptop")))
        # `configure` writes down its code, as that of the packages.
        (root / "stages").symlink_to(REPOSITORY / "stages")
        (root / ".dvc").mkdir()
        (root / ".dvc/config").write_text("[core]\n no_scm = true\n analytics = false\n check_update = false\n")
        (root / "dvc.yaml").write_text(STAGES)
        (root / "made").write_text("1")

    def configure(self) -> None:
        self._run(sys.executable, "-m", "stages.configure")

    def repro(self) -> None:
        self._run(str(Path(sys.executable).parent / "dvc"), "repro", "--quiet")

    def _run(self, *words: str) -> None:
        subprocess.run(words, cwd=self.root, check=True, env={"PYTHONPATH": str(REPOSITORY), "PATH": "/usr/bin:/bin"})

    def cached(self) -> dict[bool | None, set[str]]:
        """What is cached, to run and not known."""
        found = make_plan(Project(self.root), None, None, 1)
        states: dict[bool | None, set[str]] = {}
        for run in found.runs:
            states.setdefault(run.cached, set()).add(run.run)
        for sweep in found.sweeps:
            states.setdefault(sweep.cached, set()).add(sweep.sweep)
        assert (found.unknown is not None) == (None in states), found.unknown
        return states


def test_what_dvc_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    project = DvcProject(tmp_path)
    runs, sweeps = set(Project(tmp_path).selection().runs), {"oversampling_importance", "subdivision"}
    assert project.cached() == {None: runs | sweeps}, "nothing is resolved yet"
    project.configure()
    assert project.cached() == {None: runs | sweeps}, "nothing is prepared yet"
    project.repro()
    assert project.cached() == {True: runs | sweeps}

    # Results that are not here, but in the cache; what starts from them cannot be compared.
    trained = tmp_path / "outputs/demo/train/coco_pointrend_r50-0"
    kept = trained.read_text()
    trained.unlink()
    assert project.cached() == {True: runs, None: sweeps}
    trained.write_text(kept)

    # So it is with what runs begin with.
    base = tmp_path / "outputs/demo/train/shapes_detector-0"
    kept = base.read_text()
    base.unlink()
    begun = {
        name for name, run in Project(tmp_path).selection().runs.items() if run.starts_from == "train/shapes_detector-0"
    }
    assert len(begun) == 2
    states = project.cached()
    assert begun <= states[None]
    assert "shapes_detector-0" in states[True]
    base.write_text(kept)

    # Another schedule: first it is not resolved, then its trainings are to run.
    schedule = tmp_path / "configs/schedules/demo_streets.yaml"
    schedule.write_text(schedule.read_text() + "checkpoint_every: 7\n")
    changed = {"cityscapes_4xconv_r50-0"}
    assert project.cached() == {None: changed, True: (runs | sweeps) - changed}
    project.configure()
    assert project.cached() == {False: changed, True: (runs | sweeps) - changed}

    # Data that would be drawn anew.
    (tmp_path / "made").write_text("2")
    assert project.cached() == {None: runs | sweeps}


def test_texts() -> None:
    assert ranges_text([2, 0, 1, 5]) == "0-2, 5"
    assert ranges_text([3]) == "3"
    assert [hours_text(hours) for hours in (1234.5, 12.34, 1.26, 0.0123, 0)] == ["1,234", "12", "1.3", "0.012", "0"]
    assert [bytes_text(size) for size in (999, 1_500, 9_390_000_000, 2_000_000_000_000)] == [
        "999 B",
        "1.5 kB",
        "9.39 GB",
        "2 TB",
    ]
