"""Write the reference pages from the registries and the settings, so that they cannot drift from the code."""

import ast
import dataclasses
import inspect
from pathlib import Path

from layerscope import registry
from layerscope import settings as settings_module
from layerscope.settings import Limits, Settings


def write_reference(folder: Path) -> None:
    """One page per kind of plugin, and one of the settings."""
    folder.mkdir(exist_ok=True)
    pages = {
        "metrics": metrics(), "verdicts": verdicts(), "fits": listing("fits", "Fits"),
        "sources": listing("sources", "Sources"), "engines": listing("engines", "Engines"), "settings": settings(),
    }  # fmt: skip
    for name, text in pages.items():
        path = folder / f"{name}.md"
        if not path.exists() or path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")


def metrics() -> str:
    """Every column by theme."""
    lines = ["# Metrics", "", "A column of the table, CSV and JSON. W is the unit of the weights themselves.", ""]
    theme = ""
    for plugin in registry.plugins("metrics").values():
        module = inspect.getmodule(plugin.target)
        if module.__name__ != theme:
            theme = module.__name__
            lines += [f"## {inspect.getdoc(module).partition(chr(10))[0].rstrip('.')}", ""]
        meta = plugin.meta
        averaged = "averaged in the summary" if meta["over_layers"] else "not averaged"
        lines += [f"### `{plugin.name}`", "", plugin.doc.replace("``", "`"), ""]
        lines += [f"*Unit:* {meta['unit'] or 'none'}; {averaged}. *Needs:* {', '.join(plugin.wants)}. "
                  f"*Source:* {meta['ref']}.", ""]  # fmt: skip
    return "\n".join(lines)


def verdicts() -> str:
    """Every rule with its explanation."""
    lines = ["# Verdicts", "", "`layerscope explain CODE` prints the same.", ""]
    for plugin in sorted(registry.plugins("rules").values(), key=lambda p: p.name):
        meta = plugin.meta
        lines += [f"## {plugin.name} {meta['title']}", "", f"*Severity:* {meta['severity']}.", ""]
        lines += [plugin.doc.replace("``", "`"), "", f"*Reference:* {meta['ref']}.", ""]
    return "\n".join(lines)


def listing(kind: str, title: str) -> str:
    """Every plugin of a kind with its docstring."""
    lines = [f"# {title}", ""]
    for plugin in registry.plugins(kind).values():
        lines += [f"## `{plugin.name}`", "", plugin.doc.replace("``", "`"), ""]
        if "ref" in plugin.meta:
            lines += [f"*Source:* {plugin.meta['ref']}.", ""]
        if kind == "sources":
            where = "can be opened by other processes" if plugin.target.PORTABLE else "lives in this process only"
            lines += [f"*It {where}.*", ""]
    return "\n".join(lines)


def settings() -> str:
    """Every field of Settings and Limits with its default and the comment beside it."""
    lines = ["# Settings and limits", ""]
    for cls in (Settings, Limits):
        comments = comments_of(cls)
        lines += [f"## `{cls.__name__}`", "", inspect.getdoc(cls), ""]
        lines += ["| field | default | meaning |", "| --- | --- | --- |"]
        for f in dataclasses.fields(cls):
            default = "see below" if f.default is dataclasses.MISSING else repr(f.default)
            lines.append(f"| `{f.name}` | `{default}` | {comments.get(f.name, '')} |")
        lines.append("")
    return "\n".join(lines)


def comments_of(cls: type) -> dict[str, str]:
    """The comment that follows each field in the source."""
    source = inspect.getsource(settings_module).splitlines()
    body = next(n for n in ast.parse("\n".join(source)).body if isinstance(n, ast.ClassDef) and n.name == cls.__name__)
    fields = [n for n in body.body if isinstance(n, ast.AnnAssign)]
    return {n.target.id: source[n.end_lineno - 1].partition("  # ")[2] for n in fields}
