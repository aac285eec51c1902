"""``layerscope explain``."""

from __future__ import annotations

import sys

import click

from layerscope.errors import UnknownName


@click.command()
@click.argument("code")
def explain(code: str) -> int:
    """What a verdict (LS101) or a column (alpha) means."""
    from layerscope import registry

    known = {**registry.plugins("metrics"), **registry.plugins("rules")}
    labels = {plugin.meta["label"]: plugin for plugin in registry.plugins("metrics").values()}
    from layerscope.views.report_rows import COLUMN_ALIASES

    code = COLUMN_ALIASES.get(code, code)
    plugin = known.get(code) or known.get(code.upper()) or labels.get(code)
    if plugin is None:
        raise UnknownName("verdict or column", code, known)
    from layerscope.views.explain import explanation_text
    from layerscope.views.table import console_for

    console_for(sys.stdout).print(explanation_text(plugin))
    return 0
