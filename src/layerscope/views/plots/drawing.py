"""Pictures as matplotlib figures and files."""

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
from layerscope.views.plots.marks import Picture
from layerscope.views.plots.pictures import Target, make_pictures, name_model

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


FORMATS = ("png", "svg", "pdf")
WIDTH, HEIGHT = 6.8, 4.4  # inches of one picture of one panel
MAX_PICTURES = 12  # pictures in one figure
DPI = 150
SCREEN_DPI = 90  # dots per inch in a notebook


def make_figure(name: str, target: Target, layers: Sequence[str | int] = (), ax: Axes | None = None) -> Figure:
    """A matplotlib figure with the pictures of that name; on ``ax`` where one is given, which then takes only one.

    :raises MissingExtra: matplotlib is not installed.
    :raises UsageError: as :func:`pictures`; or more than twelve layers, or axes for several pictures.
    """
    drawn = make_pictures(name, target, layers)
    if not drawn:
        raise UsageError(f"{name}: no layer of the same name is analysed in all of them")
    if len(drawn) > MAX_PICTURES or (ax is not None and len(drawn) > 1):
        most = "one" if ax is not None else f"at most {MAX_PICTURES}"
        if registry.find("plots", name).target.SCOPE == "model":
            raise UsageError(f"{len(drawn)} pictures of {name}, where {most} fits; choose fewer models")
        raise UsageError(f"{len(drawn)} pictures of {name}, where {most} fits; choose layers (-l)")
    return draw_pictures([name_model(target, picture) for picture in drawn], ax)


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure as png, svg or pdf, by the name's ending; equal figures are equal files.

    :raises UsageError: another ending.
    """
    kind = check_format(path)
    from matplotlib import rc_context

    buffer, undated = io.BytesIO(), {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
    with rc_context({"svg.hashsalt": "layerscope"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a name in a script that the font lacks
        figure.savefig(buffer, format=kind, dpi=DPI, metadata=undated, bbox_inches=_bounding_box(figure))
    write_atomically(path, buffer.getvalue())


def _bounding_box(figure: Figure) -> str | None:
    """Axes of equal units shrink after the layout is made, and their titles with them out of the figure."""
    return "tight" if any(axes.get_aspect() != "auto" for axes in figure.axes) else None


def check_format(path: str | Path) -> str:
    """The format that the name's ending asks for."""
    kind = Path(path).suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        raise UnknownName("picture format", kind or str(path), FORMATS)
    return kind


def draw_pictures(drawings: Sequence[Picture], ax: Axes | None) -> Figure:
    """A figure of pictures beside each other; on ``ax`` where it is given."""
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
        raise MissingExtra("a picture", "plots") from None

    class Drawing(Figure):
        """A figure that a notebook shows without pyplot."""

        def _repr_png_(self) -> bytes:
            buffer = io.BytesIO()
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Glyph .* missing")
                self.savefig(buffer, format="png", dpi=SCREEN_DPI, bbox_inches=_bounding_box(self))
            return buffer.getvalue()

    return Drawing
