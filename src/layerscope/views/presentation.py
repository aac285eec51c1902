"""Choose the view for each kind of record: text, figure, data frame or notebook HTML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from layerscope.records.comparison import Comparison
from layerscope.records.history import History
from layerscope.records.landscape.basins import Basins
from layerscope.records.landscape.distances import Distances
from layerscope.records.landscape.lines import Line
from layerscope.records.landscape.planes import Plane
from layerscope.records.merge_check import MergeCheck
from layerscope.records.quantization import QuantizationAudit, QuantizationPlan
from layerscope.records.report import Report

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def to_text(record: Any) -> str:
    """Render a record as plain text, as its ``repr`` shows it."""
    from layerscope.views import comparison, history, landscape, merge_check, quantization, table

    views: Mapping[type, Any] = {
        Report: table.report_text, Comparison: comparison.comparison_text, History: history.history_text,
        Line: landscape.line_text, Plane: landscape.plane_text,
        QuantizationAudit: quantization.audit_text, QuantizationPlan: quantization.plan_text,
        MergeCheck: merge_check.merge_text, Basins: landscape.basins_text, Distances: landscape.distances_text,
    }  # fmt: skip
    text: str = views[type(record)](record)
    return text


def to_figure(record: Any, *arguments: Any, ax: Any = None, **options: Any) -> Figure:
    """Draw a record as a matplotlib figure; if ``ax`` is given, draw only the first plot on it."""
    from layerscope.views.plots import drawing, landscape_pictures

    if isinstance(record, Report | Comparison | History):
        name, *layers = arguments
        return drawing.make_figure(name, [record] if isinstance(record, History) else record, layers, ax)
    pictures = landscape_pictures.pictures_of(record, *arguments, **options)
    return drawing.draw_pictures(pictures if ax is None else pictures[:1], ax)


def to_frame(record: Any) -> pd.DataFrame:
    """Convert a record to a pandas DataFrame."""
    from layerscope.views import comparison, history, report_rows

    views: Mapping[type, Any] = {
        Report: report_rows.frame, Comparison: comparison.frame, History: history.frame,
    }  # fmt: skip
    table: pd.DataFrame = views[type(record)](record)
    return table


def to_dict(record: Comparison) -> dict[str, Any]:
    """Convert a record to plain JSON types."""
    from layerscope.views import comparison

    return comparison.to_dict(record)


def to_notebook_html(record: Report | Comparison) -> str:
    """Render a record as HTML for a notebook cell."""
    from layerscope.views import notebook

    return notebook.report_html(record) if isinstance(record, Report) else notebook.comparison_html(record)
