"""What an acceptance ran on, and which code it accepted."""

import hashlib
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import torchvision
from checkout import ROOT


def _output(*command: str) -> str | None:
    """What a command prints; None if it fails or does not exist."""
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def cpu_name() -> str:
    """The processor's name, or else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def code_digest() -> str:
    """A hash (16 hex digits) of all Python files that compute: of pointrend, pipeline and benchmarks."""
    digest = hashlib.sha256()
    for package in ("benchmarks", "pipeline", "pointrend"):
        for path in sorted((ROOT / package).rglob("*.py")):
            digest.update(f"{path.relative_to(ROOT).as_posix()}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def describe(device: torch.device) -> dict[str, Any]:
    """Device, versions, date and code; None for what does not apply or is not known."""
    cuda = device.type == "cuda"
    changed = _output("git", "status", "--porcelain", "--untracked-files=no")
    return {
        "device": torch.cuda.get_device_name(device) if cuda else cpu_name(),
        "memory GB": round(torch.cuda.get_device_properties(device).total_memory / 1e9, 1) if cuda else None,
        "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") if cuda else None,
        "CPU": cpu_name(),
        "CPU cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "CPU threads": torch.get_num_threads(),
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "CUDA": torch.version.cuda if cuda else None,
        "cuDNN": torch.backends.cudnn.version() if cuda else None,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _output("git", "rev-parse", "HEAD"),
        "changed since": None if changed is None else bool(changed),
        "code": code_digest(),
    }
