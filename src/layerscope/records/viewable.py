"""How records show and save themselves: the only module of this package that imports packages above it.

A record is data first. Its ``repr``, page, picture, data frame and file are made by :mod:`layerscope.views` and
:mod:`layerscope.persistence`, which are imported only when needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from layerscope.records.history import History
    from layerscope.records.report import Report


class Viewable:
    """A record that can be shown as text, as an HTML page and as a picture."""

    def html(self, path: str | Path) -> None:
        """Write the record as one self-contained HTML page."""
        self._write_page(self, path)

    def __repr__(self) -> str:
        from layerscope.views import presentation

        return presentation.to_text(self)

    def _write_page(self, shown: Any, path: str | Path) -> None:
        from layerscope.views.page import writing

        writing.write_page(shown, path)

    def _figure(self, *arguments: Any, **options: Any) -> Figure:
        from layerscope.views import presentation

        return presentation.to_figure(self, *arguments, **options)

    def _frame(self) -> pd.DataFrame:
        from layerscope.views import presentation

        return presentation.to_frame(self)

    def _as_dict(self: Any) -> dict[str, Any]:
        from layerscope.views import presentation

        return presentation.to_dict(self)

    def _notebook_cell(self: Any) -> str:
        from layerscope.views import presentation

        return presentation.to_notebook_html(self)


def save_report(report: Report, path: str | Path) -> None:
    """Write a report to a ``.layerscope`` file."""
    from layerscope.persistence import report_file

    report_file.save(report, path)


def load_report(path: str | Path) -> Report:
    """Read a report from a ``.layerscope`` file."""
    from layerscope.persistence import report_file

    return report_file.load(path)


def report_to_json(report: Report, indent: int | None) -> str:
    """Return a report as JSON text."""
    from layerscope.persistence import report_json

    return report_json.to_json(report, indent=indent)


def report_from_json(text: str) -> Report:
    """Read a report from JSON text."""
    from layerscope.persistence import report_json

    return report_json.from_json(text)


def save_history(history: History, path: str | Path) -> None:
    """Write a history to a ``.layerscope`` file."""
    from layerscope.persistence import report_file

    report_file.save_history(history, path)


def load_history(path: str | Path) -> History:
    """Read a history from a ``.layerscope`` file."""
    from layerscope.persistence import report_file

    return report_file.load_history(path)
