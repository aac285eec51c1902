"""Deprecated: use ``layerscope.records`` and ``layerscope.numerics.spectrum`` instead."""

import warnings

from layerscope.numerics.spectrum import Mode, Spectrum
from layerscope.records.findings import Finding, Verdict
from layerscope.records.layers import Fit, Job, LayerRef, LayerReport, Measurement, Part
from layerscope.records.sources import Source, SourceSpec

__all__ = [
    "Finding", "Fit", "Job", "LayerRef", "LayerReport", "Measurement", "Mode", "Part", "Source", "SourceSpec",
    "Spectrum", "Verdict",
]  # fmt: skip

warnings.warn(
    "layerscope.types is deprecated: import from layerscope.records.layers, layerscope.records.findings, "
    "layerscope.records.sources and layerscope.numerics.spectrum",
    DeprecationWarning,
    stacklevel=2,
)
