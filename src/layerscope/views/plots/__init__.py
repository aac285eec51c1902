"""Pictures: a report → marks on axes → a figure. One picture per file, found by its name.

``data`` puts a picture into numbers and words (:class:`~layerscope.views.plots._marks.Picture`). ``SCOPE`` says of
what: a layer ("layer": ``data(report, layer)``), a report ("model": ``data(report)``), several ("models":
``data(comparison)``), one layer of several ("matched": ``data(comparison, layer)``), of a layer over the steps of
runs ("run layer": ``data(runs, layer)``), or of whole runs ("run": ``data(runs)``, a list of pictures); ``SECTION``,
where the page shows it; ``NEEDS``, if there is one, the setting without which it is empty. Pens draw any of them:
``draw(picture, ax)`` with matplotlib, ``templates/charts.js`` in the HTML report.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerscope import comparison, registry
from layerscope.errors import MissingExtra, UnknownName, UsageError
from layerscope.history import History
from layerscope.report import ComparedLayer, Comparison, Report
from layerscope.types import LayerReport
from layerscope.views.files import write_whole
from layerscope.views.plots._marks import Axis, Picture
from layerscope.views.plots._marks import plain as plain
from layerscope.views.text import elide, printable, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RUN, WHOLE_RUN = "run layer", "run"
FORMATS = ("png", "svg", "pdf")
WIDTH, HEIGHT = 6.8, 4.4  # inches of one picture of one panel
MOST = 12  # pictures in one figure
DPI = 150
SCREEN = 90  # dots per inch in a notebook
LONGEST = 48  # characters of a model's name


Target = Report | Comparison | Sequence[History]


def pictures(name: str, target: Target, layers: Sequence[str | int] = ()) -> list[Picture]:
    """The picture of that name: one, or one of each layer where it is a layer's.

    :param target: a report; a comparison for pictures of several models; runs, of which other pictures than those of
        runs show the last reports.
    :param layers: names or indices; none for every analysed layer.
    :raises UsageError: no such picture or layer, or a picture that this target has not.
    """
    plugin = registry.find("plots", name)
    module, scope = plugin.target, plugin.target.SCOPE
    if scope == RUN:
        runs = _runs_of(name, target)
        return [module.data(runs, layer.name) for layer in _chosen(name, _common_rows(runs), layers)]
    if scope == WHOLE_RUN:
        if layers:
            raise UsageError(f"{name} shows a whole run, not single layers")
        found = module.data(_runs_of(name, target))
        if not found:
            raise UsageError(f"{name}: none of its metrics was measured in this run")
        return list(found)
    target = last_of(target)
    if scope == "models":
        if layers:
            raise UsageError(f"{name} shows whole models, not single layers")
        return [module.data(whole_of(target))]
    if scope == "matched":
        return [module.data(whole_of(target), layer) for layer in _matched(name, whole_of(target), layers)]
    if isinstance(target, Comparison):
        every = zip(target.letters, target.reports, strict=True)
        found = [
            replace(picture, title=f"{letter}: {picture.title}", about=_of(report, picture).about)
            for letter, report in every
            for picture in pictures(name, report, layers)
        ]
        return _aligned(found) if scope == "model" else found
    if scope == "model":
        if layers:
            raise UsageError(f"{name} shows a whole model, not single layers")
        return [module.data(target)]
    return [module.data(target, layer) for layer in _chosen(name, target, layers)]


def last_of(target: Target) -> Report | Comparison:
    """Of runs, their last reports."""
    if isinstance(target, Report | Comparison):
        return target
    reports = [run.last for run in target]
    if len(reports) > 1:
        named = zip(target, reports, strict=True)
        reports = [report.replace(meta={**report.meta, "target": run.name}) for run, report in named]
    return reports[0] if len(reports) == 1 else comparison.compare(reports, [{}] * len(reports))


def _runs_of(name: str, target: Target) -> Sequence[History]:
    if isinstance(target, Report | Comparison):
        raise UsageError(f"{name} shows a run: give a saved history (layerscope.Monitor), not a report")
    return target


def _common_rows(runs: Sequence[History]) -> Report:
    """The last report of the first run, with the layers that all runs have."""
    names = set.intersection(*({row.name for row in run.last.rows if not row.skipped} for run in runs))
    return runs[0].last.replace(rows=tuple(row for row in runs[0].last.rows if row.name in names))


def figure(name: str, target: Target, layers: Sequence[str | int] = (), ax: Axes | None = None) -> Figure:
    """A matplotlib figure with the pictures of that name; on ``ax`` where one is given, which then takes only one.

    :raises MissingExtra: matplotlib is not installed.
    :raises UsageError: as :func:`pictures`; or more than twelve layers, or axes for several pictures.
    """
    found = pictures(name, target, layers)
    if not found:
        raise UsageError(f"{name}: no layer of the same name is analysed in all of them")
    if len(found) > MOST or (ax is not None and len(found) > 1):
        most = "one" if ax is not None else f"at most {MOST}"
        if registry.find("plots", name).target.SCOPE == "model":
            raise UsageError(f"{len(found)} pictures of {name}, where {most} fits; choose fewer models")
        raise UsageError(f"{len(found)} pictures of {name}, where {most} fits; choose layers (-l)")
    return drawn([_of(target, picture) for picture in found], ax)


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure as png, svg or pdf, by the name's ending; equal figures are equal files.

    :raises UsageError: another ending.
    """
    kind = check_format(path)
    from matplotlib import rc_context

    buffer, undated = io.BytesIO(), {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
    with rc_context({"svg.hashsalt": "layerscope"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a name in a script that the font lacks
        figure.savefig(buffer, format=kind, dpi=DPI, metadata=undated, bbox_inches=_room(figure))
    write_whole(path, buffer.getvalue())


def _room(figure: Figure) -> str | None:
    """Axes of equal units shrink after the layout is made, and their titles with them out of the figure."""
    return "tight" if any(axes.get_aspect() != "auto" for axes in figure.axes) else None


def check_format(path: str | Path) -> str:
    """The format that the name's ending asks for."""
    kind = Path(path).suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        raise UnknownName("picture format", kind or str(path), FORMATS)
    return kind


def _aligned(found: Sequence[Picture]) -> list[Picture]:
    """The same pictures of several models on axes that end alike; layers and categories are each model's own."""
    shown = [picture for picture in found if not picture.empty]
    if len(shown) < 2:
        return list(found)
    own = any(picture.x.whole or picture.x.ticks for picture in shown)
    x = None if own else _common([p.x for p in shown], [v for p in shown for m in p.marks for v in m.extent("x")])
    panels = [
        _common(axes, [v for p in shown for m in p.marks if m.panel == i for v in m.extent("y")])
        for i, axes in enumerate(zip(*(p.panels for p in shown), strict=True))
    ]
    return [p if p.empty else replace(p, x=x or p.x, panels=tuple(panels)) for p in found]


def _common(axes: Sequence[Axis], values: Sequence[float]) -> Axis:
    """One axis for all: from the least end to the greatest, of the marks where the axes do not say."""
    log = axes[0].scale == "log"
    if axes[0].scale == "category":
        return axes[0]
    known = [v for v in values if math.isfinite(v) and (v > 0 or not log)]
    low, high = ([end for axis in axes if (end := getattr(axis, side)) is not None] for side in ("low", "high"))
    if not known or (len(low) == len(high) == len(axes)):
        return replace(axes[0], low=min(low, default=None), high=max(high, default=None))
    least, most = min(known), max(known)
    factor = (most / least) ** 0.05 if log else 0.0
    room = 0.05 * (most - least) or 0.5
    start, end = (least / (factor or 1), most * (factor or 1)) if log else (least - room, most + room)
    return replace(
        axes[0],
        low=min(low) if len(low) == len(axes) else min([start, *low]),
        high=max(high) if len(high) == len(axes) else max([end, *high]),
    )


def whole_of(target: Report | Comparison) -> Comparison:
    """A comparison; of one model where there is only one."""
    return target if isinstance(target, Comparison) else comparison.compare([target], [{}])


def _matched(name: str, whole: Comparison, layers: Sequence[str | int]) -> list[ComparedLayer]:
    if not layers:
        return list(whole.layers)
    known = {layer.name: layer for layer in whole.layers}
    for key in layers:
        if key not in known:
            raise UnknownName("matched layer", str(key), known)
    return [known[str(key)] for key in layers]


def _chosen(name: str, report: Report, layers: Sequence[str | int]) -> list[LayerReport]:
    if not layers:
        rows = [row for row in report.rows if not row.skipped]
        if not rows:
            reasons = sorted({row.skipped for row in report.rows if row.failed})
            why = f": {printable(reasons[0], 120)}" if reasons else ""
            raise UsageError(f"{name} shows layers, and none was analysed{why}")
        return rows
    try:
        return [report.layers[key] for key in layers]
    except KeyError as error:
        raise UsageError(error.args[0]) from None


def _of(target: Target, picture: Picture) -> Picture:
    """The same, saying whose picture it is."""
    if not isinstance(target, Report):
        return picture
    name = elide(printable(short(target.meta["target"])), LONGEST)
    return replace(picture, about=", ".join(filter(None, (name, picture.about))))


def drawn(found: Sequence[Picture], ax: Axes | None) -> Figure:
    """A figure of pictures beside each other; on ``ax`` where it is given."""
    from layerscope.views.plots._pen import draw

    if ax is not None:
        draw(found[0], ax)
        whole = ax.get_figure(root=True)
        assert whole is not None
        return whole
    columns = 1 if len(found) == 1 else 2 if len(found) < 5 else 3
    rows = math.ceil(len(found) / columns)
    panels = max(len(picture.panels) for picture in found)
    height = HEIGHT + 1.3 * (panels - 1)
    drawing: Figure = _drawing()(figsize=(WIDTH * columns, height * rows), layout="constrained")
    for i, picture in enumerate(found, 1):
        draw(picture, drawing.add_subplot(rows, columns, i))
    return drawing


@cache
def _drawing() -> type[Any]:
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
                self.savefig(buffer, format="png", dpi=SCREEN, bbox_inches=_room(self))
            return buffer.getvalue()

    return Drawing
