"""``layerscope explain``: the meaning of a verdict, a column or a term."""

from __future__ import annotations

import sys

import click


@click.command()
@click.argument("name")
def explain(name: str) -> int:
    """Explain a verdict, a column, a phase, a distance or another term that layerscope prints.

    NAME is a code, a column or its heading, or a term. A verdict is explained with its evidence, its caveats and what
    to try; a term with its meaning, its formula and how to read it.

    \b
    Examples:
      layerscope explain LS101
      layerscope explain alpha
      layerscope explain "loss barrier"
    """
    from layerscope.views.explain import explain as explanation_of
    from layerscope.views.table import console_for

    console_for(sys.stdout).print(explanation_of(name))
    return 0
