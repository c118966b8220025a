"""Trains one run: submits its job, which also evaluates the run, and collects the results of the training."""

import argparse
import shutil

from pipeline.cluster.lookup import training_of
from pipeline.graph import stages_in_scope
from pipeline.stage import Stage, run_stage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", required=True)
    name = parser.parse_args().run
    stage = Stage()
    training = training_of(stage, name)
    evaluate = bool(stages_in_scope([f"evaluate@{name}"]) and stage.evaluation(name).root)
    if training.is_done:
        print(f"{training.id}: trained already", flush=True)
    else:
        # Ray takes seconds to import, and collecting results does not need it.
        from pipeline.cluster.requests import place_of, ready_requests, run_request
        from pipeline.cluster.submission import wait_for

        request = run_request(stage, name, train=True, evaluate=evaluate)
        wait_for(request, lambda: ready_requests(stage, f"train@{name}"), place_of(stage))
    training.collect(stage.outputs.trained(name))
    if stage.cluster.storage is None and not evaluate:
        shutil.rmtree(training.storage)  # no other stage waits for it


if __name__ == "__main__":
    run_stage(main)
