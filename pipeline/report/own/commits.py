"""The runs of an earlier commit, to be shown beside those of today."""

from dataclasses import replace
from pathlib import Path, PurePosixPath

from pipeline.data.manifest import FINER
from pipeline.errors import UserError
from pipeline.evaluation.trained_run import TrainedRun
from pipeline.report.inputs import ReportInputs
from pipeline.report.results import read_results
from pipeline.revisions import RevisionError, commit_of, copy_outputs
from pipeline.stage import Outputs, Stage
from pipeline.tracking.client import Tracker
from pipeline.training.record import weights_to_use


class SameResultsError(UserError):
    """The results of the other commit are those of today, or none of its runs can be compared."""


def with_commit(report: ReportInputs, stage: Stage, tracker: Tracker, revision: str, folder: Path) -> ReportInputs:
    """Adds the runs of an earlier commit, named after it, as experiments of their own.

    Args:
        report: of the selected runs.
        stage: of the project.
        tracker: where runs are logged.
        revision: of git.
        folder: an empty one, for the earlier outputs; the report reads them.

    Raises:
        RevisionError: if the commit or its outputs cannot be read, or its val images are others.
        SameResultsError: if all runs are the same there.
    """
    commit = commit_of(stage.root, revision)
    scale, runs = report.scale, {result.run: result for result in report.results}
    here, there = stage.outputs, Outputs(folder, scale)
    kinds = (here.trained, here.predictions, here.evaluation_record)
    copy_outputs(stage.root, commit, (_path(stage, kind(run)) for run in runs for kind in kinds), folder)
    for dataset in dict.fromkeys(result.dataset for result in runs.values()):
        paths = [here.prepared(dataset) / name for name in ("val.parquet", "truth")]
        copy_outputs(stage.root, commit, (_path(stage, path) for path in paths), folder)
        if any(_differ(_files(path), _files(folder / _path(stage, path))) for path in paths):
            raise RevisionError(
                f"dataset {dataset} has other val images or annotations at commit {commit}: its scores do not compare; "
                "measure those weights on the present ones with `pointrend predict` and `pointrend score`"
            )
    found = read_results(runs, there, tracker)
    earlier = [result for result in found.runs if result.mlflow_run_id != runs[result.run].mlflow_run_id]
    if not earlier:
        raise SameResultsError(f"commit {commit}: all of its runs are the same as today's")
    predictions = folder / "side by side"
    predictions.mkdir()
    for run in runs:
        (predictions / run).symlink_to(here.predictions(run).absolute())
    results, trained = list(report.results), dict(report.trained)
    for result in earlier:
        name = f"{result.run}@{commit}"
        (predictions / name).symlink_to(there.predictions(result.run).absolute())
        results.append(replace(result, run=name, experiment=f"{result.experiment}@{commit}"))
        trained[name] = TrainedRun(
            result.config,
            here.prepared(result.dataset),
            stage.images(result.dataset),
            weights_to_use(there.trained(result.run)),
        )
    missing = {f"{run}@{commit}": why for run, why in found.missing.items()}
    return replace(
        report,
        predictions=predictions,
        results=results,
        trained=trained,
        missing={**report.missing, **missing},
        experiments={result.experiment for result in results},
    )


def _path(stage: Stage, path: Path) -> str:
    return path.relative_to(stage.root).as_posix()


def _differ(one: dict[str, bytes], other: dict[str, bytes]) -> bool:
    """Whether scores on two sets of files do not compare; without the finer annotations there is just no AP*."""
    finer = PurePosixPath(FINER).name
    both = finer in one and finer in other
    return any(one.get(name) != other.get(name) for name in {*one, *other} if name != finer or both)


def _files(path: Path) -> dict[str, bytes]:
    """The contents of a file, or of all files in a folder, by their names in it."""
    found = sorted(path.rglob("*")) if path.is_dir() else [path]
    return {each.relative_to(path).as_posix(): each.read_bytes() for each in found if each.is_file()}
