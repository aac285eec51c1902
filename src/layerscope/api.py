"""Public names and the modules that define them; each module is imported on first use."""

from __future__ import annotations

import importlib
from typing import Any

PUBLIC_NAMES = {
    "analysis": ("analyze", "analyze_each", "compare", "describe", "plan", "rejudge"),
    "audits.merge_check": ("merge_check",),
    "audits.live_data": ("live_data", "text_data"),
    "audits.model_diff": ("diff",),
    "audits.quantization_audit": ("quantization",),
    "audits.quantization_plan": ("quantization_plan",),
    "baseline_making": ("baselines_of",),
    "persistence.report_file": ("load_any",),
    "lenses.learning_statistics.conditioning": ("conditioning",),
    "lenses.learning_statistics.curvature": ("Curvature", "curvature"),
    "lenses.learning_statistics.probes": ("ScaleProbe", "block_updates", "scale_probe", "with_last_bn"),
    "lenses.landscape.alignment.canonical_form": ("canonical",),
    "lenses.landscape.alignment.weight_matching": ("align",),
    "lenses.landscape.evaluation.inverted_loss": ("inverted_cross_entropy",),
    "lenses.landscape.evaluation.keras_evaluator": ("KerasEvaluator",),
    "lenses.landscape.evaluation.torch_evaluator": ("TorchEvaluator",),
    "lenses.landscape.geometry.basins": ("basins",),
    "lenses.landscape.geometry.curves": ("connect",),
    "lenses.landscape.geometry.directions": ("plane_around", "plane_of_path", "random_direction", "trajectory"),
    "lenses.landscape.geometry.distances": ("distances",),
    "lenses.landscape.geometry.function_distance": ("function_distance",),
    "lenses.landscape.geometry.lines_and_planes": ("line", "plane"),
    "lenses.landscape.geometry.sharpness": ("sharpness",),
    "monitor.checks": ("Check",),
    "monitor.conditioning_monitor": ("ConditioningMonitor",),
    "monitor.criteria": ("Criterion",),
    "monitor.temp_balance": ("TempBalance",),
    "monitor.training_monitor": ("Monitor",),
    "records.comparison": ("Comparison",),
    "records.findings": ("Finding",),
    "records.history": ("History",),
    "records.landscape.basins": ("Basins", "Sharpness"),
    "records.landscape.distances": ("Alignment", "Distances", "FunctionDistance"),
    "records.landscape.lines": ("Curve", "Line"),
    "records.landscape.planes": ("Plane", "Trajectory"),
    "records.merge_check": ("MergeCheck",),
    "records.layers": ("LayerReport",),
    "records.quantization": ("QuantizationAudit", "QuantizationPlan"),
    "records.report": ("Report",),
    "settings": ("Limits", "Settings"),
    "errors": ("LayerscopeError", "LayerscopeWarning", "TargetError", "UsageError"),
}
RENAMED = {"load": "load_any"}  # public name → name in its module, if they differ
MODULES = {name: module for module, names in PUBLIC_NAMES.items() for name in names}


def public_name(name: str) -> Any:
    """Import and return the object with a public name.

    :raises AttributeError: layerscope has no such public name.
    """
    own_name = RENAMED.get(name, name)
    if own_name not in MODULES or name in RENAMED.values():
        raise AttributeError(f"module 'layerscope' has no attribute {name!r}")
    return getattr(importlib.import_module(f"layerscope.{MODULES[own_name]}"), own_name)


def __getattr__(name: str) -> Any:
    return public_name(name)
