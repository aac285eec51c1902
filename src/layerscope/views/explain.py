"""What a verdict, a column or a term means: from its docstring, or from the glossary."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping

from rich.markdown import Markdown

from layerscope import registry
from layerscope.errors import UsageError
from layerscope.registry import Plugin
from layerscope.views import history
from layerscope.views.glossary import TERMS, Term
from layerscope.views.report_rows import COLUMN_ALIASES

KINDS = ("rules", "metrics", "fits")  # plugins that explain themselves in their docstrings
MAX_CLOSE_MATCHES = 4
EXAMPLES = "LS101, alpha, heavy-tailed, loss barrier"


def explain(name: str) -> Markdown:
    """Return the explanation of a verdict, a column, a heading or a term; several if the name has several meanings.

    :raises UsageError: if nothing has that name. The message lists close matches.
    """
    entries = _entries()
    found = entries.get(_key(name)) or entries.get(_key(re.sub(r"_\d+$", "", name)))  # alpha_2: of the second model
    if not found:
        raise UsageError(f"no verdict, column or term called {name!r}; {_close_matches(name, entries)}")
    exact = [entry for entry in found if entry.name == name]  # N and n differ only by case
    return Markdown("\n\n".join(map(_describe, exact or found)))


def explanation_text(plugin: Plugin) -> Markdown:
    """Return the docstring of a rule, a metric or a fit under its name, with its facts and its reference."""
    return Markdown(_describe(plugin))


def _entries() -> Mapping[str, list[Plugin | Term]]:
    """Return what can be explained, by every name that it has."""
    entries: dict[str, list[Plugin | Term]] = {}
    for kind in KINDS:
        for plugin in registry.plugins(kind).values():
            names = [plugin.name, plugin.meta.get("label", ""), plugin.meta.get("title", "")]
            names += [head for head, column in COLUMN_ALIASES.items() if column == plugin.name]
            names += [head for head, column, _ in history.COLUMNS if column == plugin.name]
            _add(entries, plugin, names)
    for term in TERMS:
        _add(entries, term, [term.name, *term.aliases])
    return entries


def _add(entries: dict[str, list[Plugin | Term]], entry: Plugin | Term, names: list[str]) -> None:
    for key in {_key(name) for name in names if name}:
        entries.setdefault(key, []).append(entry)


def _key(name: str) -> str:
    """Return a name without case, and with spaces for underscores and hyphens."""
    return re.sub(r"[\s_\-]+", " ", name).strip().casefold()


def _close_matches(name: str, entries: Mapping[str, list[Plugin | Term]]) -> str:
    key = _key(name)
    close = difflib.get_close_matches(key, entries, n=MAX_CLOSE_MATCHES)
    close += [other for other in entries if key and key in other and other not in close]
    names = list(dict.fromkeys(entries[other][0].name for other in close))[:MAX_CLOSE_MATCHES]
    if names:
        return f"close matches: {', '.join(names)}"
    return f"try a code, a column or a term from the output, such as {EXAMPLES}"


def _describe(entry: Plugin | Term) -> str:
    if isinstance(entry, Term):
        sections = [f"# {entry.name}", entry.meaning]
        sections += [f"**Formula.** {entry.formula}"] if entry.formula else []
        sections += [f"**How to read it.** {entry.reading}"] if entry.reading else []
        sections += [f"**Other names.** {', '.join(entry.aliases)}"] if entry.aliases else []
        return "\n\n".join(map(_escape, sections))
    meta, head = entry.meta, f"# {entry.name}"
    facts = []
    if entry.kind == "rules":
        head += f" {meta['title']} ({meta['severity']})"
        facts = [f"**Needs.** {', '.join(meta['metrics'])}"] if meta["metrics"] else []
    elif entry.kind == "metrics":
        facts = [f"**Unit.** {meta['unit'] or 'none'}"]
    else:
        head += " (fit)"
    return "\n\n".join([head, entry.doc.replace("``", "`"), *facts, f"**Reference.** {meta['ref']}"])


def _escape(text: str) -> str:
    """Keep Markdown from reading the underscores and stars of a formula as emphasis."""
    return text if text.startswith("#") else re.sub(r"(?<!\*)\*(?!\*)|_", r"\\\g<0>", text)
