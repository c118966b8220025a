"""The stages of ``dvc.yaml``: each parses its arguments and calls the pipeline."""
