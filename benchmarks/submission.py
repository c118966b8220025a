"""Compares two ways to run several trainings: one `dvc repro` of all of them, and one after the other.

    python benchmarks/submission.py --runs 8 --updates 60

It runs in a copy of the project, without evaluation and report. The runs are seeds of the demo's 4xconv training. The
timeline shows when each training's first update began and when its run ended, according to MLflow; a gap is the time
from the end of a run to the first update of the one that takes its place. ``--cpus`` of a run decide how many run at a
time: with all of the machine's, runs follow one another as on one GPU. ``--without-fork-server`` starts each run's
process from nothing.
"""

import argparse
import json
import os
import shutil
import statistics
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
CPUS = os.cpu_count() or 1


def make_project(root: Path, arguments: argparse.Namespace) -> list[str]:
    """Makes a copy of the project that trains some seeds of one experiment and returns the names of the runs."""
    runs, updates = arguments.runs, arguments.updates
    for name in ("configs", "pipeline", "pointrend", "stages"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    if arguments.without_fork_server:
        # What the server does where processes cannot be forked.
        server = root / "pipeline/cluster/fork_server.py"
        before = server.read_text()
        after = before.replace('if sys.platform != "linux":', "if True:")
        assert after != before
        server.write_text(after)
    cluster = root / "configs/clusters/laptop.yaml"
    cluster.write_text(yaml.safe_dump(yaml.safe_load(cluster.read_text()) | {"cpus_per_worker": arguments.cpus}))
    (root / ".dvc").mkdir()
    (root / ".dvc/config").write_text("[core]\n    no_scm = true\n    analytics = false\n    check_update = false\n")
    graph = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    kept = ("configure", "generate", "prepare", "train")
    (root / "dvc.yaml").write_text(
        yaml.safe_dump({"vars": ["selection.yaml"], "stages": {name: graph["stages"][name] for name in kept}})
    )
    experiment = root / f"configs/experiments/demo/{EXPERIMENT}.yaml"
    settings = yaml.safe_load(experiment.read_text()) | {"seeds": list(range(runs))}
    experiment.write_text(yaml.safe_dump(settings))
    schedule = root / f"configs/schedules/{settings['schedule']}.yaml"
    content = yaml.safe_load(schedule.read_text())
    content |= {
        "phases": [{"updates": updates, "learning_rate": 0.01}],
        "warmup": {"updates": 1, "learning_rate": 0.01},
    }
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
    """Of each training its name, and begin of its first update and end, in seconds since the first training began."""
    client = MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments, "tags.kind = 'training'")
    # Logged when everything is loaded, ahead of the first update.
    first_updates = [client.get_metric_history(run.info.run_id, "workers")[0].timestamp for run in runs]
    first = min(first_updates)
    spans = [
        (run.info.run_name, (begin - first) / 1000, (run.info.end_time - first) / 1000)
        for run, begin in zip(runs, first_updates, strict=True)
    ]
    return sorted(spans, key=lambda span: span[1])


def gaps(spans: list[tuple[str, float, float]], at_once: int) -> list[float]:
    """The seconds from the end of each run to the first update of the run that takes its place."""
    ends = sorted(end for _, _, end in spans)
    return [begin - end for (_, begin, _), end in zip(spans[at_once:], ends, strict=False)]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--updates", type=int, default=60)
    parser.add_argument("--cpus", type=int, default=1, choices=range(1, CPUS + 1), help="of each run")
    parser.add_argument("--without-fork-server", action="store_true")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    arguments = parser.parse_args()
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    os.environ.pop("RAY_ADDRESS", None)
    seconds, spans = {}, {}
    for together in (False, True):
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
            root = Path(temporary)
            runs = make_project(root, arguments)
            repro(root, "prepare")
            order = [()] if together else [(f"train@{run}",) for run in runs]
            name = "together" if together else "one by one"
            seconds[name] = sum(repro(root, *targets) for targets in order)
            spans[name] = timeline(root)
            while (root / ".pointrend/ray/ray.json").exists():
                time.sleep(0.5)  # Ray stays up for some seconds after the last job
    ratio = seconds["together"] / seconds["one by one"]
    waits = gaps(spans["together"], CPUS // arguments.cpus)
    if arguments.json:
        print(json.dumps({"seconds": seconds, "ratio": ratio, "gaps": waits, "timeline": spans}))
        return
    of = f"{arguments.runs} runs of {arguments.updates} updates, {arguments.cpus} of {CPUS} CPUs each"
    table = Table(title=f"{of}: {ratio:.2f}x of the time")
    for column in ("", "seconds", "run", "begins", "ends"):
        table.add_column(column, justify="right")
    for name, each in spans.items():
        for number, (run, begin, end) in enumerate(each):
            first = (name, f"{seconds[name]:.0f}") if number == 0 else ("", "")
            table.add_row(*first, run, f"{begin:.0f}", f"{end:.0f}")
    Console(width=100).print(table)
    if waits:
        median, most = statistics.median(waits), max(waits)
        print(f"{median:.1f} s from the end of a run to the first update of the next, {most:.1f} at most")


if __name__ == "__main__":
    main()
