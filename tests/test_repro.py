"""The DVC graph, run for real in a miniature project. Each test reads one that has run, or changes a copy of it."""

import json
import os
import shutil
import signal

import pytest
from mini_project import FirstRepro, MiniProject, job_drivers, wait_for
from safetensors.torch import load_file

from pipeline.tracking.runs import KEY_TAG

BOTH = ["4xconv", "pointrend"]


@pytest.fixture
def project(project_copy: MiniProject) -> MiniProject:
    return project_copy


def weights(project: MiniProject, head: str) -> dict:
    return load_file(project.root / f"outputs/demo/train/coco_{head}_r50-0/model.safetensors")


def runs(project: MiniProject, kind: str) -> list:
    mlflow = project.mlflow()
    experiment = mlflow.get_experiment_by_name("pointrend-demo")
    return mlflow.search_runs([experiment.experiment_id], f"tags.kind = '{kind}'")


def test_from_nothing_to_table_1(first_repro: FirstRepro) -> None:
    project, stages = first_repro.project, first_repro.stages
    assert stages[:2] == ["generate@shapes", "prepare@shapes"]
    assert stages[-1] == "report"
    assert sorted(stages[2:-1]) == sorted(
        f"{kind}@coco_{head}_r50-0" for kind in ("train", "evaluate") for head in BOTH
    )
    report = project.root / "reports/demo"
    text = (report / "tables/table1.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith(("| 4×", "| Point"))]
    assert [row.split("|")[3].strip()[0].isdigit() for row in rows] == [True, True, True]
    assert {path.name for path in report.iterdir()} >= {"index.html", "results.parquet"}
    assert {path.name for path in (report / "tables").iterdir()} >= {"table1.csv", "table1.tex", "table2.md"}


def test_mlflow_has_one_run_per_training_and_evaluations_nested_in_it(base_project: MiniProject) -> None:
    trainings, evaluations = runs(base_project, "training"), runs(base_project, "evaluation")
    assert sorted(run.info.run_name for run in trainings) == ["coco_4xconv_r50-0", "coco_pointrend_r50-0"]
    assert all(run.info.status == "FINISHED" for run in trainings + evaluations)
    parents = {run.info.run_id: run.info.run_name for run in trainings}
    nested = sorted(
        (parents[run.data.tags["mlflow.parentRunId"]], run.data.params["resolution"]) for run in evaluations
    )
    assert nested == [("coco_4xconv_r50-0", "28"), ("coco_pointrend_r50-0", "224"), ("coco_pointrend_r50-0", "28")]
    for run in trainings:
        history = base_project.mlflow().get_metric_history(run.info.run_id, "loss")
        assert [entry.step for entry in history] == [4]
        assert {"learning_rate", "loss_mask", "loss_classifier"} <= run.data.metrics.keys()


def test_nothing_to_do(project: MiniProject) -> None:
    assert project.repro() == []


def test_a_lost_database_is_made_anew_from_files(project: MiniProject) -> None:
    def logged() -> dict[str, dict[str, float]]:
        return {
            run.info.run_name: run.data.metrics for kind in ("training", "evaluation") for run in runs(project, kind)
        }

    before = logged()
    assert len(before) == 5
    (project.root / "mlflow.db").unlink()
    for _ in range(2):
        assert project.repro() == []
        assert len(runs(project, "training")) == 2
        assert logged() == before


def test_an_output_that_was_deleted_comes_back(project: MiniProject) -> None:
    shutil.rmtree(project.root / "outputs/demo/predictions/coco_4xconv_r50-0")
    shutil.rmtree(project.root / "reports/demo")
    assert project.repro() == [], "from DVC's cache"
    assert (project.root / "outputs/demo/predictions/coco_4xconv_r50-0/predictions_28x28.json").is_file()
    assert (project.root / "reports/demo/index.html").is_file()


def test_a_report_that_is_killed_half_way_is_written_again(project: MiniProject) -> None:
    page = project.root / "reports/demo/index.html"
    before = page.stat().st_ino
    with (project.root / "pipeline/report/templates/layout.html.j2").open("a") as stream:
        stream.write("<!-- another layout -->\n")
    process = project.start("dvc", "repro")
    wait_for(lambda: list(page.parent.parent.glob(".*")), "the folder that the report is written to at first")
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    assert not page.exists() or page.stat().st_ino == before, "never half of it"
    assert project.repro() == ["report"]
    assert page.read_text().endswith("<!-- another layout -->")


def test_predictions_are_plain_coco_results(base_project: MiniProject) -> None:
    results = json.loads(
        (base_project.root / "outputs/demo/predictions/coco_pointrend_r50-0/predictions_224x224.json").read_text()
    )
    assert results
    assert results[0].keys() == {"image_id", "category_id", "bbox", "score", "segmentation"}


def commit(project: MiniProject) -> str:
    """Puts the project, without its outputs, into git, and returns the commit's short hash."""
    project.edit(".dvc/config", "    no_scm = true\n", "")
    (project.root / ".gitignore").write_text("outputs/\nreports/\n*.db\nmlartifacts/\n.pointrend/\n__pycache__/\n")
    (project.root / ".dvc/.gitignore").write_text("/cache\n/tmp\n/config.local\n")
    who = ("-c", "user.name=Test", "-c", "user.email=test@localhost")
    for command in (["init", "-q"], ["add", "-A"], [*who, "commit", "-qm", "results"]):
        done = project.run("git", *command)
        assert done.returncode == 0, done.stdout
    return project.run("git", "rev-parse", "--short", "HEAD").stdout.strip()


def test_a_training_that_changes_and_an_evaluation_that_changes_rerun_themselves_and_what_follows(
    project_copy_on_ray: MiniProject,
) -> None:
    project = project_copy_on_ray
    earlier = commit(project)
    trained = [project.root / f"outputs/demo/train/coco_{head}_r50-0/model.safetensors" for head in BOTH]
    before = [file.read_bytes() for file in trained]
    project.edit(
        "configs/experiments/demo/coco_pointrend_r50.yaml",
        "importance_sample_ratio: 0.75",
        "importance_sample_ratio: 0.5",
    )
    project.edit("configs/experiments/demo/coco_4xconv_r50.yaml", "28x28: {resolution", "narrow: {resolution")
    stages = project.repro()
    assert stages[-1] == "report"
    assert sorted(stages[:-1]) == [
        "evaluate@coco_4xconv_r50-0",
        "evaluate@coco_pointrend_r50-0",
        "train@coco_pointrend_r50-0",
    ]
    assert [file.read_bytes() == old for file, old in zip(trained, before, strict=True)] == [True, False]
    assert (project.root / "outputs/demo/predictions/coco_4xconv_r50-0/predictions_narrow.json").is_file()

    about_the_paper = project.run("pointrend", "report", "--with", "HEAD")
    assert about_the_paper.returncode == 1
    assert "scale demo is about the paper" in about_the_paper.stdout
    project.edit("configs/scales.yaml", "demo: {about: paper}", "demo: {about: own data}")
    unknown = project.run("pointrend", "report", "--with", "nowhere")
    assert (unknown.returncode, unknown.stdout.count("\n")) == (1, 1)
    assert "nowhere: git knows no such commit" in unknown.stdout
    shown = project.run("pointrend", "report", "--with", "HEAD")
    assert shown.stdout.endswith("reports/demo_and_HEAD/index.html\n"), shown.stdout
    page = (project.root / "reports/demo_and_HEAD/index.html").read_text()
    assert f"coco_pointrend_r50@{earlier}" in page
    assert f"coco_4xconv_r50@{earlier}" not in page  # it is the same training


def test_a_comment_in_the_configuration_reruns_nothing(project: MiniProject) -> None:
    with (project.root / "configs/schedules/demo.yaml").open("a") as stream:
        stream.write("# a remark\n")
    assert project.repro() == []


def test_a_run_that_begins_with_another_waits_for_it_and_follows_it(project_copy_on_ray: MiniProject) -> None:
    project = project_copy_on_ray
    project.edit("configs/experiments/demo/coco_4xconv_r50.yaml", "seeds:", "starts_from: coco_pointrend_r50-0\nseeds:")
    own = "experiment: coco_4xconv_r50, seed: 0, starts_from: "
    project.edit("selection.yaml", f"{own}data/shapes", f"{own}train/coco_pointrend_r50-0")
    target = "train@coco_4xconv_r50-0"
    # The one that comes later in every list is trained first, and the other one's weights depend on it.
    project.edit(
        "configs/experiments/demo/coco_pointrend_r50.yaml",
        "importance_sample_ratio: 0.75",
        "importance_sample_ratio: 0.5",
    )
    assert project.repro(target) == ["train@coco_pointrend_r50-0", target]


def test_a_configuration_error_is_one_message(project: MiniProject) -> None:
    project.edit("configs/schedules/demo.yaml", "batch_size: 2", "batch_sise: 2")
    result = project.run("dvc", "repro")
    assert result.returncode != 0
    assert "demo.yaml" in result.stdout
    assert "batch_sise: unknown key" in result.stdout
    assert "Traceback" not in result.stdout


@pytest.mark.faults
def test_a_training_that_is_stopped_and_killed_goes_on_and_ends_with_the_same_weights(project: MiniProject) -> None:
    updates = 300
    schedule = (project.root / "configs/schedules/demo.yaml").read_text()
    longer = schedule.replace(
        schedule[schedule.index("  - {updates:") :], f"  - {{updates: {updates}, learning_rate: 0.01}}\n"
    )
    (project.root / "configs/schedules/demo.yaml").write_text(longer + "checkpoint_every: 2\n")
    only = ("dvc", "repro", "train@coco_4xconv_r50-0")
    folder = project.root / ".pointrend/runs"

    def checkpoints() -> list[int]:
        found = folder.glob("coco_4xconv_r50-0-*/checkpoints/update-*.pt")
        return [int(path.stem.split("-")[1]) for path in found]

    # Ctrl-C is for the stage: the job goes on until it is stopped, and says where it was.
    process = project.start(*only)
    wait_for(checkpoints, "a checkpoint")
    second = project.run("dvc", "repro", timeout=60)
    assert second.returncode != 0, "two at once"
    assert "busy" in second.stdout or "lock" in second.stdout
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "The jobs go on" in output
    assert "Traceback" not in output
    assert "RUNNING" in project.run("pointrend", "jobs", "list").stdout
    assert project.run("pointrend", "jobs", "stop", "coco_4xconv_r50-0").returncode == 0
    followed = project.run("pointrend", "jobs", "follow", "coco_4xconv_r50-0")
    assert followed.returncode == 1
    assert "whose checkpoint is written" in followed.stdout
    stopped_at = max(checkpoints())
    assert 0 < stopped_at < updates

    # Everything is killed: first what waits, then the training itself.
    process = project.start(*only)
    wait_for(lambda: max(checkpoints()) > stopped_at, "another checkpoint")
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=120)
    (driver,) = job_drivers(project, "run_job")
    driver.kill()
    driver.wait(60)
    stopped_at = max(checkpoints())
    assert 0 < stopped_at < updates

    assert project.run(*only).returncode == 0
    summary = json.loads((project.root / "outputs/demo/train/coco_4xconv_r50-0/train.json").read_text())
    assert summary["resumed_from"] == stopped_at
    assert not list(folder.glob("coco_4xconv_r50-0-*")), "nothing is left behind"
    key = summary["key"]
    same_key = [run for run in runs(project, "training") if run.data.tags[KEY_TAG] == key]
    assert [run.info.status for run in same_key] == ["FINISHED"], "one MLflow run, resumed"
    steps = [entry.step for entry in project.mlflow().get_metric_history(same_key[0].info.run_id, "loss")]
    assert len(steps) == len(set(steps))
    resumed = weights(project, "4xconv")

    assert project.run("dvc", "repro", "--single-item", "--force", only[2]).returncode == 0
    assert (
        json.loads((project.root / "outputs/demo/train/coco_4xconv_r50-0/train.json").read_text())["resumed_from"] == 0
    )
    assert all((weights(project, "4xconv")[name] == value).all() for name, value in resumed.items())


def test_a_file_that_vanished_is_named(project: MiniProject) -> None:
    victim = next((project.root / "outputs/demo/drawn/shapes/train").iterdir())
    victim.unlink()
    result = project.run("python", "-m", "stages.prepare", "--dataset", "shapes")
    assert result.returncode == 1
    assert victim.name in result.stdout
    assert "Traceback" not in result.stdout
