"""A report as a table for people: on a terminal, in a pipe, as a repr."""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from layerscope import registry
from layerscope.records.findings import SEVERITIES, Finding
from layerscope.records.layers import Job, LayerReport
from layerscope.records.report import Report
from layerscope.rules.tail_evidence import accepted, doubt
from layerscope.settings import Settings
from layerscope.text import abbreviate, distinct_paths, elide, format_number, plural, printable, truncate
from layerscope.views import aligned_columns, conditioning_summary, headline, report_rows
from layerscope.views.aligned_columns import Cell

STYLES = {"error": "bold red", "warn": "magenta", "info": "cyan", "": ""}
NARROW_COLUMNS = ("layer_id", "name", "size", "alpha", "log_spectral_norm", "phase", "verdicts")
CONDITIONING_COLUMNS = ("layer_id", "name", "verdicts", "lambda_max_x", "lambda_max_d", "lambda_max_fim", "domination")
CONDITIONING_WIDE_COLUMNS = (*CONDITIONING_COLUMNS[:6], "kappa_50_x", "kappa_50_d", "domination", "dying", "full")
SHUFFLE_COLUMNS = ("rand_distance", "rand_num_spikes")
BULK_COLUMNS = ("mp_softrank", "num_spikes")
WIDE_COLUMNS = (*NARROW_COLUMNS[:4], "D", "num_pl_spikes", "log_spectral_norm", "stable_rank", *NARROW_COLUMNS[5:])
DESCRIPTION_NARROW_COLUMNS = ("layer_id", "name", "layer_type", "shape", "num_evals", "note")
DESCRIPTION_WIDE_COLUMNS = ("layer_id", "name", "layer_type", "shape", "N", "M", "rf", "num_evals", "dtype", "note")
DESCRIPTION_HTML_COLUMNS = ("layer_id", "name", "layer_type", "shape", "size", "num_evals", "dtype", "note")
FIRST_COLUMNS, LAST_COLUMNS = ("layer_id", "name", "verdicts", "alpha", "phase"), ("layer_type", "size")
LEFT_ALIGNED_COLUMNS = (
    "name",
    "layer_type",
    "phase",
    "verdicts",
    "note",
    "how",
    "skipped",
    "dtype",
    "best_fit",
    "shape",
)
SUMMARY_METRICS = (("alpha", "α"), ("log_spectral_norm", "logλmax"), ("stable_rank", "stable rank"))
MAX_LISTED_LAYERS = 6  # layers named below one verdict before the rest are counted
MIN_NAME_CHARS = 22  # columns that a shortened cell keeps
PIPE_WIDTH = 140  # of a pipe or a file


def print_report(
    report: Report, console: Console, *, columns: Sequence[str] = (), verbose: int = 0, bulk: bool = False
) -> None:
    """The table of analysed layers, the summary, the verdicts, what was skipped; ``bulk`` shows the random matrix."""
    chosen = list(columns) or choose_columns(report, console.width >= 100, bulk)
    if not {"name", "layer_id"} & set(chosen):
        chosen.insert(0, "name")
    rows = [layer for layer in report.rows if not layer.skipped or layer.failed or verbose]
    console.print(_title_line(report, console.width))
    if rows:
        _print_layers(report, console, rows, chosen)
    for line in (*_summary_lines(report), *_verdict_lines(report, verbose), *_skipped_lines(report)):
        console.print(line)


def choose_columns(report: Report, wide: bool, bulk: bool) -> list[str]:
    """The columns that suit the width and what was asked for."""
    settings = report.settings
    if "conditioning" in report.meta:
        return list(CONDITIONING_WIDE_COLUMNS if wide else CONDITIONING_COLUMNS)
    chosen = list(WIDE_COLUMNS if wide else NARROW_COLUMNS)
    groups = ((("alpha_farms",), settings.window), (SHUFFLE_COLUMNS, settings.randomize), (BULK_COLUMNS, bulk))
    extra = [name for names, is_on in groups if is_on for name in names]
    position = chosen.index("phase")
    chosen[position : position + (bool(extra) and not wide)] = extra
    if len(extra) > 2 and not wide:
        chosen.remove("size")
    return chosen


def columns_by_importance(report: Report) -> list[str]:
    """The columns where there is room for all of them: verdict and α beside the name, sizes last."""
    middle = [name for name in choose_columns(report, True, False) if name not in (*FIRST_COLUMNS, *LAST_COLUMNS)]
    first = FIRST_COLUMNS if "conditioning" not in report.meta else FIRST_COLUMNS[:3]
    return [*first, *middle, *LAST_COLUMNS]


def print_description(report: Report, console: Console, *, columns: Sequence[str] = ()) -> None:
    """Every tensor: sizes, and analysed or why not."""
    chosen = list(columns) or list(DESCRIPTION_WIDE_COLUMNS if console.width >= 100 else DESCRIPTION_NARROW_COLUMNS)
    console.print(_title_line(report, console.width))
    _print_layers(report, console, report.rows, chosen)
    usable = sum(not layer.skipped for layer in report.rows)
    console.print(Text(f"{plural(len(report.rows), 'row')}: {usable} to analyse, {len(report.rows) - usable} not"))


def print_side_by_side(reports: Sequence[Report], console: Console, names: Sequence[str] = ()) -> None:
    """The summaries of several models, a column each."""
    names = names or distinct_paths([str(report.meta["target"]) for report in reports])
    width = max(12, (console.width - 26) // len(reports) - 2)
    heads, *rows = median_rows(reports, names)
    table = _make_bare_table()
    table.add_column(heads[0])
    for name in heads[1:]:
        table.add_column(Text(elide(name, width)), justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(Text("Side by side", style="bold"))
    console.print(table)
    if len({report.summary["analysed"] for report in reports}) > 1:
        console.print(Text("The models differ in their number of layers: compare shape (alpha), not scale (norms)."))


def median_rows(reports: Sequence[Report], names: Sequence[str]) -> list[list[str]]:
    """The summaries of several models: a row of heads, then medians, layers averaged and counts of findings."""
    summaries = [report.summary for report in reports]
    plugins, rules = registry.plugins("metrics"), registry.plugins("rules")
    rows = [["median over layers", *(printable(name) for name in names)]]
    for name in ("alpha", "alpha_weighted", "log_norm", "log_spectral_norm", "stable_rank", "entropy"):
        values = [s["metrics"].get(name, {}).get("median") for s in summaries]
        rows.append([name, *(format_number(value, plugins[name].meta["fmt"]) for value in values)])
    rows.append(["layers averaged", *(str(s["averaged"]) for s in summaries)])
    for code in sorted({code for s in summaries for code in s["findings"]}):
        title = rules[code].meta["title"] if code in rules else ""
        rows.append([f"{printable(code, 20)} {title}", *(str(s["findings"].get(code, 0)) for s in summaries)])
    return rows


def report_text(report: Report) -> str:
    """The table without colours, as a repr shows it."""
    measured = any(layer.spectrum is not None or layer.metrics for layer in report.rows)
    return capture_text(
        lambda console: print_report(report, console) if measured else print_description(report, console)
    )


def capture_text(draw: Callable[[Console], None]) -> str:
    """What is drawn on a console, as text."""
    buffer = io.StringIO()
    draw(_make_console(buffer, _pipe_width(), color_system=None))
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines())


def console_for(stream: Any) -> Console:
    """A console on a stream: as wide as the terminal, or wide enough for names in a pipe; NO_COLOR is honoured."""
    tty = stream.isatty()
    width = None if tty else _pipe_width()
    return _make_console(stream, width)


def _make_console(stream: Any, width: int | None, **more: Any) -> Console:
    """In a notebook too it writes to its stream: rich would show what it is given in the cell instead."""
    return Console(file=stream, width=width, highlight=False, emoji=False, markup=False, force_jupyter=False, **more)


def _pipe_width() -> int:
    columns = os.environ.get("COLUMNS", "")
    return int(columns) if columns.isdigit() and int(columns) >= 40 else PIPE_WIDTH


def _make_bare_table() -> Table:
    return Table(box=None, padding=(0, 1, 0, 0), header_style="bold", show_edge=False, pad_edge=False)


def _print_layers(report: Report, console: Console, rows: Iterable[LayerReport], columns: list[str]) -> None:
    by_layer = headline.group_by_layer(report.findings)
    shown, settings = {layer.name for layer in rows}, report.settings
    cells = [
        [make_cell(settings, layer, values, column, by_layer.get(layer.name, [])) for column in columns]
        for layer, values in zip(report.rows, report_rows.rows(report), strict=True)
        if layer.name in shown
    ]
    heads = [column_head(column) for column in columns]
    shorten: list[tuple[str, aligned_columns.Shorten, int]] = [
        ("name", _strip_weight_suffix, 1), ("name", abbreviate, MIN_NAME_CHARS), ("note", truncate, 12),
        ("how", truncate, 12),
    ]  # fmt: skip
    shortenings = [
        (columns.index(name), shorten_name, least) for name, shorten_name, least in shorten if name in columns
    ]
    names = [row[columns.index("name")].text for row in cells] if "name" in columns else []
    aligned_columns.fit_columns(heads, cells, console.width, shortenings)
    if names:
        _keep_names_distinct(cells, columns.index("name"), names)
    aligned_columns.print_rows(
        console, heads, cells, {i for i, column in enumerate(columns) if column in LEFT_ALIGNED_COLUMNS}
    )


def _keep_names_distinct(cells: list[list[Cell]], column: int, names: list[str]) -> None:
    """Names that became the same when they were shortened show their ends instead."""
    occurrences = Counter(row[column].text for row in cells)
    for row, name in zip(cells, names, strict=True):
        cell = row[column]
        if occurrences[cell.text] > 1 and cell.text != name:
            room = len(cell.text)
            row[column] = Cell(f"…{name[1 - room :]}" if len(name) > room else name, cell.style)


def _strip_weight_suffix(name: str, longest: int) -> str:
    return name.removesuffix(".weight")  # of all names or of none, so that rows stay comparable


def column_head(column: str) -> str:
    if column in report_rows.COLUMN_HEADS:
        return report_rows.COLUMN_HEADS[column]
    plugin = registry.plugins("metrics").get(column)
    return str(plugin.meta["label"]) if plugin else column


def make_cell(
    settings: Settings, layer: LayerReport, values: dict[str, Any], column: str, findings: list[Finding]
) -> Cell:
    if column == "name":
        return Cell(printable(layer.name))
    if column == "size":
        return Cell(_format_size(values))
    if column == "shape":
        return Cell(printable("×".join(map(str, values["shape"])) or "·", 40))
    if column == "note":
        description = layer.ref.how or "analysed"
        return Cell(printable(layer.skipped or description), "dim" if layer.skipped else "")
    if column == "verdicts":
        if layer.failed:
            return Cell("failed", STYLES["error"])
        return Cell(" ".join(f.code for f in findings), STYLES[headline.worst_severity(findings)])
    if column == "alpha" and "alpha" in layer.metrics:
        return _make_alpha_cell(settings, layer, findings)
    plugin = registry.plugins("metrics").get(column)
    fmt = str(plugin.meta["fmt"]) if plugin else ".2f" if column == "Q" else "s"
    return Cell(printable(format_number(values.get(column), fmt)))


def _make_alpha_cell(settings: Settings, layer: LayerReport, findings: list[Finding]) -> Cell:
    metrics = layer.metrics
    half = max(
        float(metrics["alpha_high"]) - float(metrics["alpha"]), float(metrics["alpha"]) - float(metrics["alpha_low"])
    )
    digits = 2 if float(metrics["alpha"]) < 10 and half < 10 else 1
    text = f"{metrics['alpha']:.{digits}f} ±{half:.{digits}f}"
    if not accepted(layer, settings) or any(f.code == "LS105" for f in findings):
        return Cell(f"{text}?", "dim")
    return Cell(f"{text} ", STYLES[headline.worst_severity([f for f in findings if f.code in ("LS101", "LS102")])])


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
    shown = target if len(target) <= room else f"…{target[1 - room :]}"  # the end of a path tells most
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
        lines.append(
            Text("Left out of it: " + ", ".join(f"{count} {why}" for why, count in sorted(counts_by_reason.items())))
        )
    settings = report.settings
    doubts = Counter(
        doubt(x, settings) for x in report.rows if "alpha" in x.metrics and "power_law" in x.parts["weight"].fits
    )
    doubts.pop("", None)
    if doubts:
        why = ", ".join(f"{count} {reason}" for reason, count in doubts.most_common())
        lines.append(Text(f"{doubts.total()} α marked ? carry no verdict: {why}"))
    small = {finding.layer for finding in report.findings if finding.code == "LS107"}
    large = [row for row in report.rows if not row.skipped and row.name not in small]
    random = sum(x.metrics.get("phase") == "random-like" for x in large)
    if random and not settings.randomize and not learning:  # with shuffles LS103 says it better
        of = plural(len(large), "layer") + (" that are large enough" if small else "")
        lines.append(Text(f"{random} of {of} look random: untrained, or little learned"))
    return lines


def _verdict_lines(report: Report, verbose: int) -> list[Text]:
    """The findings, gravest first; of those that only inform, a count."""
    if not any(not layer.skipped for layer in report.rows):
        common_reasons = Counter(
            row.skipped for row in report.rows if row.skipped and len(row.ref.shape) > 1
        ).most_common(3)
        reasons = "".join(f" {count} × {printable(reason, 120)}." for reason, count in common_reasons)
        return [Text(f"No layer could be analysed.{reasons}", style=STYLES["error"])]
    findings_by_code = headline.group_by_code(report.findings)
    severities = {code: SEVERITIES.index(headline.worst_severity(group)) for code, group in findings_by_code.items()}
    codes = sorted(severities, key=lambda code: (-severities[code], code))
    if not any(severities.values()):
        no_warning = "No layer is over-trained, under-trained or collapsed on this evidence."
        codes_text = (
            conditioning_summary.describe_no_warning(report)
            if conditioning_summary.conditioning_options(report)
            else no_warning
        )
        lines = [Text(""), Text(codes_text, style="bold")]
    else:
        lines = [Text(""), Text("Verdicts", style="bold")]
    for code in codes:
        findings = findings_by_code[code]
        style = STYLES[findings[0].severity]
        about_model = findings[0].layer is None
        where = f": {printable(findings[0].message)}" if about_model else f": {plural(len(findings), 'layer')}"
        lines.append(Text.assemble("  ", (printable(f"{code} {findings[0].title}"), style), where))
        if about_model:
            continue
        if findings[0].severity == "info" and not verbose:
            continue
        limit = len(findings) if verbose else MAX_LISTED_LAYERS
        lines += [Text(f"    {printable(f.layer, 70)}\n      {printable(f.message)}") for f in findings[:limit]]
        if len(findings) > limit:
            lines.append(Text(f"    … and {len(findings) - limit} more (-v shows all)"))
    if codes:
        lines.append(Text(f"  What one means: layerscope explain {codes[0]}", style="dim"))
    return lines


def _skipped_lines(report: Report) -> list[Text]:
    unmeasured = [layer for layer in report.rows if layer.skipped and not layer.failed]
    failed = [layer for layer in report.rows if layer.failed]
    lines = []
    for reason, count in Counter(x.skipped.rpartition(", ")[2] for x in unmeasured if x.ref.axes).items():
        lines.append(Text(f"Left out: {plural(count, 'layer')}, {printable(reason, 60)}", style="dim"))
    kinds = Counter(x.ref.kind for x in unmeasured if not x.ref.axes)
    if kinds:
        listed = ", ".join(f"{count} {printable(kind, 20)}" for kind, count in sorted(kinds.items()))
        lines.append(Text(f"Not analysed: {listed} (layerscope describe says why)", style="dim"))
    style = STYLES["error"]
    lines += [
        Text(f"Failed: {printable(x.name, 60)}: {printable(x.skipped)}", style=style)
        for x in failed[:MAX_LISTED_LAYERS]
    ]
    if len(failed) > MAX_LISTED_LAYERS:
        lines.append(Text(f"Failed: {len(failed) - MAX_LISTED_LAYERS} more", style=style))
    return lines


def plugin_table(kind: str, plugins: Sequence[registry.Plugin]) -> Table:
    """Name, file and first line of each plugin of a kind."""
    table = _make_bare_table()
    table.title, table.title_justify, table.title_style = kind, "left", "bold"
    for head in ("name", "what", "file"):
        table.add_column(head, overflow="fold")
    for plugin in plugins:
        file = plugin.file.rpartition("layerscope/")[2] if "/layerscope/" in plugin.file else plugin.file
        what = str(plugin.meta.get("title") or plugin.title)
        table.add_row(Text(plugin.name), Text(what), Text(f"{file}:{plugin.line}"))
    return table


def plan_table(target: str, jobs: Sequence[Job], idle: Sequence[LayerReport]) -> Table:
    """What analyze would do: each layer with its cost and memory."""
    table = _make_bare_table()
    total = sum(job.cost for job in jobs)
    most = max((job.memory for job in jobs), default=0)
    table.title = (
        f"{printable(target)}: {plural(len(jobs), 'layer')}, {total / 1e9:,.2f} Gflop, "
        f"at most {most / 2**20:,.0f} MiB a layer; {plural(len(idle), 'tensor')} skipped"
    )
    table.title_justify, table.title_style = "left", "bold"
    for head in ("#", "Gflop", "share", "MiB"):
        table.add_column(head, justify="right")
    table.add_column("layer")
    for job in jobs:
        ref = job.refs[0]
        share = f"{job.cost / total:.1%}" if total else "–"
        table.add_row(
            str(ref.index), f"{job.cost / 1e9:,.3f}", share, f"{job.memory / 2**20:,.1f}", Text(printable(ref.name, 60))
        )
    return table
