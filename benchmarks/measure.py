"""What the benchmarks share: timing candidates in turn, their peak memory, options and output."""

import argparse
import ctypes
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import checkout  # noqa: F401 - every benchmark measures the checkout that it is in
import torch

#: The candidate that the others are compared with, where Detectron2 is installed.
DETECTRON2 = "detectron2"


@dataclass
class Measurement:
    """How long one candidate takes, and how much memory it needs beyond what was in use before."""

    name: str
    seconds: float  # median
    fastest: float
    peak_megabytes: float | None  # None where it cannot be measured


def positive(text: str) -> int:
    """An option's value: a whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def parser(description: str | None) -> argparse.ArgumentParser:
    """An argument parser with the options that every benchmark has."""
    arguments = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    arguments.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    arguments.add_argument("--device", default="cpu", help="cpu or cuda")
    arguments.add_argument("--threads", type=positive, default=torch.get_num_threads(), help="CPU threads")
    arguments.add_argument("--repeats", type=positive, default=7, help="runs of each candidate; the median is printed")
    return arguments


@cache
def has_detectron2() -> bool:
    """Whether Detectron2 and its project PointRend can be imported; prints the reason if not."""
    try:
        import detectron2.modeling  # noqa: F401
        import point_rend  # noqa: F401
    except ImportError as error:
        print(f"without detectron2: {error}", file=sys.stderr)
        return False
    return True


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _resident(field: str) -> float:
    """A field of this process's memory status, in megabytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def peak_megabytes(run: Callable[[], Any], device: torch.device) -> float | None:
    """The most memory in use during a run beyond what was in use before it, in megabytes."""
    gc.collect()
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        _synchronise(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    if not sys.platform.startswith("linux"):
        return None
    # Returns freed memory to the system and resets the peak, so that earlier runs do not count.
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    run()
    return _resident("VmHWM") - before


def measure(candidates: Mapping[str, Callable[[], Any]], device: torch.device, repeats: int) -> list[Measurement]:
    """Times the candidates in turn, after one warm-up run of each, and then measures memory in one more run of each."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for run in candidates.values():
        run()
    for _ in range(repeats):
        for name, run in candidates.items():
            _synchronise(device)
            start = time.perf_counter()
            run()
            _synchronise(device)
            seconds[name].append(time.perf_counter() - start)
    return [
        Measurement(name, statistics.median(seconds[name]), min(seconds[name]), peak_megabytes(run, device))
        for name, run in candidates.items()
    ]


def with_bfloat16(
    cases: Mapping[str, Callable[[], torch.Tensor]], device: torch.device
) -> tuple[dict[str, Callable[[], None]], dict[str, torch.Tensor]]:
    """Candidates for :func:`measure`: each case, and those of this library under autocast to bfloat16 as well.

    Returns:
        the candidates, and the outputs of their last runs by name.
    """
    outputs: dict[str, torch.Tensor] = {}

    def keep(name: str, run: Callable[[], torch.Tensor], bfloat16: bool) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            outputs[name] = run()

    candidates: dict[str, Callable[[], None]] = {}
    for name, run in cases.items():
        candidates[name] = partial(keep, name, run, False)
        if DETECTRON2 not in name:
            candidates[f"{name}, bfloat16"] = partial(keep, f"{name}, bfloat16", run, True)
    return candidates, outputs


def report(
    title: str,
    measurements: list[Measurement],
    as_json: bool,
    agreement: Mapping[str, Mapping[str, float]] | None = None,
    baseline: str = DETECTRON2,
) -> None:
    """Prints a table, or one JSON object.

    Args:
        title: what was measured, with its sizes.
        measurements: one row each.
        as_json: print JSON.
        agreement: by row, named figures of how equal its result is to the baseline's.
        baseline: the row that the others are compared with.
    """
    agreement = agreement or {}
    reference = next((m.seconds for m in measurements if m.name == baseline), None)
    rows = [
        asdict(m) | {"speedup": reference / m.seconds if reference else None} | dict(agreement.get(m.name, {}))
        for m in measurements
    ]
    if as_json:
        print(json.dumps({"title": title, "threads": torch.get_num_threads(), "rows": rows}))
        return
    from rich.console import Console  # an acceptance on a bare machine goes without
    from rich.table import Table

    figures = list(dict.fromkeys(name for row in agreement.values() for name in row))
    table = Table(title=title)
    table.add_column("")
    for column in ("median s", "fastest s", f"x {baseline}", "peak MB", *figures):
        table.add_column(column, justify="right")
    for row in rows:
        cells = [f"{row['seconds']:.3f}", f"{row['fastest']:.3f}"]
        cells.append("" if row["speedup"] is None else f"{row['speedup']:.1f}")
        cells.append("" if row["peak_megabytes"] is None else f"{row['peak_megabytes']:.0f}")
        cells += [f"{row[figure]:.5f}" if figure in row else "" for figure in figures]
        table.add_row(row["name"], *cells)
    Console(width=130).print(table)
