"""What may be said about MLflow in ``configs/tracking.yaml``."""

from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.config.tracking import TrackingConfig

GOOD = {"models": True, "registry": "pointrend", "overlays": 4, "system_metrics": 10.0}


def test_what_is_wrong_is_named() -> None:
    assert TrackingConfig.model_validate(GOOD).registry == "pointrend"
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"registry": "a/b"}, "registry"),
        ({"overlays": -1}, "overlays"),
        ({"system_metrics": 0}, "system_metrics"),
        ({"models": False}, "only logged models are registered"),
        ({"model": True}, "model"),
    ]
    for change, message in wrong:
        with pytest.raises(ValidationError, match=message):
            TrackingConfig.model_validate({**GOOD, **change})
    without = TrackingConfig.model_validate({**GOOD, "models": False, "registry": None})
    assert not without.models
