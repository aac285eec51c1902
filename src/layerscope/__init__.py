"""layerscope: what is wrong with a neural network, layer by layer, without its data."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from layerscope.api import analyze, analyze_each, compare, describe, load, plan, rejudge
    from layerscope.errors import LayerscopeError, TargetError, UsageError
    from layerscope.history import History
    from layerscope.learning.conditioning import conditioning
    from layerscope.learning.curvature import Curvature, curvature
    from layerscope.learning.monitor import ConditioningMonitor
    from layerscope.learning.probes import ScaleProbe, block_updates, scale_probe, with_last_bn
    from layerscope.report import Comparison, Report
    from layerscope.settings import Limits, Settings
    from layerscope.types import Finding, LayerReport

_HOMES = {
    "api": ("analyze", "analyze_each", "compare", "describe", "load", "plan", "rejudge"),
    "learning.conditioning": ("conditioning",),
    "learning.curvature": ("Curvature", "curvature"),
    "learning.monitor": ("ConditioningMonitor",),
    "learning.probes": ("ScaleProbe", "block_updates", "scale_probe", "with_last_bn"),
    "history": ("History",),
    "errors": ("LayerscopeError", "TargetError", "UsageError"),
    "settings": ("Limits", "Settings"),
    "report": ("Comparison", "Report"),
    "types": ("Finding", "LayerReport"),
}
__all__ = [
    "Comparison",
    "ConditioningMonitor",
    "Curvature",
    "Finding",
    "History",
    "LayerReport",
    "LayerscopeError",
    "Limits",
    "Report",
    "ScaleProbe",
    "Settings",
    "TargetError",
    "UsageError",
    "analyze",
    "analyze_each",
    "block_updates",
    "compare",
    "conditioning",
    "curvature",
    "describe",
    "load",
    "plan",
    "rejudge",
    "scale_probe",
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
