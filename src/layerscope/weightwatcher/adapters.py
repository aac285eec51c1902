"""Analyze LoRA adapters of a live model or of a folder: B·A alone, or together with W and W + B·A."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope import analysis
from layerscope.errors import UnknownName, UsageError
from layerscope.numerics.matrices import low_rank_core
from layerscope.records.report import Report
from layerscope.sources.adapters import lora_factors
from layerscope.sources.layouts.torch_names import TensorInfo
from layerscope.sources.opening import open_target
from layerscope.sources.readers import lora
from layerscope.weightwatcher.columns import ColumnOptions, build_row
from layerscope.weightwatcher.layers import Layer, is_module
from layerscope.weightwatcher.names import PEFT_WITH_BASE

if TYPE_CHECKING:
    from layerscope.array_types import Array


def analyze_adapters(
    model: Any, layers: list[Layer], peft: Any, options: ColumnOptions
) -> tuple[Report, list[dict[str, Any]]]:
    """Analyze B·A of each adapter; with ``peft="with_base"``, W and W + B·A as well."""
    if peft not in (True, PEFT_WITH_BASE):
        raise UnknownName("peft setting", str(peft), ("True", PEFT_WITH_BASE))
    weights = {layer.longname: layer for layer in layers}
    arrays: dict[str, Array] = {}
    matrices: list[tuple[str, str, tuple[int, ...]]] = []
    for factors, a, b, scale in find_adapters(model, layers):
        update = lora_factors.full_product(factors, a, b, scale)
        base = weights.get(factors.stem) or weights.get(f"{factors.stem}.base_layer")
        matrices_by_kind = {"lora_BA": update}
        if peft == PEFT_WITH_BASE:
            if base is None or base.shape != update.shape:
                raise UsageError(
                    f"peft='with_base': the model has no base weight of shape {update.shape} for {factors.stem}; "
                    "use peft=True for the adapters alone"
                )
            base_weight = base.array().astype(np.float64)
            matrices_by_kind = {"base": base_weight, "lora_W_plus_AB": base_weight + update, **matrices_by_kind}
        for kind, matrix in matrices_by_kind.items():
            core = low_rank_core(a, b, scale) if kind == "lora_BA" and factors.rank <= min(update.shape) else matrix
            arrays[f"{factors.label}.{kind}.weight"] = core
            matrices.append((f"{factors.label}.{kind}", kind, update.shape))
    if not arrays:
        raise UsageError(f"peft={peft!r}: the model has no LoRA factors (lora_A, lora_B); leave peft out")
    report = analysis.analyze(arrays, settings=options.settings)
    rows = []
    for i, (name, kind, shape) in enumerate(matrices):
        layer_report = report.layers[f"{name}.weight"]
        count = len(layer_report.spectrum.evals) if layer_report.spectrum is not None else 0
        sizes = {"layer_id": i, "name": kind, "longname": name, "layer_type": "dense", "N": max(shape), "M": min(shape),
                 "Q": max(shape) / min(shape), "rf": 1, "num_evals": count, "peft": True}  # fmt: skip
        rows.append(build_row(sizes, layer_report, options))
    return report, rows


def find_adapters(model: Any, layers: list[Layer]) -> list[tuple[lora_factors.Factors, Array, Array, float]]:
    """Return (factors, A, B, scale) for each adapter of a live model or an adapter folder."""
    if isinstance(model, str | Path) and lora.is_adapter(model):
        source = open_target(model)
        assert isinstance(source, lora.AdapterSource)
        weights, scales, tensors = source.weights.fetch, source.scales, source.weights.tensors
    elif is_module(model):
        by_name = {f"{layer.longname}.weight": layer for layer in layers}
        scales, weights = {}, lambda name: by_name[name].array()
        tensors = [TensorInfo(f"{layer.longname}.weight", layer.shape, "float64") for layer in layers]
    else:
        raise UsageError(
            "peft needs a live PEFT model (which states its scaling) or an adapter folder with an adapter_config.json"
        )
    adapters = []
    for factors in lora_factors.group_factors(tensors)[0]:
        if factors.fault():
            raise UsageError(f"peft needs complete LoRA factors; {factors.label}: {factors.fault()}")
        a, b = (weights(factors.tensors[which].name) for which in "AB")
        scale = scales.get(factors.label)
        adapters.append((factors, a, b, _read_live_scale(model, factors) if scale is None else scale))
    return adapters


def _read_live_scale(model: Any, factors: lora_factors.Factors) -> float:
    """Read PEFT's ``scaling`` attribute from the module that has the adapter."""
    for path, owner in model.named_modules():
        if path.removeprefix(lora_factors.PREFIX) == factors.stem:
            scaling = getattr(owner, "scaling", None)
            value = scaling.get(factors.adapter or "default") if isinstance(scaling, Mapping) else scaling
            if isinstance(value, int | float):
                return float(value)
    raise UsageError(f"peft: the module {factors.stem!r} needs the PEFT attribute `scaling` (lora_alpha / r)")
