"""The matplotlib pen: any picture, on any axes."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from layerscope.views.plots import style
from layerscope.views.plots.marks import Axis, Band, Cells, Field, Line, Mark, Picture, Points, Rule, Steps, Surface

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKERS = {
    "circle": "o", "square": "s", "diamond": "D", "triangle": "^", "down": "v", "cross": "X", "tick": "|",
}  # fmt: skip
SMALL, NORMAL, LARGE = 7.5, 8.5, 10.5  # points
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)))
GAP = 0.08  # between panels, of the height
WRAP = 84  # characters of a line of words
CROWDED = 60  # points from which they and their intervals are drawn small
LEGEND = 12  # entries; the others are counted
SQUARE = ((-1, -1), (1, -1), (1, 1), (-1, 1))  # its corners
ANNOTATED = 12  # rows up to which each cell of a matrix shows its value


def draw(picture: Picture, ax: Axes) -> None:
    """Draw a picture on axes, which it splits where it has several panels."""
    if picture.empty:
        _head(picture, ax, 0.0)
        ax.set_axis_off()
        ax.text(0.5, 0.5, _text(picture.empty, 60), ha="center", va="center", transform=ax.transAxes,
                color=style.colour("quiet"), fontsize=NORMAL)  # fmt: skip
        return
    panels = _panels(ax, len(picture.panels))
    for number, (panel, axis) in enumerate(zip(panels, picture.panels, strict=True)):
        marks = [mark for mark in picture.marks if mark.panel == number]
        _scale(panel, "x", picture.x)
        _scale(panel, "y", axis)
        for mark in marks:
            PENS[type(mark)](panel, mark)
        _dress(panel, picture, axis, last=number == len(panels) - 1)
    _head(picture, ax, _legend(ax, panels))


def _head(picture: Picture, ax: Axes, above: float) -> None:
    """Title and what is shown, ``above`` points over the axes."""
    words = f"{picture.title}: {picture.of}" if picture.of else picture.title
    for text, size, tone, weight in (
        (picture.about, NORMAL, "quiet", "normal"),
        (words, LARGE, "ink", "bold"),
    ):
        wrapped = _text(text, WRAP if size == NORMAL else WRAP - 16)
        ax.annotate(wrapped, (0, 1), xytext=(0, above + 5), xycoords="axes fraction", textcoords="offset points",
                    fontsize=size, color=style.colour(tone), fontweight=weight, va="bottom",
                    annotation_clip=False)  # fmt: skip
        above += 1.35 * size * (wrapped.count("\n") + 1) if wrapped else 0.0


def _legend(ax: Axes, panels: Sequence[Axes]) -> float:
    """One legend over the axes, where it hides nothing; how many points high it is."""
    from matplotlib.lines import Line2D

    entries: dict[str, Any] = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    if not entries:
        return 0.0
    more = len(entries) - LEGEND
    if more > 0:
        entries = dict(list(entries.items())[:LEGEND]) | {f"and {more} more": Line2D([], [], linestyle="none")}
    widest = 0.56 * SMALL * max(map(len, entries)) + 34  # points, about
    columns = max(1, min(len(entries), 4, int(ax.get_window_extent().width / ax.figure.dpi * 72 / widest)))
    ax.legend(entries.values(), entries, fontsize=SMALL, frameon=False, ncols=columns, loc="lower left", borderpad=0.2,
              bbox_to_anchor=(0, 1), borderaxespad=0.2, columnspacing=1.2, handletextpad=0.5)  # fmt: skip
    return 1.62 * SMALL * -(-len(entries) // columns) + 2


def _panels(ax: Axes, count: int) -> list[Axes]:
    if count == 1:
        return [ax]
    ax.set_axis_off()
    height = (1 - GAP * (count - 1)) / count
    made: list[Axes] = []
    for i in range(count):
        bottom = 1 - height - i * (height + GAP)
        made.append(ax.inset_axes((0.0, bottom, 1.0, height), sharex=made[0] if made else None))
    for panel in made[:-1]:
        panel.tick_params(labelbottom=False)
    return made


def _scale(panel: Axes, side: Literal["x", "y"], axis: Axis) -> None:
    if axis.scale == "none":
        getattr(panel, f"set_{side}ticks")([])
    elif axis.scale != "category":
        from matplotlib.ticker import FuncFormatter, MaxNLocator

        line = getattr(panel, f"{side}axis")
        if axis.scale == "log":
            getattr(panel, f"set_{side}scale")("log")
            line.set_minor_formatter(FuncFormatter(lambda value, _: _between(value, line.get_view_interval())))
        if axis.whole:
            line.set_major_locator(MaxNLocator(integer=True))
        line.set_major_formatter(FuncFormatter(lambda value, _: _tick(value)))
    if axis.scale == "category":
        places = range(len(axis.ticks))
        names = [_text(name) for name in axis.ticks]
        getattr(panel, f"set_{side}ticks")(places, names)
        getattr(panel, f"set_{side}lim")(-0.6, len(names) - 0.4)
        panel.tick_params(axis=side, labelsize=min(SMALL, 150 / max(len(names), 1)))
        if side == "x" and sum(map(len, names)) > 60:
            panel.tick_params(axis="x", labelrotation=35)
            for label in panel.get_xticklabels():
                label.set(ha="right", rotation_mode="anchor")


def _dress(panel: Axes, picture: Picture, axis: Axis, *, last: bool) -> None:
    """Limits, labels, grid: the same everywhere."""
    for side, of in (("x", picture.x), ("y", axis)):
        if of.low is not None or of.high is not None:
            getattr(panel, f"set_{side}lim")(of.low, of.high)
    panel.set_ylabel(_text(axis.label, 34), fontsize=NORMAL)
    if last:
        words = [_text(picture.x.label, WRAP), *(_text(note, WRAP) for note in picture.notes)]
        panel.set_xlabel("\n".join(filter(None, words)), fontsize=NORMAL)
    panel.tick_params(which="both", color=style.GRID.light)
    if picture.x.scale != "category":
        panel.tick_params(axis="x", which="both", labelsize=SMALL)
    if axis.scale != "category":
        panel.tick_params(axis="y", which="both", labelsize=SMALL)
    panel.spines[["top", "right"]].set_visible(False)
    if axis.scale == "none":
        panel.spines[["left", "bottom"]].set_visible(False)
    panel.spines[["left", "bottom"]].set_color(style.colour("quiet"))
    if not any(isinstance(mark, Cells) for mark in picture.marks):
        panel.grid(True, color=style.GRID.light, linewidth=0.6)
    panel.set_axisbelow(True)


def _steps(panel: Axes, mark: Steps) -> None:
    colour = style.colour(mark.tone)
    heights = [height if height > 0 else math.nan for height in mark.heights]
    floor = min([h for h in heights if h > 0], default=1.0) / 1e3 if panel.get_yscale() == "log" else 0.0
    panel.stairs(heights, mark.edges, baseline=floor, color=colour, linewidth=1.3, label=_label(mark.label),
                 linestyle=DASHES[mark.pattern])  # fmt: skip
    if mark.filled:
        panel.stairs(heights, mark.edges, baseline=floor, color=colour, alpha=0.22, fill=True, linewidth=0)


def _line(panel: Axes, mark: Line) -> None:
    panel.plot(mark.x, mark.y, color=style.colour(mark.tone), linewidth=1.6, label=_label(mark.label),
               linestyle=(0, (4, 2)) if mark.dashed else "-")  # fmt: skip


def _points(panel: Axes, mark: Points) -> None:
    colour, crowded = style.colour(mark.tone), len(mark.x) > CROWDED
    size = 3.2 if crowded else 5.0
    if mark.low:
        panel.vlines(mark.x, mark.low, mark.high, color=colour, linewidth=0.6 if crowded else 1.2, alpha=0.75)
    inside, edge = "white" if mark.hollow else colour, style.colour("ink") if mark.grave else colour
    size *= 1.35 if mark.grave else 1.0
    panel.plot(mark.x, mark.y, linestyle="none", marker=MARKERS[mark.shape], color=colour, label=_label(mark.label),
               markersize=size * (1.8 if mark.shape == "tick" else 1), markerfacecolor=inside, markeredgecolor=edge,
               markeredgewidth=1.0, clip_on=False, zorder=3)  # fmt: skip


def _rule(panel: Axes, mark: Rule) -> None:
    across = panel.axvline if mark.along == "y" else panel.axhline
    across(mark.at, color=style.colour(mark.tone), linewidth=1.0, label=_label(mark.label),
           linestyle=(0, (2, 2)) if mark.dashed else "-")  # fmt: skip


def _band(panel: Axes, mark: Band) -> None:
    across = panel.axhspan if mark.on == "y" else panel.axvspan
    low, high = (
        end if end is not None else limit for end, limit in zip((mark.low, mark.high), (-1e9, 1e9), strict=True)
    )
    across(low, high, color=style.colour(mark.tone), alpha=0.08, linewidth=0, label=_label(mark.label))


def _cells(panel: Axes, mark: Cells) -> None:
    wide = len(mark.values[0]) > 2 * len(mark.values) or len(mark.values) > 2 * len(mark.values[0])
    shape: Literal["auto", "equal"] = "auto" if wide else "equal"
    image = panel.imshow(mark.values, cmap="cividis", aspect=shape, vmin=mark.least, vmax=mark.most)
    panel.set_ylim(len(mark.values) - 0.5, -0.5)
    panel.set_xlim(-0.5, len(mark.values[0]) - 0.5)
    bar = panel.figure.colorbar(image, ax=panel, shrink=0.8)
    bar.set_label(_text(mark.label, 48), fontsize=SMALL)
    bar.ax.tick_params(labelsize=SMALL)
    if max(len(mark.values), len(mark.values[0])) <= ANNOTATED:
        for i, row in enumerate(mark.values):
            for j, value in enumerate(row):
                told = format(value, mark.fmt) if math.isfinite(value) else "–"
                light = not value < (mark.least + mark.most) / 2
                panel.text(j, i, told, ha="center", va="center", fontsize=SMALL, color="black" if light else "white")


def _colours(panel: Axes, mark: Field | Surface, norm: Any) -> None:
    """A bar beside the panel: its ends are pointed where values lie beyond."""
    import numpy as np
    from matplotlib.cm import ScalarMappable
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

    kept = np.array(mark.values)
    kept = kept[np.isfinite(kept)]
    beyond = bool((kept < mark.least).any()), bool((kept > mark.most).any())
    extend = {(True, False): "min", (False, True): "max", (True, True): "both"}.get(beyond, "neither")
    beside = panel.inset_axes((1.04, 0.1, 0.04, 0.8))  # it stays there when the panel shrinks to equal units
    bar = panel.figure.colorbar(ScalarMappable(norm, "cividis"), cax=beside, extend=extend)
    bar.set_label(_text(mark.label, 48), fontsize=SMALL)
    bar.ax.tick_params(labelsize=SMALL)
    if mark.log:
        bar.ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        bar.ax.yaxis.set_major_formatter(FormatStrFormatter("%.3g"))
        bar.ax.yaxis.set_minor_formatter(NullFormatter())


def _field(panel: Axes, mark: Field) -> None:
    import numpy as np
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import LogNorm, Normalize

    grid = np.ma.masked_invalid(np.array(mark.values))
    panel.grid(False)
    y = np.array(mark.y)
    x = np.array(mark.x)[None] + mark.shear * y[:, None]
    y = np.broadcast_to(y[:, None], x.shape)
    norm = (LogNorm if mark.log else Normalize)(mark.least, mark.most)
    panel.pcolormesh(x, y, grid, cmap="cividis", norm=norm, shading="nearest", rasterized=True)
    half = (mark.x[1] - mark.x[0]) / 2, (mark.y[1] - mark.y[0]) / 2
    holes = [
        [(x[i, j] + a * half[0] + mark.shear * b * half[1], y[i, j] + b * half[1]) for a, b in SQUARE]
        for i, j in zip(*np.nonzero(np.ma.getmaskarray(grid)), strict=True)
    ]
    panel.add_collection(PolyCollection(holes, facecolors="none", edgecolors=style.colour("quiet"), hatch="////",
                                        linewidths=0))  # fmt: skip
    if grid.count() > 3 and mark.least < mark.most and min(grid.shape) > 2:
        levels = (np.geomspace if mark.log else np.linspace)(mark.least, mark.most, 9)[1:-1]
        lines = panel.contour(x, y, grid, levels=levels, colors=style.GROUND.light, linewidths=0.5, alpha=0.6)
        panel.clabel(lines, levels[1::2], fontsize=SMALL - 2, fmt="%.2g")
    panel.set_aspect("equal")
    _colours(panel, mark, norm)


def _surface(panel: Axes, mark: Surface) -> None:
    import numpy as np
    from matplotlib import colormaps
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import LogNorm, Normalize

    norm = (LogNorm if mark.log else Normalize)(mark.least, mark.most)
    height = np.clip(np.ma.filled(norm(np.ma.masked_invalid(np.array(mark.values))), np.nan), 0, 1)
    x, y = np.meshgrid(*(np.interp(at, (at[0], at[-1]), (-0.6, 0.6)) for at in (mark.x, mark.y)))
    turn, tilt = (math.radians(angle) for angle in (mark.turn, mark.tilt))

    def seen(x: Any, y: Any, z: Any) -> tuple[Any, Any, Any]:
        """(to the right, up, away) of the one who looks."""
        across, away = x * math.cos(turn) - y * math.sin(turn), x * math.sin(turn) + y * math.cos(turn)
        return across, away * math.sin(tilt) + (z - 0.5) * math.cos(tilt), away

    right, up, away = seen(x, y, height)
    corners = [np.s_[:-1, :-1], np.s_[:-1, 1:], np.s_[1:, 1:], np.s_[1:, :-1]]
    quads = np.stack([np.stack([right[c], up[c]], -1) for c in corners], 2).reshape(-1, 4, 2)
    means = np.mean([height[c] for c in corners], 0).reshape(-1)
    order = np.argsort(-np.mean([away[c] for c in corners], 0).reshape(-1), kind="stable")
    order = order[np.isfinite(means[order])]
    floor = np.array([seen(a, b, 0.0)[:2] for a, b in ((-0.6, -0.6), (0.6, -0.6), (0.6, 0.6), (-0.6, 0.6))])
    panel.add_collection(PolyCollection([floor], facecolors="none", edgecolors=style.GRID.light, linewidths=0.8))
    panel.add_collection(PolyCollection(quads[order], facecolors=colormaps["cividis"](means[order]),
                                        edgecolors=style.GROUND.light, linewidths=0.15))  # fmt: skip
    near = [-math.copysign(0.68, side) for side in (math.cos(turn), math.sin(turn))]  # the edges in front
    for name, (a, b) in zip(mark.names, ((0.0, near[0]), (near[1], 0.0)), strict=True):
        across, high, _ = seen(a, b, 0.0)
        panel.text(across, high, _text(name, 30), ha="center", va="top", fontsize=SMALL, color=style.colour("quiet"))
    panel.set_xlim(-1, 1)
    panel.set_ylim(-1, 1)
    panel.grid(False)
    panel.set_aspect("equal")
    _colours(panel, mark, norm)


PENS: dict[type[Mark], Callable[[Any, Any], None]] = {
    Steps: _steps, Line: _line, Points: _points, Rule: _rule, Band: _band, Cells: _cells,
    Field: _field, Surface: _surface,
}  # fmt: skip


def _tick(value: float) -> str:
    """A number as plain text, 5×10⁸ where it is long: no mathematics, which a layer's name must never reach."""
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.6g}".replace("-", "−")
    mantissa, _, exponent = f"{value:.3e}".partition("e")
    power = "10" + str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return power if float(mantissa) == 1 else f"{float(mantissa):g}×{power}".replace("-", "−")


def _between(value: float, view: Sequence[float]) -> str:
    """Twos and fives, on a logarithmic axis that spans too few powers of ten to be read without them."""
    low, high = sorted(view)
    digit = round(value / 10 ** math.floor(math.log10(value)))
    return _tick(value) if high < 30 * max(low, 1e-300) and (digit in (2, 5) or high < 4 * low) else ""


def _label(words: str) -> str:
    """Words of a legend, where matplotlib leaves out what begins with an underscore."""
    return f" {_text(words)}" if words.startswith("_") else _text(words)


def _text(words: str, width: int = 0) -> str:
    """Words as they are: a $ in a name begins no formula; wrapped where a width is given."""
    lines: Sequence[str] = textwrap.wrap(words, width, break_on_hyphens=False) if width else [words]
    return "\n".join(lines).replace("$", r"\$")
