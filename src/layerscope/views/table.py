"""A report as a table: on a terminal, in a pipe and as the repr of a report."""

from __future__ import annotations

import io
import os
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from layerscope import registry
from layerscope.records.findings import SEVERITIES, Finding
from layerscope.records.layers import UNSURE, LayerReport
from layerscope.records.report import Report
from layerscope.rules.tail_evidence import accepted, doubt
from layerscope.settings import Settings
from layerscope.text import format_number, plural, printable, split_common_ending, truncate
from layerscope.views import aligned_columns, conditioning_summary, headline, report_rows
from layerscope.views.aligned_columns import Cell, Step
from layerscope.views.short_names import short_names

STYLES = {"error": "bold red", "warn": "magenta", "info": "cyan", "": ""}
NARROW_COLUMNS = ("layer_id", "name", "size", "alpha", "alpha_usual", "log_spectral_norm", "phase", "verdicts")
CONDITIONING_COLUMNS = ("layer_id", "name", "verdicts", "lambda_max_x", "lambda_max_d", "lambda_max_fim", "domination")
CONDITIONING_WIDE_COLUMNS = (*CONDITIONING_COLUMNS[:6], "kappa_50_x", "kappa_50_d", "domination", "dying", "full")
RANGE_COLUMNS = ("alpha_usual", "alpha_untrained")  # from the metrics of this name with _low to those with _high
DIFF_COLUMNS = ("layer_id", "name", "verdicts", "relative_change", "rounding_floor", "rank_95", "exact_rank",
                "intruders", "overlap_left")  # fmt: skip
SHUFFLE_COLUMNS = ("rand_distance", "rand_num_spikes")
BULK_COLUMNS = ("mp_softrank", "num_spikes")
WIDE_COLUMNS = (
    *NARROW_COLUMNS[:5], "alpha_untrained", "D", "num_pl_spikes", "log_spectral_norm", "stable_rank",
    *NARROW_COLUMNS[6:],
)  # fmt: skip
DESCRIPTION_NARROW_COLUMNS = ("layer_id", "name", "layer_type", "shape", "num_evals", "note")
DESCRIPTION_WIDE_COLUMNS = ("layer_id", "name", "layer_type", "shape", "N", "M", "rf", "num_evals", "dtype", "note")
DESCRIPTION_HTML_COLUMNS = ("layer_id", "name", "layer_type", "shape", "size", "num_evals", "dtype", "note")
FIRST_COLUMNS, LAST_COLUMNS = ("layer_id", "name", "verdicts", "alpha", "phase"), ("layer_type", "size")
LEFT_ALIGNED_COLUMNS = (
    "name", "layer_type", "phase", "verdicts", "note", "how", "skipped", "dtype", "best_fit", "shape",
)  # fmt: skip
LABEL_COLUMNS = ("layer_id", "name")  # of each row, repeated where a table goes on below
DROPPED_FIRST = (
    "size",
    "D",
    "num_pl_spikes",
    "stable_rank",
    "alpha_untrained",
    "log_spectral_norm",
    "phase",
)  # of a table too wide
SUMMARY_METRICS = (("alpha", "α"), ("log_spectral_norm", "logλmax"), ("stable_rank", "stable rank"))
MAX_LISTED_LAYERS = 6  # layers named below one verdict before the rest are counted
MAX_NAMED_LAYERS = 3  # layers that one line of the summary names
MAX_MESSAGE_CHARS = 800  # of a verdict
MIN_NAME_CHARS = 22
MIN_NOTE_CHARS = 30
PIPE_WIDTH = 140  # of a pipe or a file


def _truncate_all(texts: Sequence[str], max_chars: int) -> tuple[list[str], str]:
    return [truncate(text, max_chars) for text in texts], ""


# (column, how it is shortened, least width), in the order in which they give way
GIVE_WAY: tuple[tuple[str, aligned_columns.ShortenColumn, int], ...] = (
    ("note", _truncate_all, MIN_NOTE_CHARS), ("how", _truncate_all, MIN_NOTE_CHARS),
    ("name", short_names, MIN_NAME_CHARS), ("note", _truncate_all, 12), ("how", _truncate_all, 12),
)  # fmt: skip


def print_report(
    report: Report, console: Console, *, columns: Sequence[str] = (), verbose: int = 0, bulk: bool = False
) -> None:
    """Print analyzed layers, summary, verdicts and what was skipped; ``bulk`` adds the random-matrix columns.

    A diff is printed as ``layerscope diff`` prints it, unless columns are chosen.
    """
    if "diff" in report.meta and not columns:
        from layerscope.views import model_diff

        model_diff.print_diff(report, console)
        return
    chosen = list(columns) or choose_columns(report, console.width >= 100, bulk)
    if not {"name", "layer_id"} & set(chosen):
        chosen.insert(0, "name")
    rows = [layer for layer in report.rows if not layer.skipped or layer.failed or verbose]
    console.print(_title_line(report, console.width))
    if rows:
        _print_layers(report, console, rows, chosen, () if columns else DROPPED_FIRST)
    for line in (*_summary_lines(report), *_verdict_lines(report, verbose, console.width), *_skipped_lines(report)):
        console.print(line)


def choose_columns(report: Report, wide: bool, bulk: bool) -> list[str]:
    """Choose the columns for the width of the console and the measurements in the report."""
    settings = report.settings
    if "diff" in report.meta:
        return list(DIFF_COLUMNS)
    if "conditioning" in report.meta:
        return list(CONDITIONING_WIDE_COLUMNS if wide else CONDITIONING_COLUMNS)
    chosen = list(WIDE_COLUMNS if wide else NARROW_COLUMNS)
    groups = (
        (("alpha_canonical",), "canonical" in report.meta.get("asked", {})),
        (("alpha_farms",), settings.window),
        (SHUFFLE_COLUMNS, settings.randomize),
        (BULK_COLUMNS, bulk),
    )
    extra = [name for names, is_on in groups if is_on for name in names]
    position = chosen.index("phase")
    chosen[position : position + (bool(extra) and not wide)] = extra
    if len(extra) > 2 and not wide:
        chosen.remove("size")
    return chosen


def columns_by_importance(report: Report) -> list[str]:
    """List the columns for a page or document of any width: verdict and α beside the name, sizes last."""
    middle = [name for name in choose_columns(report, True, False) if name not in (*FIRST_COLUMNS, *LAST_COLUMNS)]
    first = FIRST_COLUMNS[:3] if {"conditioning", "diff"} & report.meta.keys() else FIRST_COLUMNS
    return [*first, *middle, *LAST_COLUMNS]


def print_description(report: Report, console: Console, *, columns: Sequence[str] = ()) -> None:
    """Print every tensor with its sizes and whether it is analyzed, or why not."""
    chosen = list(columns) or list(DESCRIPTION_WIDE_COLUMNS if console.width >= 100 else DESCRIPTION_NARROW_COLUMNS)
    console.print(_title_line(report, console.width))
    _print_layers(report, console, report.rows, chosen)
    usable = sum(not layer.skipped for layer in report.rows)
    rows, unusable = plural(len(report.rows), "row"), len(report.rows) - usable
    console.print(Text(f"{rows}: {usable} can be analyzed, {unusable} cannot"))


def report_text(report: Report) -> str:
    """Return the table without colors, as a repr shows it."""
    measured = any(layer.spectrum is not None or layer.metrics for layer in report.rows)
    return capture_text(
        lambda console: print_report(report, console) if measured else print_description(report, console)
    )


def capture_text(draw: Callable[[Console], None]) -> str:
    """Return what a function prints on a console, as text."""
    buffer = io.StringIO()
    draw(_make_console(buffer, _pipe_width(), color_system=None))
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines())


def console_for(stream: Any) -> Console:
    """A console on a stream: as wide as the terminal, or :data:`PIPE_WIDTH` in a pipe; NO_COLOR is respected."""
    tty = stream.isatty()
    width = None if tty else _pipe_width()
    return _make_console(stream, width)


def _make_console(stream: Any, width: int | None, **more: Any) -> Console:
    """A console that writes to its stream in a notebook too, where rich would write to the cell instead."""
    return Console(file=stream, width=width, highlight=False, emoji=False, markup=False, force_jupyter=False, **more)


def _pipe_width() -> int:
    columns = os.environ.get("COLUMNS", "")
    return int(columns) if columns.isdigit() and int(columns) >= 40 else PIPE_WIDTH


def _print_layers(
    report: Report,
    console: Console,
    rows: Iterable[LayerReport],
    columns: list[str],
    droppable: Sequence[str] = (),
) -> None:
    """A table of layers; ``droppable`` columns are left out in turn where the table is too wide."""
    by_layer = headline.group_by_layer(report.findings)
    shown, settings = {layer.name for layer in rows}, report.settings
    full_cells = [
        [make_cell(settings, layer, values, column, by_layer.get(layer.name, [])) for column in columns]
        for layer, values in zip(report.rows, report_rows.rows(report), strict=True)
        if layer.name in shown
    ]
    spare = [name for name in droppable if name in columns]
    all_columns = columns
    for count in range(len(spare) + 1):
        kept = [i for i, column in enumerate(all_columns) if column not in spare[:count]]
        columns = [all_columns[i] for i in kept]
        heads, cells = [column_head(column) for column in columns], [[row[i] for i in kept] for row in full_cells]
        steps = [Step(columns.index(name), shorten, least) for name, shorten, least in GIVE_WAY if name in columns]
        captions = aligned_columns.fit_columns(heads, cells, console.width, steps)
        if not aligned_columns.is_too_wide(heads, cells, console.width):
            break
    left = {i for i, column in enumerate(columns) if column in LEFT_ALIGNED_COLUMNS}
    labels = {i for i, column in enumerate(columns) if column in LABEL_COLUMNS}
    aligned_columns.print_rows(console, heads, cells, left, labels or {0})
    for caption in captions:
        console.print(Text(caption, style="dim"))


def column_head(column: str) -> str:
    """The heading of a column."""
    if column in report_rows.COLUMN_HEADS:
        return report_rows.COLUMN_HEADS[column]
    plugin = registry.plugins("metrics").get(column)
    return str(plugin.meta["label"]) if plugin else column


def make_cell(
    settings: Settings, layer: LayerReport, values: dict[str, Any], column: str, findings: list[Finding]
) -> Cell:
    """What one column shows of one layer."""
    if column == "name":
        return Cell(printable(layer.name))
    if column == "size":
        return Cell(_format_size(values))
    if column == "shape":
        return Cell(printable("×".join(map(str, values["shape"])) or "·", 40))
    if column == "note":
        description = layer.ref.how or "analyzed"
        return Cell(printable(layer.skipped or description), "dim" if layer.skipped else "")
    if column == "verdicts":
        if layer.failed:
            return Cell("failed", STYLES["error"])
        return Cell(" ".join(f.code for f in findings), STYLES[headline.worst_severity(findings)])
    if column == "alpha" and "alpha" in layer.metrics:
        return _make_alpha_cell(settings, layer, findings)
    if column in RANGE_COLUMNS:
        return Cell(_format_range(layer, column), "dim")
    plugin = registry.plugins("metrics").get(column)
    fmt = str(plugin.meta["fmt"]) if plugin else ".2f" if column == "Q" else "s"
    return Cell(printable(format_number(values.get(column), fmt)))


def _make_alpha_cell(settings: Settings, layer: LayerReport, findings: list[Finding]) -> Cell:
    metrics = layer.metrics
    alpha, low, high = (float(metrics[name]) for name in ("alpha", "alpha_low", "alpha_high"))
    text = f"{alpha:.{1 + (alpha < 10)}f} ({low:.1f}–{high:.{int(high < 100)}f})"
    if not accepted(layer, settings) or any(f.code == "LS105" for f in findings):
        return Cell(f"{text}?", "dim")
    return Cell(f"{text} ", STYLES[headline.worst_severity([f for f in findings if f.code in ("LS101", "LS102")])])


def _format_range(layer: LayerReport, column: str) -> str:
    low, high = (layer.metrics.get(f"{column}_{end}") for end in ("low", "high"))
    return f"{low:.1f}–{high:.1f}" if low is not None and high is not None else "–"


def _format_size(values: dict[str, Any]) -> str:
    if values["N"] is None:
        return "–"
    k = values["rf"]
    return f"{values['N']}×{values['M']}" + (f"·{k}" if k > 1 else "")


def _title_line(report: Report, width: int) -> Text:
    meta = report.meta
    duration = f", {meta['seconds']:.2f} s" if "seconds" in meta else ""
    reader = f", {printable(meta['read'], 40)}" if "read" in meta else ""
    about = f"  ({printable(meta['format'], 20)}{reader}{duration})"
    target, room = printable(meta["target"], 500), max(MIN_NAME_CHARS, width - len(about))
    shown = target if len(target) <= room else f"…{target[1 - room :]}"  # the end of a path says most
    return Text.assemble((shown, "bold"), about)


def _summary_lines(report: Report) -> list[Text]:
    summary = report.summary
    metrics = summary["metrics"]
    lines = [Text("")]
    learning = bool(conditioning_summary.conditioning_options(report))
    if learning:
        lines.append(Text(conditioning_summary.describe_factor_spread(report)))
    if "alpha" in metrics:
        parts = [f"{label} {metrics[name]['median']:.2f}" for name, label in SUMMARY_METRICS if name in metrics]
        lines.append(Text(f"Median of {plural(summary['averaged'], 'layer')}: {', '.join(parts)}"))
    counts_by_reason: dict[str, int] = {}
    for item in summary["left_out"]:
        reason = "too small or no fit" if item["why"] not in ("embedding", "collapsed") else item["why"]
        counts_by_reason[reason] = counts_by_reason.get(reason, 0) + 1
    if counts_by_reason and not learning:
        reasons = ", ".join(f"{count} {why}" for why, count in sorted(counts_by_reason.items()))
        lines.append(Text(f"{plural(sum(counts_by_reason.values()), 'layer')} not counted in the median: {reasons}"))
    unsure = [row.name for row in report.rows if UNSURE in row.ref.how and not row.skipped]
    if unsure:
        names = ", ".join(printable(name, 60) for name in unsure[:MAX_NAMED_LAYERS])
        more = ", …" if len(unsure) > MAX_NAMED_LAYERS else ""
        whether = "whether it is a weight" if len(unsure) == 1 else "whether they are weights"
        lines.append(Text(f"Unsure {whether}, by name: {names}{more} (--layers=-NAME leaves a layer out)"))
    settings = report.settings
    doubts = Counter(
        doubt(x, settings) for x in report.rows if "alpha" in x.metrics and "power_law" in x.parts["weight"].fits
    )
    doubts.pop("", None)
    if doubts:
        why = ", ".join(f"{count} {reason}" for reason, count in doubts.most_common())
        lines.append(Text(f"{plural(doubts.total(), 'α value')} marked ? without a verdict: {why}"))
    return lines


def _verdict_lines(report: Report, verbose: int, width: int) -> list[Text]:
    """The findings, the most severe first; of those at the level info only the number of layers."""
    if not any(not layer.skipped for layer in report.rows):
        common_reasons = Counter(
            row.skipped for row in report.rows if row.skipped and len(row.ref.shape) > 1
        ).most_common(3)
        reasons = "".join(f" {count} × {printable(reason, 120)}." for reason, count in common_reasons)
        return [Text(f"No layer could be analyzed.{reasons}", style=STYLES["error"])]
    findings_by_code = headline.group_by_code(report.findings)
    severities = {code: SEVERITIES.index(headline.worst_severity(group)) for code, group in findings_by_code.items()}
    codes = sorted(severities, key=lambda code: (-severities[code], code))
    if not any(severities.values()):
        lines = [Text(""), Text(headline.summary_sentences(report)[0], style="bold")]
    else:
        lines = [Text(""), Text("Verdicts", style="bold")]
    return [*lines, *_code_lines(codes, findings_by_code, verbose, width)]


def finding_lines(report: Report, width: int, verbose: int = 1) -> list[Text]:
    """Return every finding as lines of text, the most severe first."""
    findings_by_code = headline.group_by_code(report.findings)
    severities = {code: SEVERITIES.index(headline.worst_severity(group)) for code, group in findings_by_code.items()}
    codes = sorted(severities, key=lambda code: (-severities[code], code))
    return [Text(""), *_code_lines(codes, findings_by_code, verbose, width)] if codes else []


def _code_lines(
    codes: Sequence[str], findings_by_code: Mapping[str, Sequence[Finding]], verbose: int, width: int
) -> list[Text]:
    """Return the findings of each code as lines of text."""
    lines: list[Text] = []
    for code in codes:
        findings = findings_by_code[code]
        style = STYLES[findings[0].severity]
        about_model = findings[0].layer is None
        where = ": the whole model" if about_model else f": {plural(len(findings), 'layer')}"
        lines.append(Text.assemble("  ", (printable(f"{code} {findings[0].title}"), style), where))
        if about_model:
            lines.append(_wrap_message(findings[0].message, 4, width))
            continue
        if findings[0].severity == "info" and code not in headline.TO_LOOK_AT and not verbose:
            continue
        limit = len(findings) if verbose else MAX_LISTED_LAYERS
        messages, advice = split_common_ending([f.message for f in findings[:limit]])
        for finding, message in zip(findings[:limit], messages, strict=True):
            lines.append(Text(f"    {printable(finding.layer, 70)}"))
            lines.append(_wrap_message(message, 6, width))
        if len(findings) > limit:
            lines.append(Text(f"    … and {len(findings) - limit} more (-v lists all)"))
        if advice:
            lines.append(_wrap_message(advice, 4, width))
    if codes:
        lines.append(Text(f"  To read what a verdict means: layerscope explain {codes[0]}", style="dim"))
    return lines


def _wrap_message(message: str, indent: int, width: int) -> Text:
    """A message in lines of a width, all indented."""
    space = " " * indent
    shown = printable(message, MAX_MESSAGE_CHARS)
    return Text(textwrap.fill(shown, width, initial_indent=space, subsequent_indent=space))


def _skipped_lines(report: Report) -> list[Text]:
    unmeasured = [layer for layer in report.rows if layer.skipped and not layer.failed]
    failed = [layer for layer in report.rows if layer.failed]
    lines = []
    for reason, count in Counter(x.skipped.rpartition(", ")[2] for x in unmeasured if x.ref.axes).items():
        lines.append(Text(f"Skipped: {plural(count, 'layer')}, {printable(reason, 60)}", style="dim"))
    kinds = Counter(x.ref.kind for x in unmeasured if not x.ref.axes)
    if kinds:
        listed = ", ".join(f"{count} {printable(kind, 20)}" for kind, count in sorted(kinds.items()))
        lines.append(Text(f"Not analyzed: {listed} (layerscope describe shows the reasons)", style="dim"))
    style = STYLES["error"]
    lines += [
        Text(f"Failed: {printable(x.name, 60)}: {printable(x.skipped)}", style=style)
        for x in failed[:MAX_LISTED_LAYERS]
    ]
    if len(failed) > MAX_LISTED_LAYERS:
        lines.append(Text(f"Failed: {len(failed) - MAX_LISTED_LAYERS} more layers", style=style))
    return lines
