"""Convert a report to rows, the common input of the table, CSV, JSON and pandas views."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from layerscope import registry
from layerscope.errors import MissingExtra, UnknownName
from layerscope.records.layer_sizes import SIZE_COLUMNS, size_columns
from layerscope.records.report import Report

if TYPE_CHECKING:
    import pandas as pd

COLUMN_HEADS = {
    "layer_id": "#", "name": "layer", "layer_type": "type", "verdicts": "verdict", "num_evals": "evals",
    "size": "N×M·rf", "num_spikes": "spikes", "mp_softrank": "mp.sr", "alpha_farms": "α farms",
    "alpha_usual": "usual", "alpha_untrained": "untrained",
}  # fmt: skip
COLUMN_ALIASES = {head: name for name, head in COLUMN_HEADS.items() if name != "size"} | {
    "num_traps": "rand_num_spikes"
}


def rows(report: Report) -> list[dict[str, Any]]:
    """Return one dict per tensor: sizes, every metric (None if absent), finding codes and how the tensor was read."""
    names = [name for name in metric_names() if name not in SIZE_COLUMNS]
    verdicts: dict[str | None, list[str]] = {}
    for finding in report.findings:
        verdicts.setdefault(finding.layer, []).append(finding.code)
    conv = report.settings.conv
    return [
        {
            **size_columns(layer, conv),
            **{name: layer.metrics.get(name) for name in names},
            "verdicts": " ".join(verdicts.get(layer.name, [])),
            "how": layer.ref.how,
        }
        for layer in report.rows
    ]


def metric_names() -> list[str]:
    """Return the names of all metrics, grouped by theme."""
    return list(registry.plugins("metrics"))


def columns() -> list[str]:
    """Return the names of all columns that a table can show."""
    return [*SIZE_COLUMNS, *(name for name in metric_names() if name not in SIZE_COLUMNS), "verdicts", "how"]


def check_columns(names: list[str]) -> list[str]:
    """Validate column names and replace table headings by the column names.

    :raises UnknownName: if a column does not exist.
    """
    names = [COLUMN_ALIASES.get(name, name) for name in names]
    for name in names:
        if name not in columns():
            raise UnknownName("column", name, columns())
    return names


def frame(report: Report) -> pd.DataFrame:
    """Return :func:`rows` as a pandas DataFrame."""
    try:
        import pandas as pd
    except ImportError:
        raise MissingExtra("a data frame", "pandas") from None
    return pd.DataFrame(rows(report), columns=columns())
