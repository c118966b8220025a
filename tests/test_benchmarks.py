"""Benchmarks that still run."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_predict_folder() -> None:
    command = [sys.executable, "benchmarks/predict_folder.py", "--quick", "--json", "--threads", "1"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    rows = {row["name"]: row for row in json.loads(result.stdout)["rows"]}
    assert {"predict, json", "predict, overlays and json"} < set(rows)
    assert len({row["objects"] for row in rows.values()}) == 1
    assert all(row["images/s"] > 0 for row in rows.values())
