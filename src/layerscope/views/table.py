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
from layerscope.text import abbreviate, cut, distinct_paths, elide, number, plural, printable
from layerscope.views import aligned_columns, conditioning_summary, headline, report_rows
from layerscope.views.aligned_columns import Cell

STYLES = {"error": "bold red", "warn": "magenta", "info": "cyan", "": ""}
NARROW = ("layer_id", "name", "size", "alpha", "log_spectral_norm", "phase", "verdicts")
LEARNED = ("layer_id", "name", "verdicts", "lambda_max_x", "lambda_max_d", "lambda_max_fim", "domination")
LEARNED_WIDE = (*LEARNED[:6], "kappa_50_x", "kappa_50_d", "domination", "dying", "full")
SHUFFLED = ("rand_distance", "rand_num_spikes")
BULK = ("mp_softrank", "num_spikes")
WIDE = (*NARROW[:4], "D", "num_pl_spikes", "log_spectral_norm", "stable_rank", *NARROW[5:])
DESCRIBE = ("layer_id", "name", "layer_type", "shape", "num_evals", "note")
DESCRIBE_WIDE = ("layer_id", "name", "layer_type", "shape", "N", "M", "rf", "num_evals", "dtype", "note")
FIRST, LAST = ("layer_id", "name", "verdicts", "alpha", "phase"), ("layer_type", "size")
LEFT = ("name", "layer_type", "phase", "verdicts", "note", "how", "skipped", "dtype", "best_fit", "shape")
SUMMARY = (("alpha", "α"), ("log_spectral_norm", "logλmax"), ("stable_rank", "stable rank"))
MOST = 6  # layers named below one verdict before the rest are counted
LEAST = 22  # columns that a shortened cell keeps
PIPE_WIDTH = 140  # of a pipe or a file


def show(
    report: Report, console: Console, *, columns: Sequence[str] = (), verbose: int = 0, bulk: bool = False
) -> None:
    """The table of analysed layers, the summary, the verdicts, what was skipped; ``bulk`` shows the random matrix."""
    chosen = list(columns) or columns_for(report, console.width >= 100, bulk)
    if not {"name", "layer_id"} & set(chosen):
        chosen.insert(0, "name")
    rows = [layer for layer in report.rows if not layer.skipped or layer.failed or verbose]
    console.print(_title(report, console.width))
    if rows:
        _draw(report, console, rows, chosen)
    for line in (*_summary(report), *_verdicts(report, verbose), *_skipped(report)):
        console.print(line)


def columns_for(report: Report, wide: bool, bulk: bool) -> list[str]:
    """The columns that suit the width and what was asked for."""
    settings = report.settings
    if "conditioning" in report.meta:
        return list(LEARNED_WIDE if wide else LEARNED)
    chosen = list(WIDE if wide else NARROW)
    groups = ((("alpha_farms",), settings.window), (SHUFFLED, settings.randomize), (BULK, bulk))
    more = [name for names, asked in groups if asked for name in names]
    at = chosen.index("phase")
    chosen[at : at + (bool(more) and not wide)] = more
    if len(more) > 2 and not wide:
        chosen.remove("size")
    return chosen


def by_importance(report: Report) -> list[str]:
    """The columns where there is room for all of them: verdict and α beside the name, sizes last."""
    middle = [name for name in columns_for(report, True, False) if name not in (*FIRST, *LAST)]
    first = FIRST if "conditioning" not in report.meta else FIRST[:3]
    return [*first, *middle, *LAST]


def show_description(report: Report, console: Console, *, columns: Sequence[str] = ()) -> None:
    """Every tensor: sizes, and analysed or why not."""
    chosen = list(columns) or list(DESCRIBE_WIDE if console.width >= 100 else DESCRIBE)
    console.print(_title(report, console.width))
    _draw(report, console, report.rows, chosen)
    usable = sum(not layer.skipped for layer in report.rows)
    console.print(Text(f"{plural(len(report.rows), 'row')}: {usable} to analyse, {len(report.rows) - usable} not"))


def side_by_side(reports: Sequence[Report], console: Console, names: Sequence[str] = ()) -> None:
    """The summaries of several models, a column each."""
    names = names or distinct_paths([str(report.meta["target"]) for report in reports])
    width = max(12, (console.width - 26) // len(reports) - 2)
    heads, *rows = medians(reports, names)
    table = _bare()
    table.add_column(heads[0])
    for name in heads[1:]:
        table.add_column(Text(elide(name, width)), justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(Text("Side by side", style="bold"))
    console.print(table)
    if len({report.summary["analysed"] for report in reports}) > 1:
        console.print(Text("The models differ in their number of layers: compare shape (alpha), not scale (norms)."))


def medians(reports: Sequence[Report], names: Sequence[str]) -> list[list[str]]:
    """The summaries of several models: a row of heads, then medians, layers averaged and counts of findings."""
    summaries = [report.summary for report in reports]
    plugins, rules = registry.plugins("metrics"), registry.plugins("rules")
    rows = [["median over layers", *(printable(name) for name in names)]]
    for name in ("alpha", "alpha_weighted", "log_norm", "log_spectral_norm", "stable_rank", "entropy"):
        values = [s["metrics"].get(name, {}).get("median") for s in summaries]
        rows.append([name, *(number(value, plugins[name].meta["fmt"]) for value in values)])
    rows.append(["layers averaged", *(str(s["averaged"]) for s in summaries)])
    for code in sorted({code for s in summaries for code in s["findings"]}):
        title = rules[code].meta["title"] if code in rules else ""
        rows.append([f"{printable(code, 20)} {title}", *(str(s["findings"].get(code, 0)) for s in summaries)])
    return rows


def plain(report: Report) -> str:
    """The table without colours, as a repr shows it."""
    measured = any(layer.spectrum is not None or layer.metrics for layer in report.rows)
    return captured(lambda console: show(report, console) if measured else show_description(report, console))


def captured(draw: Callable[[Console], None]) -> str:
    """What is drawn on a console, as text."""
    buffer = io.StringIO()
    draw(_console(buffer, _pipe_width(), color_system=None))
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines())


def console_for(stream: Any) -> Console:
    """A console on a stream: as wide as the terminal, or wide enough for names in a pipe; NO_COLOR is honoured."""
    tty = stream.isatty()
    width = None if tty else _pipe_width()
    return _console(stream, width)


def _console(stream: Any, width: int | None, **more: Any) -> Console:
    """In a notebook too it writes to its stream: rich would show what it is given in the cell instead."""
    return Console(file=stream, width=width, highlight=False, emoji=False, markup=False, force_jupyter=False, **more)


def _pipe_width() -> int:
    columns = os.environ.get("COLUMNS", "")
    return int(columns) if columns.isdigit() and int(columns) >= 40 else PIPE_WIDTH


def _bare() -> Table:
    return Table(box=None, padding=(0, 1, 0, 0), header_style="bold", show_edge=False, pad_edge=False)


def _draw(report: Report, console: Console, rows: Iterable[LayerReport], columns: list[str]) -> None:
    by_layer = headline.by_layer(report.findings)
    shown, settings = {layer.name for layer in rows}, report.settings
    cells = [
        [cell(settings, layer, values, column, by_layer.get(layer.name, [])) for column in columns]
        for layer, values in zip(report.rows, report_rows.rows(report), strict=True)
        if layer.name in shown
    ]
    heads = [head(column) for column in columns]
    shorten: list[tuple[str, aligned_columns.Shorten, int]] = [
        ("name", _no_suffix, 1), ("name", abbreviate, LEAST), ("note", cut, 12), ("how", cut, 12)
    ]  # fmt: skip
    give_way = [(columns.index(name), how, least) for name, how, least in shorten if name in columns]
    names = [row[columns.index("name")].text for row in cells] if "name" in columns else []
    aligned_columns.fit(heads, cells, console.width, give_way)
    if names:
        _tell_apart(cells, columns.index("name"), names)
    aligned_columns.draw(console, heads, cells, {i for i, column in enumerate(columns) if column in LEFT})


def _tell_apart(cells: list[list[Cell]], column: int, names: list[str]) -> None:
    """Names that became the same when they were shortened show their ends instead."""
    count = Counter(row[column].text for row in cells)
    for row, name in zip(cells, names, strict=True):
        cell = row[column]
        if count[cell.text] > 1 and cell.text != name:
            room = len(cell.text)
            row[column] = Cell(f"…{name[1 - room :]}" if len(name) > room else name, cell.style)


def _no_suffix(name: str, longest: int) -> str:
    return name.removesuffix(".weight")  # of all names or of none, so that rows stay comparable


def head(column: str) -> str:
    if column in report_rows.HEADS:
        return report_rows.HEADS[column]
    plugin = registry.plugins("metrics").get(column)
    return str(plugin.meta["label"]) if plugin else column


def cell(settings: Settings, layer: LayerReport, values: dict[str, Any], column: str, findings: list[Finding]) -> Cell:
    if column == "name":
        return Cell(printable(layer.name))
    if column == "size":
        return Cell(_size(values))
    if column == "shape":
        return Cell(printable("×".join(map(str, values["shape"])) or "·", 40))
    if column == "note":
        read = layer.ref.how or "analysed"
        return Cell(printable(layer.skipped or read), "dim" if layer.skipped else "")
    if column == "verdicts":
        if layer.failed:
            return Cell("failed", STYLES["error"])
        return Cell(" ".join(f.code for f in findings), STYLES[_worst(findings)])
    if column == "alpha" and "alpha" in layer.metrics:
        return _alpha(settings, layer, findings)
    plugin = registry.plugins("metrics").get(column)
    fmt = str(plugin.meta["fmt"]) if plugin else ".2f" if column == "Q" else "s"
    return Cell(printable(number(values.get(column), fmt)))


def _alpha(settings: Settings, layer: LayerReport, findings: list[Finding]) -> Cell:
    m = layer.metrics
    half = max(float(m["alpha_high"]) - float(m["alpha"]), float(m["alpha"]) - float(m["alpha_low"]))
    digits = 2 if float(m["alpha"]) < 10 and half < 10 else 1
    text = f"{m['alpha']:.{digits}f} ±{half:.{digits}f}"
    if not accepted(layer, settings) or any(f.code == "LS105" for f in findings):
        return Cell(f"{text}?", "dim")
    return Cell(f"{text} ", STYLES[_worst([f for f in findings if f.code in ("LS101", "LS102")])])


def _size(values: dict[str, Any]) -> str:
    if values["N"] is None:
        return "–"
    k = values["rf"]
    return f"{values['N']}×{values['M']}" + (f"·{k}" if k > 1 else "")


def _title(report: Report, width: int) -> Text:
    meta = report.meta
    took = f", {meta['seconds']:.2f} s" if "seconds" in meta else ""
    read = f", {printable(meta['read'], 40)}" if "read" in meta else ""
    about = f"  ({printable(meta['format'], 20)}{read}{took})"
    target, room = printable(meta["target"], 500), max(LEAST, width - len(about))
    shown = target if len(target) <= room else f"…{target[1 - room :]}"  # the end of a path tells most
    return Text.assemble((shown, "bold"), about)


def _summary(report: Report) -> list[Text]:
    summary = report.summary
    metrics = summary["metrics"]
    lines = [Text("")]
    learning = bool(conditioning_summary.how(report))
    if learning:
        lines.append(Text(conditioning_summary.shape(report)))
    if "alpha" in metrics:
        parts = [f"{label} {metrics[name]['median']:.2f}" for name, label in SUMMARY if name in metrics]
        lines.append(Text(f"Median of {plural(summary['averaged'], 'layer')}: {', '.join(parts)}"))
    out: dict[str, int] = {}
    for item in summary["left_out"]:
        reason = "too small or no fit" if item["why"] not in ("embedding", "collapsed") else item["why"]
        out[reason] = out.get(reason, 0) + 1
    if out and not learning:
        lines.append(Text("Left out of it: " + ", ".join(f"{count} {why}" for why, count in sorted(out.items()))))
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


def _verdicts(report: Report, verbose: int) -> list[Text]:
    """The findings, gravest first; of those that only inform, a count."""
    if not any(not layer.skipped for layer in report.rows):
        why = Counter(row.skipped for row in report.rows if row.skipped and len(row.ref.shape) > 1).most_common(3)
        told = "".join(f" {count} × {printable(reason, 120)}." for reason, count in why)
        return [Text(f"No layer could be analysed.{told}", style=STYLES["error"])]
    codes = sorted({f.code for f in report.findings}, key=lambda c: (-_gravity(report, c), c))
    if not any(_gravity(report, code) for code in codes):
        calm = "No layer is over-trained, under-trained or collapsed on this evidence."
        codes_text = conditioning_summary.calm(report) if conditioning_summary.how(report) else calm
        lines = [Text(""), Text(codes_text, style="bold")]
    else:
        lines = [Text(""), Text("Verdicts", style="bold")]
    for code in codes:
        found = [f for f in report.findings if f.code == code]
        style = STYLES[found[0].severity]
        whole = found[0].layer is None
        where = f": {printable(found[0].message)}" if whole else f": {plural(len(found), 'layer')}"
        lines.append(Text.assemble("  ", (printable(f"{code} {found[0].title}"), style), where))
        if whole:
            continue
        if found[0].severity == "info" and not verbose:
            continue
        most = len(found) if verbose else MOST
        lines += [Text(f"    {printable(f.layer, 70)}\n      {printable(f.message)}") for f in found[:most]]
        if len(found) > most:
            lines.append(Text(f"    … and {len(found) - most} more (-v shows all)"))
    if codes:
        lines.append(Text(f"  What one means: layerscope explain {codes[0]}", style="dim"))
    return lines


def _skipped(report: Report) -> list[Text]:
    left = [layer for layer in report.rows if layer.skipped and not layer.failed]
    failed = [layer for layer in report.rows if layer.failed]
    lines = []
    for reason, count in Counter(x.skipped.rpartition(", ")[2] for x in left if x.ref.axes).items():
        lines.append(Text(f"Left out: {plural(count, 'layer')}, {printable(reason, 60)}", style="dim"))
    kinds = Counter(x.ref.kind for x in left if not x.ref.axes)
    if kinds:
        listed = ", ".join(f"{count} {printable(kind, 20)}" for kind, count in sorted(kinds.items()))
        lines.append(Text(f"Not analysed: {listed} (layerscope describe says why)", style="dim"))
    style = STYLES["error"]
    lines += [Text(f"Failed: {printable(x.name, 60)}: {printable(x.skipped)}", style=style) for x in failed[:MOST]]
    if len(failed) > MOST:
        lines.append(Text(f"Failed: {len(failed) - MOST} more", style=style))
    return lines


def _gravity(report: Report, code: str) -> int:
    return max(SEVERITIES.index(f.severity) for f in report.findings if f.code == code)


def _worst(findings: Iterable[Finding]) -> str:
    return max((f.severity for f in findings), key=SEVERITIES.index, default="")


def plugin_table(kind: str, plugins: Sequence[registry.Plugin]) -> Table:
    """Name, file and first line of each plugin of a kind."""
    table = _bare()
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
    table = _bare()
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
