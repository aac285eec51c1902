"""Which view shows a record: the text, picture, data frame and notebook cell of each kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from layerscope.records.comparison import Comparison
from layerscope.records.history import History
from layerscope.records.landscape.basins import Basins
from layerscope.records.landscape.distances import Distances
from layerscope.records.landscape.lines import Line
from layerscope.records.landscape.planes import Plane
from layerscope.records.report import Report

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def to_text(record: Any) -> str:
    """A record as plain text: what its ``repr`` is."""
    from layerscope.views import comparison, history, landscape, table

    views: Mapping[type, Any] = {
        Report: table.report_text, Comparison: comparison.comparison_text, History: history.history_text,
        Line: landscape.line_text, Plane: landscape.plane_text,
        Basins: landscape.basins_text, Distances: landscape.distances_text,
    }  # fmt: skip
    text: str = views[type(record)](record)
    return text


def to_figure(record: Any, *arguments: Any, ax: Any = None, **options: Any) -> Figure:
    """A record as a matplotlib figure; on ``ax``, where one is given, the first of its pictures alone."""
    from layerscope.views.plots import drawing, landscape_pictures

    if isinstance(record, Report | Comparison | History):
        name, *layers = arguments
        return drawing.make_figure(name, [record] if isinstance(record, History) else record, layers, ax)
    pictures = landscape_pictures.pictures_of(record, *arguments, **options)
    return drawing.draw_pictures(pictures if ax is None else pictures[:1], ax)


def to_frame(record: Any) -> pd.DataFrame:
    """A record as a pandas DataFrame."""
    from layerscope.views import comparison, history, report_rows

    views: Mapping[type, Any] = {
        Report: report_rows.frame, Comparison: comparison.frame, History: history.frame,
    }  # fmt: skip
    table: pd.DataFrame = views[type(record)](record)
    return table


def to_dict(record: Comparison) -> dict[str, Any]:
    """A record as plain JSON types."""
    from layerscope.views import comparison

    return comparison.to_dict(record)


def to_notebook_html(record: Report | Comparison) -> str:
    """A record as the HTML of a notebook's cell."""
    from layerscope.views import notebook

    return notebook.report_html(record) if isinstance(record, Report) else notebook.comparison_html(record)
