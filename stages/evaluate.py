"""Evaluates one run under all of its settings: collects the results of the run's job, or submits a job first."""

import argparse
import shutil

from pipeline.cluster.lookup import evaluation_of, training_of
from pipeline.evaluation.evaluation import write_empty_evaluation
from pipeline.stage import Stage, run_stage
from pipeline.training.record import TrainingRecord


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", required=True)
    name = parser.parse_args().run
    stage = Stage()
    outputs = stage.outputs
    collected = outputs.predictions(name), outputs.evaluation_record(name), outputs.metrics(name)
    record = TrainingRecord.read(outputs.trained(name))
    evaluation = evaluation_of(stage, name, training_of(stage, name), record.key)
    if evaluation is None:
        write_empty_evaluation(record, *collected)
        return
    if not evaluation.is_done:
        # Ray takes seconds to import, and collecting results does not need it.
        from pipeline.cluster.requests import place_of, ready_requests, run_request
        from pipeline.cluster.submission import wait_for

        request = run_request(stage, name, train=False, evaluate=True)
        wait_for(request, lambda: ready_requests(stage, f"evaluate@{name}"), place_of(stage), show_earlier_output=False)
    evaluation.collect(*collected)
    if stage.cluster.storage is None:
        shutil.rmtree(evaluation.root)  # no other stage waits for it


if __name__ == "__main__":
    run_stage(main)
