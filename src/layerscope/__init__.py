"""layerscope: diagnose neural networks layer by layer from their weights, without training or test data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from layerscope.analysis import analyze, analyze_each, compare, describe, plan, rejudge
    from layerscope.errors import LayerscopeError, LayerscopeWarning, TargetError, UsageError
    from layerscope.lenses.landscape.alignment.canonical_form import canonical
    from layerscope.lenses.landscape.alignment.weight_matching import align
    from layerscope.lenses.landscape.evaluation.inverted_loss import inverted_cross_entropy
    from layerscope.lenses.landscape.evaluation.keras_evaluator import KerasEvaluator
    from layerscope.lenses.landscape.evaluation.torch_evaluator import TorchEvaluator
    from layerscope.lenses.landscape.geometry.basins import basins
    from layerscope.lenses.landscape.geometry.curves import connect
    from layerscope.lenses.landscape.geometry.directions import (
        plane_around,
        plane_of_path,
        random_direction,
        trajectory,
    )
    from layerscope.lenses.landscape.geometry.distances import distances
    from layerscope.lenses.landscape.geometry.function_distance import function_distance
    from layerscope.lenses.landscape.geometry.lines_and_planes import line, plane
    from layerscope.lenses.landscape.geometry.sharpness import sharpness
    from layerscope.lenses.learning_statistics.conditioning import conditioning
    from layerscope.lenses.learning_statistics.curvature import Curvature, curvature
    from layerscope.lenses.learning_statistics.probes import ScaleProbe, block_updates, scale_probe, with_last_bn
    from layerscope.monitor.checks import Check
    from layerscope.monitor.conditioning_monitor import ConditioningMonitor
    from layerscope.monitor.criteria import Criterion
    from layerscope.monitor.temp_balance import TempBalance
    from layerscope.monitor.training_monitor import Monitor
    from layerscope.persistence.report_file import load_any as load
    from layerscope.records.comparison import Comparison
    from layerscope.records.findings import Finding
    from layerscope.records.history import History
    from layerscope.records.landscape.basins import Basins, Sharpness
    from layerscope.records.landscape.distances import Alignment, Distances, FunctionDistance
    from layerscope.records.landscape.lines import Curve, Line
    from layerscope.records.landscape.planes import Plane, Trajectory
    from layerscope.records.layers import LayerReport
    from layerscope.records.report import Report
    from layerscope.settings import Limits, Settings

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
    """Import a public name on first use, so that ``import layerscope`` is fast."""
    if name == "__version__":
        from importlib.metadata import version

        return version("layerscope")
    from layerscope.api import public_name

    return public_name(name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
