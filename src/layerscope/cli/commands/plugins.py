"""``layerscope plugins``: everything that is installed and where it is defined."""

from __future__ import annotations

import sys

import click


@click.command()
def plugins() -> int:
    """List all sources, fits, metrics, rules, plots and engines.

    Prints one table per kind, with the first sentence about each plugin and the file that defines it. Plugins of other
    packages are included.

    \b
    Example:
      layerscope plugins
    """
    from layerscope import registry
    from layerscope.views.listings import plugin_table
    from layerscope.views.table import console_for

    console = console_for(sys.stdout)
    for kind in registry.KINDS:
        console.print(plugin_table(kind, list(registry.plugins(kind).values())))
    return 0
