"""Logs all runs that MLflow does not have, because its database is new or was lost. Quick if it has all of them.

Also logs or registers the models that ``configs/tracking.yaml`` has asked for since the runs were logged.
"""

import json
from pathlib import Path

from pipeline.evaluation.record import EvaluationRecord
from pipeline.stage import Stage, run_stage
from pipeline.tracking.store import certainly_has, share_weights, tracking_uri
from pipeline.training.record import weights_to_use


def main() -> None:
    stage = Stage()
    logged, trained = set[str](), dict[str, Path]()
    for name in stage.selection.runs:
        record = EvaluationRecord.read(stage.outputs.evaluation_record(name))
        trained[record.mlflow_run_id] = weights_to_use(stage.outputs.trained(name))
        logged |= {record.mlflow_run_id, *map(record.logged_as, record.evaluations)}
    for name in stage.selection.sweeps:
        about = json.loads((stage.outputs.sweep(name) / "sweep.json").read_text())
        logged |= {about["mlflow_run_id"], *about["mlflow_trial_ids"].values()}
    uri, settings = tracking_uri(stage.root), stage.project.tracking()
    share_weights(uri, trained)
    models, registered = trained if settings.models else (), trained if settings.registry else ()
    if certainly_has(uri, logged, models, registered):
        return

    # MLflow takes seconds to import.
    from pipeline.report.results import read_results
    from pipeline.report.tables.tracked import log_tables
    from pipeline.tracking.client import tracker_of
    from pipeline.tracking.products import log_products
    from pipeline.tracking.runs import log_sweep

    tracker = tracker_of(stage)
    results = read_results(stage.selection.runs, stage.outputs, tracker)
    for result in results.runs:
        log_products(stage, result.run, result.mlflow_run_id, tracker)
    log_tables({name: stage.project.table(name) for name in stage.project.table_names()}, results.runs, tracker)
    for name in stage.selection.sweeps:
        log_sweep(stage.outputs.sweep(name), tracker)


if __name__ == "__main__":
    run_stage(main)
