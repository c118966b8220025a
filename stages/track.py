"""Logs all runs that MLflow does not have, because its database is new or was lost. Quick if it has all of them."""

import json

from pipeline.evaluation.record import EvaluationRecord
from pipeline.stage import Stage, run_stage
from pipeline.tracking.store import certainly_has, tracking_uri


def main() -> None:
    stage = Stage()
    logged: set[str] = set()
    for name in stage.selection.runs:
        record = EvaluationRecord.read(stage.outputs.evaluation_record(name))
        logged |= {record.mlflow_run_id, *map(record.logged_as, record.evaluations)}
    for name in stage.selection.sweeps:
        about = json.loads((stage.outputs.sweep(name) / "sweep.json").read_text())
        logged |= {about["mlflow_run_id"], *about["mlflow_trial_ids"].values()}
    if certainly_has(tracking_uri(stage.root), logged):
        return

    # MLflow takes seconds to import.
    from pipeline.report.results import read_results
    from pipeline.report.tables.tracked import log_tables
    from pipeline.tracking.client import tracker_of
    from pipeline.tracking.runs import log_sweep

    tracker = tracker_of(stage)
    results = read_results(stage.selection.runs, stage.outputs, tracker)
    log_tables({name: stage.project.table(name) for name in stage.project.table_names()}, results.runs, tracker)
    for name in stage.selection.sweeps:
        log_sweep(stage.outputs.sweep(name), tracker)


if __name__ == "__main__":
    run_stage(main)
