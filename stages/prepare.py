"""Checks a dataset and writes its Parquet manifests."""

import argparse

from pipeline.data.manifest import read_prepared
from pipeline.data.prepare import expected_images, prepare
from pipeline.progress import progress
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
    for note in read_prepared(output).picture_notes:
        print(f"{name}: {note}")


if __name__ == "__main__":
    run_stage(main)
