"""Checks a dataset and writes its Parquet manifests."""

import argparse

from pipeline.config import coco_layout
from pipeline.data.prepare import prepare
from pipeline.progress import progress
from pipeline.stage import Stage, run_stage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", required=True)
    name = parser.parse_args().dataset
    stage = Stage()
    prepare(
        coco_layout(name, stage.dataset(name)),
        stage.dataset_root(name),
        stage.outputs.prepared(name),
        progress(f"check {name}", None),
    )


if __name__ == "__main__":
    run_stage(main)
