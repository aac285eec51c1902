"""Draw the pictures of ``plot=True``, into files named like weightwatcher's and into the notebook."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from layerscope.errors import OutputError, UsageError
from layerscope.records.report import Report
from layerscope.views.plots import drawing
from layerscope.weightwatcher.names import DEF_SAVE_DIR

PICTURES_BY_TAG = {"esd": "esd", "esd2": "esd_linear", "esd4": "xmin"}  # tag in the file name → picture
SHUFFLE_PICTURES_BY_TAG = {"randesd1": "randomized"}


def draw(report: Report, rows: Iterable[Mapping[str, Any]], savefig: Any) -> list[Path]:
    """Draw the layer of every row and return the paths of the files.

    Files are named ``ww.layer{id}.{tag}.png``. Tag "esd" is the spectrum on logarithmic axes, "esd2" on linear axes,
    "esd4" shows D and α against xmin, and "randesd1" the spectrum with those of its shuffles.

    :param savefig: folder to write to, True for the folder "ww-img", False to write nothing.
    :raises OutputError: the folder cannot be created or written to.
    """
    if not isinstance(savefig, bool | str | Path):
        raise UsageError(f"savefig={savefig!r:.40} is not supported; give a folder, True or False")
    folder = Path(DEF_SAVE_DIR if savefig is True else savefig) if savefig else None
    if folder is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot write to {folder}: {error.strerror or error}") from None
    pictures_by_tag = PICTURES_BY_TAG | (SHUFFLE_PICTURES_BY_TAG if report.settings.randomize else {})
    written = []
    for row in rows:
        name, number = _locate_row(report, row)
        for tag, picture in pictures_by_tag.items():
            figure = drawing.make_figure(picture, report, [name])
            if folder is not None:
                written.append(folder / f"ww.layer{number}.{tag}.png")
                drawing.save_figure(figure, written[-1])
            _show_in_notebook(figure)
    return written


def _locate_row(report: Report, row: Mapping[str, Any]) -> tuple[str, str]:
    """Return (name of the layer in the report, number in its file names)."""
    layers, longname = report.layers, str(row["longname"])
    suffix = f"/{row['slice_id']}" if "slice_id" in row else ""
    name = next(key for key in (f"{longname}{suffix}.weight", longname) if key in layers)
    return name, f"{int(row['layer_id'])}" + (f".{int(row['slice_id'])}" if suffix else "")


def _show_in_notebook(figure: Any) -> None:
    """Display a figure in a notebook; do nothing outside of notebooks."""
    if "IPython" in sys.modules:
        from IPython import get_ipython
        from IPython.display import display

        if get_ipython() is not None:
            display(figure)
