"""What the benchmarks of one process share: CPU seconds, medians of sides that take turns, and the page they write."""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def options(about: str | None, repeats: int) -> argparse.Namespace:
    """``--repeats`` and ``--write``."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--repeats", type=int, default=repeats)
    parser.add_argument("--write", type=Path)
    return parser.parse_args()


def cpu(call: Callable[[], Any]) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    call()
    return time.process_time() - start


def medians(repeats: int, sides: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """CPU seconds of sides that take turns, after one turn that does not count."""
    for side in sides.values():
        side()
    runs = [{name: cpu(side) for name, side in sides.items()} for _ in range(repeats)]
    return {name: statistics.median(run[name] for run in runs) for name in sides}


def write(title: str, how: str, tables: Sequence[Sequence[str]], path: Path | None) -> None:
    """Print the page, and write it where a file is named."""
    origin = f"Written by `make bench` on {platform.machine()}, Python {platform.python_version()}. {how}"
    page = [f"# {title}", "", origin, "", *("\n".join(table) + "\n" for table in tables)]
    text = "\n".join(page).rstrip() + "\n"
    print(text)
    if path:
        path.write_text(text, "utf-8")
