"""How many CPUs this process may use, which in a container or under ``taskset`` is fewer than the machine has."""

import math
import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
PROCESS_CGROUPS = Path("/proc/self/cgroup")


def usable_cpus(cgroups: Path = CGROUPS, process_cgroups: Path = PROCESS_CGROUPS) -> int:
    """The CPUs that this process may run on, or the share of CPU time that its control group grants if that is less.

    Args:
        cgroups: where Linux shows control groups.
        process_cgroups: the file that names those of this process.

    Returns:
        at least 1; a share is rounded up.
    """
    if hasattr(os, "process_cpu_count"):
        cpus = os.process_cpu_count()
    elif hasattr(os, "sched_getaffinity"):
        cpus = len(os.sched_getaffinity(0))
    else:
        cpus = os.cpu_count()
    shares = [math.ceil(share) for share in _granted_shares(cgroups, process_cgroups)]
    return max(1, min([cpus or 1, *shares]))


def _granted_shares(cgroups: Path, process_cgroups: Path) -> list[float]:
    """How many CPUs' time each control group of this process, and each group above, grants; unlimited ones left out."""
    shares = []
    files: tuple[str, ...]
    for line in _read(process_cgroups).splitlines():
        _, controllers, name = line.split(":", 2)
        if controllers == "":  # version 2: one file, "<quota> <period>", the quota "max" if unlimited
            files, root = ("cpu.max",), cgroups
        elif "cpu" in controllers.split(","):  # version 1: a file each, the quota -1 if unlimited
            files, root = ("cpu.cfs_quota_us", "cpu.cfs_period_us"), cgroups / "cpu"
        else:
            continue
        # The limits of the groups above hold too. In a container, the name may be the one on the host; then only the
        # root exists here.
        group = root / name.strip("/")
        for folder in (group, *group.parents):
            if not folder.is_relative_to(root):
                break
            values = " ".join(_read(folder / file) for file in files).split()
            if len(values) == 2 and values[0] not in ("max", "-1"):
                shares.append(int(values[0]) / int(values[1]))
    return shares


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
