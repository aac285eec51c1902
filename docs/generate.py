"""Write the reference pages from the plugin registries and the settings, so that they always match the code."""

import ast
import dataclasses
import inspect
from pathlib import Path

from layerscope import registry
from layerscope import settings as settings_module
from layerscope.settings import Limits, Settings

METRICS = (
    "Each metric is a number per layer. It is a column of the table and of CSV, and a field of JSON. In units, W "
    "stands for the unit of the weights."
)
VERDICTS = (
    "A verdict reports a likely problem with its evidence. `layerscope explain CODE` prints the same explanations as "
    "this page."
)
FITS = "A fit describes the spectrum of a layer by a distribution with a few parameters."
SOURCES = "A source reads one kind of target: a file format, a live model, or a combination of other targets."
ENGINES = "An engine runs the work for all layers, one after another or in parallel."
SETTINGS = (
    "`Settings` says how to measure and judge a model. Pass one to `layerscope.analyze`, or pass fields by name. "
    "`Limits` holds the limits beyond which a number leads to a verdict."
)


def write_reference(folder: Path) -> None:
    """Write one page for each kind of plugin, and one for the settings."""
    folder.mkdir(exist_ok=True)
    pages = {
        "metrics": metrics(), "verdicts": verdicts(), "fits": listing("fits", "Fits", FITS),
        "sources": listing("sources", "Sources", SOURCES), "engines": listing("engines", "Engines", ENGINES),
        "settings": settings(),
    }  # fmt: skip
    for name, text in pages.items():
        path = folder / f"{name}.md"
        if not path.exists() or path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")


def metrics() -> str:
    """Build the page of all metrics, grouped by theme."""
    lines = ["# Metrics", "", METRICS, ""]
    theme = ""
    for plugin in registry.plugins("metrics").values():
        module = inspect.getmodule(plugin.target)
        if module.__name__ != theme:
            theme = module.__name__
            lines += [f"## {inspect.getdoc(module).partition(chr(10))[0].rstrip('.')}", ""]
        meta = plugin.meta
        averaged = "averaged over layers in the summary" if meta["over_layers"] else "not averaged over layers"
        lines += [f"### `{plugin.name}`", "", plugin.doc.replace("``", "`"), ""]
        lines += [f"*Unit:* {meta['unit'] or 'none'}; {averaged}. *Needs:* {', '.join(plugin.wants)}. "
                  f"*Source:* {meta['ref']}.", ""]  # fmt: skip
    return "\n".join(lines)


def verdicts() -> str:
    """Build the page of all verdicts with their explanations."""
    lines = ["# Verdicts", "", VERDICTS, ""]
    for plugin in sorted(registry.plugins("rules").values(), key=lambda p: p.name):
        meta = plugin.meta
        lines += [f"## {plugin.name} {meta['title']}", "", f"*Severity:* {meta['severity']}.", ""]
        lines += [plugin.doc.replace("``", "`"), "", f"*Reference:* {meta['ref']}.", ""]
    return "\n".join(lines)


def listing(kind: str, title: str, introduction: str) -> str:
    """Build the page of all plugins of a kind with their docstrings."""
    lines = [f"# {title}", "", introduction, ""]
    for plugin in registry.plugins(kind).values():
        lines += [f"## `{plugin.name}`", "", plugin.doc.replace("``", "`"), ""]
        if "ref" in plugin.meta:
            lines += [f"*Source:* {plugin.meta['ref']}.", ""]
        if kind == "sources":
            works = "works" if plugin.target.PORTABLE else "does not work"
            lines += [f"*The engine `processes` {works} with this source.*", ""]
    return "\n".join(lines)


def settings() -> str:
    """Build the page of all fields of Settings and Limits with their defaults and comments."""
    lines = ["# Settings and limits", "", SETTINGS, ""]
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
    """Return the comment behind each field in the source of a class."""
    source = inspect.getsource(settings_module).splitlines()
    body = next(n for n in ast.parse("\n".join(source)).body if isinstance(n, ast.ClassDef) and n.name == cls.__name__)
    fields = [n for n in body.body if isinstance(n, ast.AnnAssign)]
    return {n.target.id: source[n.end_lineno - 1].partition("  # ")[2] for n in fields}
