"""``layerscope demo``: the analysis of two small networks that are part of the package."""

from __future__ import annotations

import sys

import click


@click.command()
@click.pass_context
def demo(context: click.Context) -> int:
    """Analyze two small example networks that ship with the package.

    Prints the report of a well-trained network and of one with too much weight decay, compares them, and explains how
    to read the tables.

    \b
    Example:
      layerscope demo
    """
    from layerscope import analysis
    from layerscope.demo import NETWORKS, STORY, closing
    from layerscope.views import side_by_side, table

    console = table.console_for(sys.stdout)
    console.print(STORY)
    reports = []
    for path in NETWORKS:
        report = analysis.analyze(path)
        reports.append(report)
        table.print_report(report, console)
        console.print()
    side_by_side.print_side_by_side(reports, console)
    console.print(closing(reports))
    return 0
