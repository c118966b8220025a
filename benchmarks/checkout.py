"""Puts this checkout on the import path: it is what the benchmarks measure, installed or not.

Import it before ``pointrend`` and ``pipeline``. The checkout comes before ``tests/``, which has folders of those names
and the benchmarks' random weights.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
