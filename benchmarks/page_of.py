"""Shared by the benchmarks that run in one process: measure CPU seconds, take medians, write the page."""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def options(about: str | None, repeats: int) -> argparse.Namespace:
    """Parse the options ``--repeats`` and ``--write``."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--repeats", type=int, default=repeats)
    parser.add_argument("--write", type=Path)
    return parser.parse_args()


def cpu(call: Callable[[], Any]) -> float:
    """Measure the CPU seconds of one call."""
    start = time.process_time()
    call()
    return time.process_time() - start


def medians(repeats: int, sides: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Measure the median CPU seconds of several calls that take turns, after one warm-up turn."""
    for side in sides.values():
        side()
    runs = [{name: cpu(side) for name, side in sides.items()} for _ in range(repeats)]
    return {name: statistics.median(run[name] for run in runs) for name in sides}


def write(title: str, about: str, how: str, tables: Sequence[Sequence[str]], path: Path | None) -> None:
    """Print the page; write it to ``path`` if that is given."""
    origin = f"`make bench` wrote this page on {platform.machine()} with Python {platform.python_version()}. {how}"
    page = [f"# {title}", "", about, "", origin, "", *("\n".join(table) + "\n" for table in tables)]
    text = "\n".join(page).rstrip() + "\n"
    print(text)
    if path:
        path.write_text(text, "utf-8")
