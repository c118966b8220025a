"""Compares `dvc repro` of runs of one CPU each: all runs in parallel on this machine's Ray, and one run at a time.

    python benchmarks/submission.py --runs 8 --updates 60

It runs in a copy of the project, without evaluation and report. The runs are seeds of the demo's 4xconv training. The
timeline shows when each training began and ended, according to MLflow.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml
from mlflow import MlflowClient
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
EXPERIMENT = "coco_4xconv_r50"


def make_project(root: Path, runs: int, updates: int) -> list[str]:
    """Makes a copy of the project that trains ``runs`` seeds of one experiment and returns the names of the runs."""
    for name in ("configs", "pipeline", "pointrend", "stages"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    (root / ".dvc").mkdir()
    (root / ".dvc/config").write_text("[core]\n    no_scm = true\n    analytics = false\n    check_update = false\n")
    graph = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    kept = ("configure", "generate", "prepare", "train")
    (root / "dvc.yaml").write_text(
        yaml.safe_dump({"vars": ["selection.yaml"], "stages": {name: graph["stages"][name] for name in kept}})
    )
    experiment = root / f"configs/experiments/demo/{EXPERIMENT}.yaml"
    settings = yaml.safe_load(experiment.read_text()) | {"seeds": list(range(runs))}
    settings.pop("starts_from", None)  # so that no other run has to be trained first
    experiment.write_text(yaml.safe_dump(settings))
    schedule = root / f"configs/schedules/{settings['schedule']}.yaml"
    content = yaml.safe_load(schedule.read_text()) | {"phases": [{"updates": updates, "learning_rate": 0.01}]}
    schedule.write_text(yaml.safe_dump(content))
    subprocess.run(["pointrend", "select", "demo"], cwd=root, check=True, stdout=subprocess.DEVNULL)
    selection = yaml.safe_load((root / "selection.yaml").read_text())
    selection["runs"] = {name: run for name, run in selection["runs"].items() if run["experiment"] == EXPERIMENT}
    used = {run["dataset"] for run in selection["runs"].values()}
    selection["datasets"] = {name: value for name, value in selection["datasets"].items() if name in used}
    selection["synthetic"] = [name for name in selection["synthetic"] if name in used]
    selection["sweeps"] = {}
    (root / "selection.yaml").write_text(yaml.safe_dump(selection))
    return list(selection["runs"])


def repro(root: Path, *targets: str) -> float:
    """Runs `dvc repro` and returns its seconds."""
    start = time.perf_counter()
    done = subprocess.run(["dvc", "repro", *targets], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        sys.exit(done.stdout.decode())
    return time.perf_counter() - start


def timeline(root: Path) -> list[tuple[str, float, float]]:
    """The name, begin and end of each training, in seconds since the first training began."""
    client = MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments, "tags.kind = 'training'")
    first = min(run.info.start_time for run in runs)
    spans = [
        (run.info.run_name, (run.info.start_time - first) / 1000, (run.info.end_time - first) / 1000) for run in runs
    ]
    return sorted(spans, key=lambda span: span[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--updates", type=int, default=60)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    arguments = parser.parse_args()
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    os.environ.pop("RAY_ADDRESS", None)
    seconds, spans = {}, {}
    for together in (False, True):
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
            root = Path(temporary)
            runs = make_project(root, arguments.runs, arguments.updates)
            repro(root, "prepare")
            order = [()] if together else [(f"train@{run}",) for run in runs]
            name = "together" if together else "one by one"
            seconds[name] = sum(repro(root, *targets) for targets in order)
            spans[name] = timeline(root)
            while (root / ".pointrend/ray/ray.json").exists():
                time.sleep(0.5)  # Ray stays up for some seconds after the last job
    ratio = seconds["together"] / seconds["one by one"]
    if arguments.json:
        print(json.dumps({"seconds": seconds, "ratio": ratio, "timeline": spans}))
        return
    table = Table(title=f"{arguments.runs} runs of {arguments.updates} updates, one CPU each: {ratio:.2f}x of the time")
    for column in ("", "seconds", "run", "begins", "ends"):
        table.add_column(column, justify="right")
    for name, each in spans.items():
        for number, (run, begin, end) in enumerate(each):
            first = (name, f"{seconds[name]:.0f}") if number == 0 else ("", "")
            table.add_row(*first, run, f"{begin:.0f}", f"{end:.0f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
