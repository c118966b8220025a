"""Errors of files that cannot be scored."""

from pipeline.errors import UserError


class PredictionError(UserError, ValueError):
    """Predictions that cannot be scored; the message names the file and the entry."""


class GroundTruthError(UserError, ValueError):
    """Ground truth that cannot be used; the message names the file."""


class NothingToScoreError(UserError, ValueError):
    """Files from which no score follows; the message says what is missing."""
