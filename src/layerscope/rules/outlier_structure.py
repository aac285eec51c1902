"""Where the outlier weights of a layer lie: on the diagonal, in one output or in one input."""

from __future__ import annotations

from collections import Counter

from layerscope.metrics.random_matrix import is_grave_trap
from layerscope.records.layers import LayerReport
from layerscope.settings import Settings

MIN_SHARE = 0.8  # share of the outliers that a structure must hold
MIN_ON_DIAGONAL, MIN_IN_LINE = 2, 3  # fewest outliers: by chance, two of them share a line more often


def structure_of_outliers(layer: LayerReport, settings: Settings) -> str:
    """Return "diagonal", "output N" or "input N" if nearly all outlier weights lie there, otherwise ""."""
    ref = layer.ref
    entries = {
        mode.entry
        for role, part in layer.parts.items()
        if role.startswith("shuffle")
        for mode in part.modes
        if mode.entry and is_grave_trap(mode, settings.limits.trap_size)
    }
    if not entries:
        return ""
    offset = 0 if ref.expert is None else 1
    out, into = (ref.axes.index(axis) + offset for axis in "oi")
    if any(len(entry) <= max(out, into) for entry in entries):
        return ""
    side = min(ref.shape[ref.axes.index("o")], ref.shape[ref.axes.index("i")])
    needed = MIN_SHARE * len(entries)
    on_diagonal = sum((entry[out] - entry[into]) % side == 0 for entry in entries)  # of each of stacked square matrices
    if on_diagonal >= max(needed, MIN_ON_DIAGONAL):
        return "diagonal"
    for name, axis in (("output", out), ("input", into)):
        line, count = Counter(entry[axis] for entry in entries).most_common(1)[0]
        if count >= max(needed, MIN_IN_LINE):
            return f"{name} {line}"
    return ""
