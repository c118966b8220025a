"""Checks a dataset, writes its Parquet manifests, and prints what it teaches."""

import argparse

from rich.console import Console

from pipeline.data.manifest import read_prepared
from pipeline.data.prepare import expected_images, prepare
from pipeline.progress import progress
from pipeline.report.dataset_check import show_contents
from pipeline.stage import Stage, run_stage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", required=True)
    name = parser.parse_args().dataset
    stage = Stage()
    dataset = stage.dataset(name)
    output = stage.outputs.prepared(name)
    prepare(
        dataset,
        stage.data_root(dataset),
        output,
        stage.root / ".pointrend" / "known_pictures.parquet",
        progress(f"check {name}", expected_images(dataset)),
    )
    prepared = read_prepared(output)
    show_contents(Console(highlight=False), prepared)
    for note in prepared.picture_notes:
        print(f"{name}: {note}")


if __name__ == "__main__":
    run_stage(main)
