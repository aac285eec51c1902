"""What a verdict or a column means, from the docstring that defines it."""

from __future__ import annotations

from rich.markdown import Markdown
from rich.text import Text

from layerscope.registry import Plugin


def explanation_text(plugin: Plugin) -> Markdown | Text:
    """Its docstring under its name, with severity or unit, and the reference."""
    meta = plugin.meta
    if plugin.kind == "rules":
        head = f"# {plugin.name} {meta['title']} ({meta['severity']})"
        facts = f"**Needs.** {', '.join(meta['metrics'])}"
    else:
        head = f"# {plugin.name}"
        facts = f"**Unit.** {meta['unit'] or 'none'}"
    body = plugin.doc.replace("``", "`")
    return Markdown(f"{head}\n\n{body}\n\n{facts}\n\n**Reference.** {meta['ref']}")
