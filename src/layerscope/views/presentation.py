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


def text(record: Any) -> str:
    """A record as plain text: what its ``repr`` is."""
    from layerscope.views import comparison, history, landscape, table

    show: Mapping[type, Any] = {
        Report: table.plain, Comparison: comparison.plain, History: history.plain, Line: landscape.line,
        Plane: landscape.plane, Basins: landscape.basins, Distances: landscape.distances,
    }  # fmt: skip
    shown: str = show[type(record)](record)
    return shown


def figure(record: Any, *arguments: Any, ax: Any = None, **options: Any) -> Figure:
    """A record as a matplotlib figure; on ``ax``, where one is given, the first of its pictures alone."""
    from layerscope.views.plots import drawing, landscape_pictures

    if isinstance(record, Report | Comparison | History):
        name, *layers = arguments
        return drawing.figure(name, [record] if isinstance(record, History) else record, layers, ax)
    pictures = landscape_pictures.pictures_of(record, *arguments, **options)
    return drawing.drawn(pictures if ax is None else pictures[:1], ax)


def frame(record: Any) -> pd.DataFrame:
    """A record as a pandas DataFrame."""
    from layerscope.views import comparison, history, report_rows

    make: Mapping[type, Any] = {
        Report: report_rows.frame, Comparison: comparison.frame, History: history.frame,
    }  # fmt: skip
    found: pd.DataFrame = make[type(record)](record)
    return found


def as_dict(record: Comparison) -> dict[str, Any]:
    """A record as plain JSON types."""
    from layerscope.views import comparison

    return comparison.to_dict(record)


def notebook_cell(record: Report | Comparison) -> str:
    """A record as the HTML of a notebook's cell."""
    from layerscope.views import notebook

    return notebook.html(record) if isinstance(record, Report) else notebook.comparison_html(record)
