"""``layerscope demo``."""

from __future__ import annotations

import sys

import click


@click.command()
@click.pass_context
def demo(context: click.Context) -> int:
    """Analyse two small networks that the package carries."""
    from layerscope import analysis
    from layerscope.demo import NETWORKS, STORY, closing
    from layerscope.views import table

    console = table.console_for(sys.stdout)
    console.print(STORY)
    reports = []
    for path in NETWORKS:
        report = analysis.analyze(path)
        reports.append(report)
        table.print_report(report, console)
        console.print()
    table.print_side_by_side(reports, console)
    console.print(closing(reports))
    return 0
