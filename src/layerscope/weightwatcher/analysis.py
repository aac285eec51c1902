"""Measure the selected layers and build the rows of the data frame."""

from __future__ import annotations

from typing import Any

from layerscope import analysis
from layerscope.errors import UsageError
from layerscope.records.report import Report
from layerscope.tensor_names import strip_wrapper_prefixes
from layerscope.weightwatcher.columns import ColumnOptions, build_row
from layerscope.weightwatcher.layers import Layer, key_of, sizes_of, tensors_of
from layerscope.weightwatcher.names import SUPPORTED


def measure_layers(
    chosen: list[Layer], base: list[Layer] | None, pool: bool, conv2d_norm: bool, options: ColumnOptions
) -> tuple[Report | None, list[dict[str, Any]]]:
    """Measure layers and return the report and its rows.

    :param base: layers of the base model; W − W₀ is measured then, layers matched by name.
    :param pool: one row per layer; False gives one row per kernel position.
    :raises UsageError: no layer of the base model matches.
    """
    arrays = tensors_of(chosen, pool, conv2d_norm)
    if not arrays:
        return None, []
    base_arrays = None
    if base is not None:
        base_by_name = {strip_wrapper_prefixes(layer.longname): layer for layer in base}
        pairs = [(layer, base_by_name.get(strip_wrapper_prefixes(layer.longname))) for layer in chosen]
        matched = [
            (layer, base_layer)
            for layer, base_layer in pairs
            if base_layer is not None and base_layer.shape == layer.shape
        ]
        if not matched:
            raise UsageError("base_model must have a layer with the same name and shape as a layer of the model")
        chosen = [layer for layer, _ in matched]
        arrays = tensors_of(chosen, pool, conv2d_norm)
        renamed = [Layer(o.id, o.name, o.longname, o.type, t.weight) for o, t in matched if t is not None]
        base_arrays = tensors_of(renamed, pool, conv2d_norm)
    report = analysis.analyze(arrays, base=base_arrays, settings=options.settings)
    rows = []
    for layer in chosen:
        for i in range(1 if pool else layer.sizes[2]):
            layer_report = report.layers[key_of(layer, None if pool else i)]
            sizes = sizes_of(layer, pool, i)
            rows.append(build_row(sizes, layer_report, options))
    return report, rows


def measure_arrangement(
    layers: list[Layer], arrangement: str, options: ColumnOptions
) -> tuple[Report, list[dict[str, Any]]]:
    """Measure the products of consecutive layers ("intra"), or all layers stacked into one matrix ("stacked")."""
    arrays = tensors_of([layer for layer in layers if layer.type in SUPPORTED], True, True)
    report = analysis.analyze(
        arrays, settings=options.settings, intra=arrangement == "intra", stacked=arrangement == "stacked"
    )
    rows: list[dict[str, Any]] = []
    for layer_report in report.rows:
        spectrum = layer_report.spectrum
        if spectrum is None:
            continue
        sizes = {
            "layer_id": len(rows),
            "name": layer_report.name.replace(".weight", ""),
            "longname": layer_report.name,
            "layer_type": arrangement,
            "N": spectrum.n,
            "M": spectrum.m,
            "Q": spectrum.n / spectrum.m,
            "rf": spectrum.k,
            "num_evals": len(spectrum.evals),
        }
        rows.append(build_row(sizes, layer_report, options) | ({"Xflag": True} if arrangement == "intra" else {}))
    return report, rows


def explain_missing_rows(layers: list[Layer], rows: list[dict[str, Any]], report: Report | None) -> dict[str, str]:
    """Return the reason for each layer without a row or without an α, by layer name."""
    analyzed_names = {row["longname"] for row in rows}
    not_selected = "not selected by layers, or outside min_evals, max_evals and max_N"
    reasons = {
        layer.longname: not_selected if layer.type in SUPPORTED else f"layers of type {layer.type} are not analyzed"
        for layer in layers
        if layer.longname not in analyzed_names
    }
    for row in report.rows if report is not None else ():
        reason = row.skipped or row.absent.get("alpha", "")
        if reason:
            reasons[row.name.removesuffix(".weight")] = reason
    return reasons
