"""Number of cores and amount of memory available to this process."""

from __future__ import annotations

import os
from pathlib import Path


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_memory() -> int:
    """Return the bytes available without swapping: the smaller limit of the system and the control group."""
    amounts = [1 << 50]
    free = [line for line in _read_lines("/proc/meminfo") if line.startswith("MemAvailable:")]
    amounts += [int(line.split()[1]) << 10 for line in free]
    limit, used = (_read_lines(f"/sys/fs/cgroup/memory.{x}") for x in ("max", "current"))
    if limit and used and limit[0].isdigit():
        amounts.append(int(limit[0]) - int(used[0]))
    return max(0, min(amounts))


def _read_lines(path: str) -> list[str]:
    try:
        return Path(path).read_text("ascii").splitlines()
    except OSError:
        return []
