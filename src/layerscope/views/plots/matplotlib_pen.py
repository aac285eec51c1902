"""Draw any picture on matplotlib axes."""

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
SMALL_FONT, NORMAL_FONT, LARGE_FONT = 7.5, 8.5, 10.5  # points
LINE_STYLES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)))
PANEL_GAP = 0.08  # gap between panels, as a share of the height
MAX_LINE_CHARS = 84  # characters per line of text
MAX_LARGE_POINTS = 60  # with more points, points and intervals are drawn smaller
MAX_LEGEND_ENTRIES = 12  # further entries are only counted
SQUARE_CORNERS = ((-1, -1), (1, -1), (1, 1), (-1, 1))  # corners of a cell, in half widths
MAX_ANNOTATED_ROWS = 12  # with more rows or columns, cells do not show their values


def draw(picture: Picture, ax: Axes) -> None:
    """Draw a picture on axes, split into panels if necessary."""
    if picture.empty:
        _draw_title(picture, ax, 0.0)
        ax.set_axis_off()
        ax.text(0.5, 0.5, _escape_text(picture.empty, 60), ha="center", va="center", transform=ax.transAxes,
                color=style.tone_color("quiet"), fontsize=NORMAL_FONT)  # fmt: skip
        return
    panels = _split_panels(ax, len(picture.panels))
    for number, (panel, axis) in enumerate(zip(panels, picture.panels, strict=True)):
        marks = [mark for mark in picture.marks if mark.panel == number]
        _set_scale(panel, "x", picture.x)
        _set_scale(panel, "y", axis)
        for mark in marks:
            PENS[type(mark)](panel, mark)
        _set_limits_and_labels(panel, picture, axis, last=number == len(panels) - 1)
    _draw_title(picture, ax, _draw_legend(ax, panels))


def _draw_title(picture: Picture, ax: Axes, above: float) -> None:
    """Draw the title and the subtitle, ``above`` points over the axes."""
    words = f"{picture.title}: {picture.of}" if picture.of else picture.title
    for text, size, tone, weight in (
        (picture.about, NORMAL_FONT, "quiet", "normal"),
        (words, LARGE_FONT, "ink", "bold"),
    ):
        wrapped = _escape_text(text, MAX_LINE_CHARS if size == NORMAL_FONT else MAX_LINE_CHARS - 16)
        ax.annotate(wrapped, (0, 1), xytext=(0, above + 5), xycoords="axes fraction", textcoords="offset points",
                    fontsize=size, color=style.tone_color(tone), fontweight=weight, va="bottom",
                    annotation_clip=False)  # fmt: skip
        above += 1.35 * size * (wrapped.count("\n") + 1) if wrapped else 0.0


def _draw_legend(ax: Axes, panels: Sequence[Axes]) -> float:
    """Draw one legend above the axes, where it hides nothing, and return its height in points."""
    from matplotlib.lines import Line2D

    entries: dict[str, Any] = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    if not entries:
        return 0.0
    omitted = len(entries) - MAX_LEGEND_ENTRIES
    if omitted > 0:
        entries = dict(list(entries.items())[:MAX_LEGEND_ENTRIES]) | {
            f"… and {omitted} more": Line2D([], [], linestyle="none")
        }
    widest = 0.56 * SMALL_FONT * max(map(len, entries)) + 34  # points, about
    columns = max(1, min(len(entries), 4, int(ax.get_window_extent().width / ax.figure.dpi * 72 / widest)))
    ax.legend(entries.values(), entries, fontsize=SMALL_FONT, frameon=False, ncols=columns, loc="lower left",
              borderpad=0.2, bbox_to_anchor=(0, 1), borderaxespad=0.2, columnspacing=1.2,
              handletextpad=0.5)  # fmt: skip
    return 1.62 * SMALL_FONT * -(-len(entries) // columns) + 2


def _split_panels(ax: Axes, count: int) -> list[Axes]:
    if count == 1:
        return [ax]
    ax.set_axis_off()
    height = (1 - PANEL_GAP * (count - 1)) / count
    panels: list[Axes] = []
    for i in range(count):
        bottom = 1 - height - i * (height + PANEL_GAP)
        panels.append(ax.inset_axes((0.0, bottom, 1.0, height), sharex=panels[0] if panels else None))
    for panel in panels[:-1]:
        panel.tick_params(labelbottom=False)
    return panels


def _set_scale(panel: Axes, side: Literal["x", "y"], axis: Axis) -> None:
    if axis.scale == "none":
        getattr(panel, f"set_{side}ticks")([])
    elif axis.scale != "category":
        from matplotlib.ticker import FuncFormatter, MaxNLocator

        line = getattr(panel, f"{side}axis")
        if axis.scale == "log":
            getattr(panel, f"set_{side}scale")("log")
            line.set_minor_formatter(
                FuncFormatter(lambda value, _: _format_minor_tick(value, line.get_view_interval()))
            )
        if axis.whole:
            line.set_major_locator(MaxNLocator(integer=True))
        line.set_major_formatter(FuncFormatter(lambda value, _: _format_tick(value)))
    if axis.scale == "category":
        places = range(len(axis.ticks))
        names = [_escape_text(name) for name in axis.ticks]
        getattr(panel, f"set_{side}ticks")(places, names)
        getattr(panel, f"set_{side}lim")(-0.6, len(names) - 0.4)
        panel.tick_params(axis=side, labelsize=min(SMALL_FONT, 150 / max(len(names), 1)))
        if side == "x" and sum(map(len, names)) > 60:
            panel.tick_params(axis="x", labelrotation=35)
            for label in panel.get_xticklabels():
                label.set(ha="right", rotation_mode="anchor")


def _set_limits_and_labels(panel: Axes, picture: Picture, axis: Axis, *, last: bool) -> None:
    """Set limits, labels and grid in the common style."""
    for side, scale in (("x", picture.x), ("y", axis)):
        if scale.low is not None or scale.high is not None:
            getattr(panel, f"set_{side}lim")(scale.low, scale.high)
    panel.set_ylabel(_escape_text(axis.label, 34), fontsize=NORMAL_FONT)
    if last:
        words = [
            _escape_text(picture.x.label, MAX_LINE_CHARS),
            *(_escape_text(note, MAX_LINE_CHARS) for note in picture.notes),
        ]
        panel.set_xlabel("\n".join(filter(None, words)), fontsize=NORMAL_FONT)
    panel.tick_params(which="both", color=style.GRID.light)
    if picture.x.scale != "category":
        panel.tick_params(axis="x", which="both", labelsize=SMALL_FONT)
    if axis.scale != "category":
        panel.tick_params(axis="y", which="both", labelsize=SMALL_FONT)
    panel.spines[["top", "right"]].set_visible(False)
    if axis.scale == "none":
        panel.spines[["left", "bottom"]].set_visible(False)
    panel.spines[["left", "bottom"]].set_color(style.tone_color("quiet"))
    if not any(isinstance(mark, Cells) for mark in picture.marks):
        panel.grid(True, color=style.GRID.light, linewidth=0.6)
    panel.set_axisbelow(True)


def _draw_steps(panel: Axes, mark: Steps) -> None:
    color = style.tone_color(mark.tone)
    heights = [height if height > 0 else math.nan for height in mark.heights]
    floor = min([h for h in heights if h > 0], default=1.0) / 1e3 if panel.get_yscale() == "log" else 0.0
    panel.stairs(heights, mark.edges, baseline=floor, color=color, linewidth=1.3, label=_legend_label(mark.label),
                 linestyle=LINE_STYLES[mark.pattern])  # fmt: skip
    if mark.filled:
        panel.stairs(heights, mark.edges, baseline=floor, color=color, alpha=0.22, fill=True, linewidth=0)


def _draw_line(panel: Axes, mark: Line) -> None:
    panel.plot(mark.x, mark.y, color=style.tone_color(mark.tone), linewidth=1.6, label=_legend_label(mark.label),
               linestyle=(0, (4, 2)) if mark.dashed else "-")  # fmt: skip


def _draw_points(panel: Axes, mark: Points) -> None:
    color, crowded = style.tone_color(mark.tone), len(mark.x) > MAX_LARGE_POINTS
    size = 3.2 if crowded else 5.0
    if mark.low:
        panel.vlines(mark.x, mark.low, mark.high, color=color, linewidth=0.6 if crowded else 1.2, alpha=0.75)
    inside, edge = "white" if mark.hollow else color, style.tone_color("ink") if mark.grave else color
    size *= 1.35 if mark.grave else 1.0
    panel.plot(mark.x, mark.y, linestyle="none", marker=MARKERS[mark.shape], color=color,
               label=_legend_label(mark.label), markersize=size * (1.8 if mark.shape == "tick" else 1),
               markerfacecolor=inside, markeredgecolor=edge, markeredgewidth=1.0, clip_on=False, zorder=3)  # fmt: skip


def _draw_rule(panel: Axes, mark: Rule) -> None:
    across = panel.axvline if mark.along == "y" else panel.axhline
    across(mark.at, color=style.tone_color(mark.tone), linewidth=1.0, label=_legend_label(mark.label),
           linestyle=(0, (2, 2)) if mark.dashed else "-")  # fmt: skip


def _draw_band(panel: Axes, mark: Band) -> None:
    across = panel.axhspan if mark.on == "y" else panel.axvspan
    low, high = (
        end if end is not None else limit for end, limit in zip((mark.low, mark.high), (-1e9, 1e9), strict=True)
    )
    across(low, high, color=style.tone_color(mark.tone), alpha=0.08, linewidth=0, label=_legend_label(mark.label))


def _draw_cells(panel: Axes, mark: Cells) -> None:
    wide = len(mark.values[0]) > 2 * len(mark.values) or len(mark.values) > 2 * len(mark.values[0])
    shape: Literal["auto", "equal"] = "auto" if wide else "equal"
    image = panel.imshow(mark.values, cmap="cividis", aspect=shape, vmin=mark.least, vmax=mark.most)
    panel.set_ylim(len(mark.values) - 0.5, -0.5)
    panel.set_xlim(-0.5, len(mark.values[0]) - 0.5)
    bar = panel.figure.colorbar(image, ax=panel, shrink=0.8)
    bar.set_label(_escape_text(mark.label, 48), fontsize=SMALL_FONT)
    bar.ax.tick_params(labelsize=SMALL_FONT)
    if max(len(mark.values), len(mark.values[0])) <= MAX_ANNOTATED_ROWS:
        for i, row in enumerate(mark.values):
            for j, value in enumerate(row):
                text = format(value, mark.fmt) if math.isfinite(value) else "–"
                light = not value < (mark.least + mark.most) / 2
                panel.text(
                    j, i, text, ha="center", va="center", fontsize=SMALL_FONT, color="black" if light else "white"
                )


def _draw_color_bar(panel: Axes, mark: Field | Surface, norm: Any) -> None:
    """Draw a color bar next to the panel, with pointed ends if values lie beyond the scale."""
    import numpy as np
    from matplotlib.cm import ScalarMappable
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

    finite = np.array(mark.values)
    finite = finite[np.isfinite(finite)]
    beyond = bool((finite < mark.least).any()), bool((finite > mark.most).any())
    extend = {(True, False): "min", (False, True): "max", (True, True): "both"}.get(beyond, "neither")
    beside = panel.inset_axes((1.04, 0.1, 0.04, 0.8))  # keeps its position when the panel shrinks to equal units
    bar = panel.figure.colorbar(ScalarMappable(norm, "cividis"), cax=beside, extend=extend)
    bar.set_label(_escape_text(mark.label, 48), fontsize=SMALL_FONT)
    bar.ax.tick_params(labelsize=SMALL_FONT)
    if mark.log:
        bar.ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        bar.ax.yaxis.set_major_formatter(FormatStrFormatter("%.3g"))
        bar.ax.yaxis.set_minor_formatter(NullFormatter())


def _draw_field(panel: Axes, mark: Field) -> None:
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
        [(x[i, j] + a * half[0] + mark.shear * b * half[1], y[i, j] + b * half[1]) for a, b in SQUARE_CORNERS]
        for i, j in zip(*np.nonzero(np.ma.getmaskarray(grid)), strict=True)
    ]
    panel.add_collection(PolyCollection(holes, facecolors="none", edgecolors=style.tone_color("quiet"), hatch="////",
                                        linewidths=0))  # fmt: skip
    if grid.count() > 3 and mark.least < mark.most and min(grid.shape) > 2:
        levels = (np.geomspace if mark.log else np.linspace)(mark.least, mark.most, 9)[1:-1]
        lines = panel.contour(x, y, grid, levels=levels, colors=style.GROUND.light, linewidths=0.5, alpha=0.6)
        panel.clabel(lines, levels[1::2], fontsize=SMALL_FONT - 2, fmt="%.2g")
    panel.set_aspect("equal")
    _draw_color_bar(panel, mark, norm)


def _draw_surface(panel: Axes, mark: Surface) -> None:
    import numpy as np
    from matplotlib import colormaps
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import LogNorm, Normalize

    norm = (LogNorm if mark.log else Normalize)(mark.least, mark.most)
    height = np.clip(np.ma.filled(norm(np.ma.masked_invalid(np.array(mark.values))), np.nan), 0, 1)
    x, y = np.meshgrid(*(np.interp(at, (at[0], at[-1]), (-0.6, 0.6)) for at in (mark.x, mark.y)))
    turn, tilt = (math.radians(angle) for angle in (mark.turn, mark.tilt))

    def project(x: Any, y: Any, z: Any) -> tuple[Any, Any, Any]:
        """Return (right, up, depth) from the viewer's perspective."""
        across, away = x * math.cos(turn) - y * math.sin(turn), x * math.sin(turn) + y * math.cos(turn)
        return across, away * math.sin(tilt) + (z - 0.5) * math.cos(tilt), away

    right, up, away = project(x, y, height)
    corners = [np.s_[:-1, :-1], np.s_[:-1, 1:], np.s_[1:, 1:], np.s_[1:, :-1]]
    quads = np.stack([np.stack([right[c], up[c]], -1) for c in corners], 2).reshape(-1, 4, 2)
    means = np.mean([height[c] for c in corners], 0).reshape(-1)
    order = np.argsort(-np.mean([away[c] for c in corners], 0).reshape(-1), kind="stable")
    order = order[np.isfinite(means[order])]
    floor = np.array([project(a, b, 0.0)[:2] for a, b in ((-0.6, -0.6), (0.6, -0.6), (0.6, 0.6), (-0.6, 0.6))])
    panel.add_collection(PolyCollection([floor], facecolors="none", edgecolors=style.GRID.light, linewidths=0.8))
    panel.add_collection(PolyCollection(quads[order], facecolors=colormaps["cividis"](means[order]),
                                        edgecolors=style.GROUND.light, linewidths=0.15))  # fmt: skip
    front_edges = [-math.copysign(0.68, side) for side in (math.cos(turn), math.sin(turn))]  # front edges
    for name, (a, b) in zip(mark.names, ((0.0, front_edges[0]), (front_edges[1], 0.0)), strict=True):
        across, high, _ = project(a, b, 0.0)
        panel.text(
            across,
            high,
            _escape_text(name, 30),
            ha="center",
            va="top",
            fontsize=SMALL_FONT,
            color=style.tone_color("quiet"),
        )
    panel.set_xlim(-1, 1)
    panel.set_ylim(-1, 1)
    panel.grid(False)
    panel.set_aspect("equal")
    _draw_color_bar(panel, mark, norm)


PENS: dict[type[Mark], Callable[[Any, Any], None]] = {
    Steps: _draw_steps, Line: _draw_line, Points: _draw_points, Rule: _draw_rule, Band: _draw_band, Cells: _draw_cells,
    Field: _draw_field, Surface: _draw_surface,
}  # fmt: skip


def _format_tick(value: float) -> str:
    """Format a number as plain text, such as 5×10⁸, without mathtext.

    Mathtext stays off so that names of layers are never parsed as formulas.
    """
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.6g}".replace("-", "−")
    mantissa, _, exponent = f"{value:.3e}".partition("e")
    power = "10" + str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return power if float(mantissa) == 1 else f"{float(mantissa):g}×{power}".replace("-", "−")


def _format_minor_tick(value: float, view: Sequence[float]) -> str:
    """Label 2 and 5 on logarithmic axes that span few powers of ten."""
    low, high = sorted(view)
    digit = round(value / 10 ** math.floor(math.log10(value)))
    return _format_tick(value) if high < 30 * max(low, 1e-300) and (digit in (2, 5) or high < 4 * low) else ""


def _legend_label(words: str) -> str:
    """Escape a legend label; a leading space keeps matplotlib from hiding labels that start with an underscore."""
    return f" {_escape_text(words)}" if words.startswith("_") else _escape_text(words)


def _escape_text(words: str, width: int = 0) -> str:
    """Escape $ so that no formula starts, and wrap the text if ``width`` is not 0."""
    lines: Sequence[str] = textwrap.wrap(words, width, break_on_hyphens=False) if width else [words]
    return "\n".join(lines).replace("$", r"\$")
