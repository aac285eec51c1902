"""``layerscope plugins``."""

from __future__ import annotations

import sys

import click


@click.command()
def plugins() -> int:
    """Every source, fit, metric, rule and engine, with its file."""
    from layerscope import registry
    from layerscope.views.table import console_for, plugin_table

    console = console_for(sys.stdout)
    for kind in registry.KINDS:
        console.print(plugin_table(kind, list(registry.plugins(kind).values())))
    return 0
