"""Tables that list what there is or would be done: plugins, and the plan of an analysis."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from layerscope import registry
from layerscope.records.layers import Job, LayerReport
from layerscope.text import plural, printable


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
    """Each layer that would be analyzed, with its cost and memory."""
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


def _make_bare_table() -> Table:
    return Table(box=None, padding=(0, 1, 0, 0), header_style="bold", show_edge=False, pad_edge=False)
