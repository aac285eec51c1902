"""Draw pictures as matplotlib figures and save them to files."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerscope import registry
from layerscope.errors import MissingExtra, UnknownName, UsageError
from layerscope.persistence.atomic_files import write_atomically
from layerscope.text import plural
from layerscope.views.plots.marks import Picture
from layerscope.views.plots.pictures import Target, make_pictures, name_model

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


FORMATS = ("png", "svg", "pdf")
WIDTH, HEIGHT = 6.8, 4.4  # inches, for one picture with one panel
MAX_PICTURES = 12  # pictures in one figure
DPI = 150
SCREEN_DPI = 90  # dots per inch in a notebook


def make_figure(name: str, target: Target, layers: Sequence[str | int] = (), ax: Axes | None = None) -> Figure:
    """Draw the named plot as a matplotlib figure.

    :param layers: names or indices of layers; every analyzed layer if empty.
    :param ax: axes to draw on, for a single picture.
    :raises MissingExtra: if matplotlib is not installed.
    :raises UsageError: as :func:`make_pictures`; or for more than twelve pictures, or several pictures on one ``ax``.
    """
    drawn = make_pictures(name, target, layers)
    if not drawn:
        raise UsageError(
            f"{name}: no layer was analyzed under the same name in all models; compare models of one architecture"
        )
    if len(drawn) > MAX_PICTURES or (ax is not None and len(drawn) > 1):
        most = "ax= takes only one" if ax is not None else f"one figure takes at most {MAX_PICTURES}"
        if registry.find("plots", name).target.SCOPE == "model":
            raise UsageError(f"{name}: {plural(len(drawn), 'plot')} requested, but {most}; choose fewer models")
        raise UsageError(f"{name}: {plural(len(drawn), 'plot')} requested, but {most}; choose layers with -l")
    return draw_pictures([name_model(target, picture) for picture in drawn], ax)


def save_figure(figure: Figure, path: str | Path) -> None:
    """Save a figure as PNG, SVG or PDF, chosen by the file extension. Equal figures produce equal files.

    :raises UsageError: if the extension is not supported.
    """
    kind = check_format(path)
    from matplotlib import rc_context

    buffer, undated = io.BytesIO(), {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
    with rc_context({"svg.hashsalt": "layerscope"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the font lacks a character of a layer's name
        figure.savefig(buffer, format=kind, dpi=DPI, metadata=undated, bbox_inches=_bounding_box(figure))
    write_atomically(path, buffer.getvalue())


def _bounding_box(figure: Figure) -> str | None:
    """Return "tight" for axes with equal units: they shrink after the layout, which moves titles out of the figure."""
    return "tight" if any(axes.get_aspect() != "auto" for axes in figure.axes) else None


def check_format(path: str | Path) -> str:
    """Return the format for the file extension of ``path``."""
    kind = Path(path).suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        raise UnknownName("plot format", kind or str(path), FORMATS)
    return kind


def draw_pictures(drawings: Sequence[Picture], ax: Axes | None) -> Figure:
    """Draw pictures in a grid on a new figure, or the first one on ``ax``."""
    from layerscope.views.plots.matplotlib_pen import draw

    if ax is not None:
        draw(drawings[0], ax)
        parent = ax.get_figure(root=True)
        assert parent is not None
        return parent
    columns = 1 if len(drawings) == 1 else 2 if len(drawings) < 5 else 3
    rows = math.ceil(len(drawings) / columns)
    panels = max(len(picture.panels) for picture in drawings)
    height = HEIGHT + 1.3 * (panels - 1)
    drawing: Figure = _figure_class()(figsize=(WIDTH * columns, height * rows), layout="constrained")
    for i, picture in enumerate(drawings, 1):
        draw(picture, drawing.add_subplot(rows, columns, i))
    return drawing


@cache
def _figure_class() -> type[Any]:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtra("a plot", "plots") from None

    class Drawing(Figure):
        """A figure that a notebook displays without pyplot."""

        def _repr_png_(self) -> bytes:
            buffer = io.BytesIO()
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Glyph .* missing")
                self.savefig(buffer, format="png", dpi=SCREEN_DPI, bbox_inches=_bounding_box(self))
            return buffer.getvalue()

    return Drawing
