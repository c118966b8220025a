"""Draws a synthetic dataset."""

import argparse

from pipeline.config import ConfigError, SyntheticDataset
from pipeline.data.synthetic import SyntheticSpec, generate
from pipeline.progress import progress
from pipeline.stage import Stage, run_stage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", required=True)
    name = parser.parse_args().dataset
    stage = Stage()
    config = stage.dataset(name)
    if not isinstance(config, SyntheticDataset):
        raise ConfigError(f"{stage.project.configs / 'datasets' / name}.yaml: not a synthetic dataset")
    spec = SyntheticSpec(**config.model_dump(exclude={"source"}))
    with progress(f"generate {name}", spec.train_images + spec.val_images) as bar:
        generate(spec, stage.dataset_root(name), on_image=bar.advance)


if __name__ == "__main__":
    run_stage(main)
