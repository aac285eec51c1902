"""Deprecated: use ``layerscope.Report`` and ``layerscope.Comparison`` instead."""

import warnings

from layerscope.records.comparison import ComparedLayer, Comparison
from layerscope.records.report import Layers, Report

__all__ = ["ComparedLayer", "Comparison", "Layers", "Report"]

warnings.warn(
    "layerscope.report is deprecated: use layerscope.Report and layerscope.Comparison", DeprecationWarning, stacklevel=2
)
