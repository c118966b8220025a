"""Draws a synthetic dataset."""

import argparse

from pipeline.config.synthetic import ShapesConfig, load_synthetic
from pipeline.progress import progress
from pipeline.stage import Stage, run_stage
from pipeline.synthetic import ShapesSpec, StreetsSpec, generate_shapes, generate_streets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", required=True)
    name = parser.parse_args().dataset
    stage = Stage()
    config = load_synthetic(stage.outputs.config("synthetic", name))
    options = config.model_dump(exclude={"draws"})
    folder = stage.outputs.drawn(name)
    with progress(f"generate {name}", config.train_images + config.val_images) as bar:
        if isinstance(config, ShapesConfig):
            generate_shapes(ShapesSpec(**options), folder, on_image=bar.advance)
        else:
            generate_streets(StreetsSpec(**options), folder, on_image=bar.advance)


if __name__ == "__main__":
    run_stage(main)
