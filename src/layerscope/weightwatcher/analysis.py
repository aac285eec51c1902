"""From the chosen layers to the rows of the data frame."""

from __future__ import annotations

from typing import Any

from layerscope import analysis
from layerscope.errors import UsageError
from layerscope.records.report import Report
from layerscope.tensor_names import strip_wrapper_prefixes
from layerscope.weightwatcher.columns import Wanted, row_of
from layerscope.weightwatcher.layers import Layer, key_of, sizes_of, tensors_of
from layerscope.weightwatcher.names import SUPPORTED


def rows_of(
    chosen: list[Layer], base: list[Layer] | None, pool: bool, conv2d_norm: bool, want: Wanted
) -> tuple[Report | None, list[dict[str, Any]]]:
    """A row per layer, or per kernel position without ``pool``; of W − W₀ where there is a base."""
    arrays = tensors_of(chosen, pool, conv2d_norm)
    if not arrays:
        return None, []
    against = None
    if base is not None:
        names = {strip_wrapper_prefixes(layer.longname): layer for layer in base}
        pairs = [(layer, names.get(strip_wrapper_prefixes(layer.longname))) for layer in chosen]
        matched = [(ours, theirs) for ours, theirs in pairs if theirs is not None and theirs.shape == ours.shape]
        if not matched:
            raise UsageError("the base model has no layer of the same name and shape")
        chosen = [ours for ours, _ in matched]
        arrays = tensors_of(chosen, pool, conv2d_norm)
        renamed = [Layer(o.id, o.name, o.longname, o.type, t.weight) for o, t in matched if t is not None]
        against = tensors_of(renamed, pool, conv2d_norm)
    report = analysis.analyze(arrays, base=against, settings=want.settings)
    rows = []
    for layer in chosen:
        for i in range(1 if pool else layer.sizes[2]):
            row = report.layers[key_of(layer, None if pool else i)]
            sizes = sizes_of(layer, pool, i)
            rows.append(row_of(sizes, row, want))
    return report, rows


def arranged(layers: list[Layer], how: str, want: Wanted) -> tuple[Report, list[dict[str, Any]]]:
    """A row per product of consecutive layers ("intra"), or one of all layers ("stacked")."""
    arrays = tensors_of([layer for layer in layers if layer.type in SUPPORTED], True, True)
    report = analysis.analyze(arrays, settings=want.settings, intra=how == "intra", stacked=how == "stacked")
    rows: list[dict[str, Any]] = []
    for found in report.rows:
        s = found.spectrum
        if s is None:
            continue
        sizes = {"layer_id": len(rows), "name": found.name.replace(".weight", ""), "longname": found.name,
                 "layer_type": how, "N": s.n, "M": s.m, "Q": s.n / s.m, "rf": s.k,
                 "num_evals": len(s.evals)}  # fmt: skip
        rows.append(row_of(sizes, found, want) | ({"Xflag": True} if how == "intra" else {}))
    return report, rows


def left_out(layers: list[Layer], rows: list[dict[str, Any]], report: Report | None) -> dict[str, str]:
    """Layer → why there is no row for it, or none with an α."""
    shown = {row["longname"] for row in rows}
    why = "not among the layers asked for, or outside min_evals, max_evals and max_N"
    found = {
        layer.longname: why if layer.type in SUPPORTED else f"of type {layer.type}"
        for layer in layers
        if layer.longname not in shown
    }
    for row in report.rows if report is not None else ():
        reason = row.skipped or row.absent.get("alpha", "")
        if reason:
            found[row.name.removesuffix(".weight")] = reason
    return found
