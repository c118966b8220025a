"""Draws a synthetic dataset."""

import argparse

from pipeline.config import SyntheticConfig, load
from pipeline.data.synthetic import ShapesSpec, generate_shapes
from pipeline.progress import progress
from pipeline.stage import Stage, run_stage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", required=True)
    name = parser.parse_args().dataset
    stage = Stage()
    config = load(SyntheticConfig, stage.outputs.config("synthetic", name))
    spec = ShapesSpec(**config.model_dump(exclude={"draws"}))
    with progress(f"generate {name}", spec.train_images + spec.val_images) as bar:
        generate_shapes(spec, stage.root / stage.params.data_root / name, on_image=bar.advance)


if __name__ == "__main__":
    run_stage(main)
