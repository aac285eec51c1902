"""layerscope: what is wrong with a neural network, layer by layer, without its data."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from layerscope.api import analyze, analyze_each, compare, describe, load, plan, rejudge
    from layerscope.errors import LayerscopeError, LayerscopeWarning, TargetError, UsageError
    from layerscope.history import History
    from layerscope.landscape.align import Alignment, align
    from layerscope.landscape.basins import Basins, basins
    from layerscope.landscape.canonical import canonical
    from layerscope.landscape.curves import Curve, connect
    from layerscope.landscape.directions import (
        Trajectory,
        plane_around,
        plane_of_path,
        random_direction,
        trajectory,
    )
    from layerscope.landscape.distances import Distances, distances
    from layerscope.landscape.evaluate import TorchEvaluator
    from layerscope.landscape.functions import FunctionDistance, function_distance
    from layerscope.landscape.keras import KerasEvaluator
    from layerscope.landscape.losses import inverted_cross_entropy
    from layerscope.landscape.paths import Line, Plane, line, plane
    from layerscope.landscape.sharpness import Sharpness, sharpness
    from layerscope.learning.checks import Check
    from layerscope.learning.conditioning import conditioning
    from layerscope.learning.criteria import Criterion
    from layerscope.learning.curvature import Curvature, curvature
    from layerscope.learning.monitor import ConditioningMonitor
    from layerscope.learning.probes import ScaleProbe, block_updates, scale_probe, with_last_bn
    from layerscope.learning.scheduler import TempBalance
    from layerscope.learning.watching import Monitor
    from layerscope.report import Comparison, Report
    from layerscope.settings import Limits, Settings
    from layerscope.types import Finding, LayerReport

_HOMES = {
    "api": ("analyze", "analyze_each", "compare", "describe", "load", "plan", "rejudge"),
    "learning.conditioning": ("conditioning",),
    "learning.curvature": ("Curvature", "curvature"),
    "learning.criteria": ("Criterion",),
    "learning.monitor": ("ConditioningMonitor",),
    "learning.probes": ("ScaleProbe", "block_updates", "scale_probe", "with_last_bn"),
    "learning.scheduler": ("TempBalance",),
    "learning.checks": ("Check",),
    "learning.watching": ("Monitor",),
    "history": ("History",),
    "landscape.align": ("Alignment", "align"),
    "landscape.canonical": ("canonical",),
    "landscape.basins": ("Basins", "basins"),
    "landscape.curves": ("Curve", "connect"),
    "landscape.directions": ("Trajectory", "plane_around", "plane_of_path", "random_direction", "trajectory"),
    "landscape.distances": ("Distances", "distances"),
    "landscape.evaluate": ("TorchEvaluator",),
    "landscape.losses": ("inverted_cross_entropy",),
    "landscape.keras": ("KerasEvaluator",),
    "landscape.functions": ("FunctionDistance", "function_distance"),
    "landscape.paths": ("Line", "Plane", "line", "plane"),
    "landscape.sharpness": ("Sharpness", "sharpness"),
    "errors": ("LayerscopeError", "LayerscopeWarning", "TargetError", "UsageError"),
    "settings": ("Limits", "Settings"),
    "report": ("Comparison", "Report"),
    "types": ("Finding", "LayerReport"),
}
__all__ = [
    "Alignment",
    "Basins",
    "Check",
    "Comparison",
    "ConditioningMonitor",
    "Criterion",
    "Curvature",
    "Curve",
    "Distances",
    "Finding",
    "FunctionDistance",
    "History",
    "KerasEvaluator",
    "LayerReport",
    "LayerscopeError",
    "LayerscopeWarning",
    "Limits",
    "Line",
    "Monitor",
    "Plane",
    "Report",
    "ScaleProbe",
    "Settings",
    "Sharpness",
    "TargetError",
    "TempBalance",
    "TorchEvaluator",
    "Trajectory",
    "UsageError",
    "align",
    "analyze",
    "analyze_each",
    "basins",
    "block_updates",
    "canonical",
    "compare",
    "conditioning",
    "connect",
    "curvature",
    "describe",
    "distances",
    "function_distance",
    "inverted_cross_entropy",
    "line",
    "load",
    "plan",
    "plane",
    "plane_around",
    "plane_of_path",
    "random_direction",
    "rejudge",
    "scale_probe",
    "sharpness",
    "trajectory",
    "with_last_bn",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: ``import layerscope`` itself loads nothing."""
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"layerscope.{module}"), name)
    if name == "__version__":
        from importlib.metadata import version

        return version("layerscope")
    raise AttributeError(f"module 'layerscope' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
