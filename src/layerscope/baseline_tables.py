"""Baselines: what α, the stable rank and rand_distance are in untrained layers and in healthy models.

Untrained layers are simulated on a grid of shapes; between its points, values are interpolated in log M and log Q.
Healthy models were measured once; their layers are grouped by role, and by the family of the optimizer where it is
known. ``make baselines`` writes the table that ships; ``layerscope baselines`` writes one for other models.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from layerscope.errors import UnknownName, Unreadable

FORMAT = "layerscope baselines"
SHIPPED = "baselines.json"
METRICS = ("alpha", "stable_rank", "rand_distance")
MIN_LAYERS = 10  # fewest healthy layers of a role for a usual range
MAX_FILE_BYTES = 20_000_000


@dataclass(frozen=True)
class Span:
    """The middle 90 % of a metric."""

    low: float  # 5 % quantile
    median: float
    high: float  # 95 % quantile


@dataclass(frozen=True)
class Baselines:
    """A table of baselines."""

    untrained: Mapping[str, Mapping[int, Mapping[tuple[int, float], Span]]]  # metric → k (1 or 9) → (M, Q) → span
    healthy: Mapping[tuple[str, str], Mapping[str, Span]]  # (role, optimizer or "") → metric → span
    layers: Mapping[tuple[str, str], int]  # (role, optimizer or "") → number of healthy layers
    sources: Sequence[str]  # where the healthy layers come from

    def of_untrained(self, metric: str, n: int, m: int, k: int) -> Span | None:
        """Return what k pooled untrained n×m matrices give, or None if the table has no such shapes.

        Outside the grid, the value of its nearest edge is returned. The stable rank is stored relative to M·k.
        """
        tables = self.untrained.get(metric)
        if not tables:
            return None
        grid = tables[min(tables, key=lambda size: abs(math.log(size / k)))]
        span = _interpolate(grid, math.log(m), math.log(n / m))
        factor = m * k if metric == "stable_rank" else 1.0
        return span and Span(factor * span.low, factor * span.median, factor * span.high)

    def of_healthy(self, metric: str, role: str, optimizer: str = "") -> Span | None:
        """Return what healthy layers of a role give; those of the optimizer if the table has enough of them.

        The stable rank is relative to that of an untrained layer of the same shape.
        """
        for key in ((role, optimizer), (role, "")):
            if self.layers.get(key, 0) >= MIN_LAYERS and metric in self.healthy[key]:
                return self.healthy[key][metric]
        return None


def _interpolate(grid: Mapping[tuple[int, float], Span], log_m: float, log_q: float) -> Span | None:
    """Interpolate linearly between the four points of a full grid around (log M, log Q)."""
    ms, qs = sorted({m for m, _ in grid}), sorted({q for _, q in grid})
    total = np.zeros(3)
    for m, weight_m in _neighbors(ms, log_m):
        for q, weight_q in _neighbors(qs, log_q):
            span = grid.get((m, q))
            if span is None:
                return None
            total += weight_m * weight_q * np.array([span.low, span.median, span.high])
    return Span(*map(float, total))


def _neighbors(points: Sequence[float], log_value: float) -> list[tuple[Any, float]]:
    """Return the one or two points around a value, with their weights in log scale."""
    logs = [math.log(point) for point in points]
    after = int(np.searchsorted(logs, log_value))
    if after in (0, len(points)):
        return [(points[min(after, len(points) - 1)], 1.0)]
    share = (log_value - logs[after - 1]) / (logs[after] - logs[after - 1])
    return [(points[after - 1], 1 - share), (points[after], share)]


@functools.lru_cache(maxsize=4)
def load_baselines(path: str = "") -> Baselines:
    """Read a table of baselines: that of a file, or the one that ships with layerscope.

    :raises Unreadable: the file does not exist or holds no table of baselines.
    """
    try:
        text = shipped_text() if not path else _read_small_file(Path(path))
        return from_dict(json.loads(text))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Unreadable(
            f"{path}: not a table of baselines ({error or type(error).__name__}); layerscope baselines writes one"
        ) from None


def check_baselines(path: str, optimizer: str) -> None:
    """Check, before anything is measured, that a table can be read and knows the optimizer.

    :raises Unreadable: the file holds no table of baselines.
    :raises UnknownName: the table has no ranges for the optimizer.
    """
    table = load_baselines(path)
    known = sorted({name for _, name in table.layers if name})
    if optimizer and optimizer not in known:
        raise UnknownName("optimizer", optimizer, known)


def _read_small_file(path: Path) -> str:
    """Read a regular file of bounded size: a saved report may name any path."""
    if not path.is_file():
        raise ValueError("no such file" if not path.exists() else "not a regular file")
    with path.open("rb") as file:
        content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise ValueError(f"more than {MAX_FILE_BYTES:,} bytes")
    return content.decode("utf-8")


def shipped_text() -> str:
    """Return the table that ships with layerscope, as JSON."""
    return (resources.files("layerscope") / "data" / SHIPPED).read_text("utf-8")


def from_dict(plain: Mapping[str, Any]) -> Baselines:
    """Build a table from plain JSON types.

    :raises ValueError: if the mapping is not a table of baselines.
    """
    if plain.get("format") != FORMAT:
        raise ValueError("the format is not named")
    untrained: dict[str, dict[int, dict[tuple[int, float], Span]]] = {}
    for row in plain["untrained"]:
        for metric in METRICS:
            if metric in row:
                table = untrained.setdefault(metric, {}).setdefault(int(row["k"]), {})
                table[int(row["m"]), float(row["q"])] = _span(row[metric])
    healthy = {
        (str(row["role"]), str(row["optimizer"])): {name: _span(row[name]) for name in METRICS if name in row}
        for row in plain["healthy"]
    }
    layers = {(str(row["role"]), str(row["optimizer"])): int(row["layers"]) for row in plain["healthy"]}
    return Baselines(untrained, healthy, layers, [str(source) for source in plain["sources"]])


def _span(values: Sequence[float]) -> Span:
    low, median, high = map(float, values)
    if not (math.isfinite(low) and low <= median <= high < math.inf):
        raise ValueError(f"{values!r:.60} are no ascending quantiles")
    return Span(low, median, high)
