"""A report as rows: what the table, CSV, JSON and pandas share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from layerscope import registry
from layerscope.errors import MissingExtra, UnknownName
from layerscope.numerics.matrices import dimensions
from layerscope.report import Report
from layerscope.types import LayerReport

if TYPE_CHECKING:
    import pandas as pd

SIZES = ("layer_id", "name", "layer_type", "shape", "N", "M", "Q", "rf", "num_evals", "dtype", "params", "skipped")

HEADS = {
    "layer_id": "#", "name": "layer", "layer_type": "type", "verdicts": "verdict", "num_evals": "evals",
    "size": "N×M·rf", "num_spikes": "spikes", "mp_softrank": "mp.sr", "alpha_farms": "α farms",
}  # fmt: skip
ALIASES = {head: name for name, head in HEADS.items() if name != "size"} | {"num_traps": "rand_num_spikes"}


def sizes(layer: LayerReport, conv: str) -> dict[str, Any]:
    """The columns that the header alone gives; N, M, Q and rf are None for tensors that are no matrix."""
    ref = layer.ref
    spectrum = layer.spectrum
    if spectrum is not None:
        k, n, m = spectrum.k, spectrum.n, spectrum.m
    elif ref.axes:
        k, n, m = dimensions(ref, conv)
    else:
        k = n = m = 0
    return {
        "layer_id": ref.index,
        "name": layer.name,
        "layer_type": ref.kind,
        "shape": list(ref.shape),
        "N": n or None,
        "M": m or None,
        "Q": n / m if m else None,
        "rf": k or None,
        "num_evals": k * m if m else None,
        "dtype": ref.dtype,
        "params": ref.params,
        "skipped": layer.skipped,
    }


def rows(report: Report) -> list[dict[str, Any]]:
    """One dict per tensor: sizes, every metric (None where absent), how it was read, its verdict codes."""
    names = [name for name in metric_names() if name not in SIZES]
    verdicts: dict[str | None, list[str]] = {}
    for finding in report.findings:
        verdicts.setdefault(finding.layer, []).append(finding.code)
    conv = report.settings.conv
    return [
        {
            **sizes(layer, conv),
            **{name: layer.metrics.get(name) for name in names},
            "verdicts": " ".join(verdicts.get(layer.name, [])),
            "how": layer.ref.how,
        }
        for layer in report.rows
    ]


def metric_names() -> list[str]:
    """Every metric, grouped by theme."""
    return list(registry.plugins("metrics"))


def columns() -> list[str]:
    """Every column a table can show."""
    return [*SIZES, *(name for name in metric_names() if name not in SIZES), "verdicts", "how"]


def chosen(names: list[str]) -> list[str]:
    """The same names, checked; headings of the table will do too."""
    names = [ALIASES.get(name, name) for name in names]
    for name in names:
        if name not in columns():
            raise UnknownName("column", name, columns())
    return names


def frame(report: Report) -> pd.DataFrame:
    """A pandas DataFrame of :func:`rows`."""
    try:
        import pandas as pd
    except ImportError:
        raise MissingExtra("a data frame", "pandas") from None
    return pd.DataFrame(rows(report), columns=columns())
