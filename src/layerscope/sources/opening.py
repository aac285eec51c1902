"""Recognize a target, open it, and open it again in another process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from layerscope import registry
from layerscope.errors import (
    LayerscopeError,
    UnknownFormat,
    Unreadable,
)
from layerscope.records.sources import Source, SourceSpec
from layerscope.sources.storage.extents import whole
from layerscope.sources.storage.paths import is_file, is_path
from layerscope.sources.targets import Composed, _locate, short
from layerscope.sources.unrecognized import READ, hint, pointer

TEXTS = (".md", ".txt", ".csv", ".json", ".jsonl", ".html", ".htm", ".xml", ".sarif", ".layerscope")  # our own outputs
_opened: dict[tuple[int, str], Source] = {}


@contextmanager
def opened(target: Any) -> Iterator[Source]:
    """Recognise and open a target; jobs in this process share the handle until the block ends."""
    source = open_target(target)
    slot = (os.getpid(), source.spec.key)
    _opened[slot] = source
    try:
        yield source
    finally:
        _opened.pop(slot, None)


def reopen(wanted: SourceSpec) -> Source:
    """The opened source of a spec: shared within a process, opened again in a new one."""
    slot = (os.getpid(), wanted.key)
    if slot not in _opened:
        _opened[slot] = registry.find("sources", wanted.format).target.open(wanted.target)
    return _opened[slot]


def models(target: Any) -> dict[str, Any]:
    """The models that a target holds, by name: a pipeline's parts, else the target itself."""
    found = _locate(target) if isinstance(target, str | Path) and not isinstance(target, Composed) else target
    for plugin in registry.plugins("sources").values():
        if hasattr(plugin.target, "models") and _accepts(plugin, found):
            parts: dict[str, Any] = plugin.target.models(found)
            return parts
    return {short(target): target}


def open_target(target: Any) -> Source:
    """The source that recognises the target, with its headers read.

    :raises TargetNotFound: nothing at that path, nor in the local hub cache.
    :raises UnknownFormat: no source recognises it.
    """
    found = _locate(target) if isinstance(target, str | Path) else target
    for plugin in registry.plugins("sources").values():
        if _accepts(plugin, found):
            return _open(plugin, found)
    if is_path(found):
        told = hint(found)
        if told:
            raise UnknownFormat(f"{found}: {told}")
        raise UnknownFormat(f"{found}: {_content(found)}; not a model in any known format ({READ})")
    kind = f"{type(found).__module__}.{type(found).__qualname__}"
    raise UnknownFormat(
        f"cannot analyse a {kind}; live models are torch modules, Keras models, NNX modules and trees of arrays, "
        "as the params of a Linen module; else a path, a hub id or a URL"
    )


def holds_model(path: Path) -> bool:
    """Does any source recognise this file? Text that people write to again and again is none."""
    if path.suffix.lower() in TEXTS:
        return False
    return any(_accepts(plugin, path) for plugin in registry.plugins("sources").values())


def _accepts(plugin: registry.Plugin, target: Any) -> bool:
    try:
        return bool(plugin.target.accepts(target))
    except OSError as error:
        raise Unreadable(f"{target}: {error.strerror or error}") from error


def _open(plugin: registry.Plugin, target: Any) -> Source:
    """Open a target; whatever a damaged or hostile one makes a reader stumble over is the target's fault."""
    told = pointer(target) if is_file(target) else ""
    if told:
        raise Unreadable(f"{target}: {told}")
    try:
        source: Source = plugin.target.open(target)
    except LayerscopeError:
        raise
    except Exception as error:
        named = target if isinstance(target, str | Composed) or is_path(target) else type(target).__name__
        why = error.strerror if isinstance(error, OSError) and error.strerror else f"{type(error).__name__}: {error}"
        raise Unreadable(f"{named}: cannot be read as {plugin.name}: {why}") from error
    return source


def _content(path: Path) -> str:
    if path.is_dir():
        try:
            names = sorted(entry.name for entry in path.iterdir())
        except OSError as error:
            return f"a folder that cannot be opened ({error.strerror})"
        return f"a folder with {', '.join(names[:5])}{' …' if len(names) > 5 else ''}" if names else "an empty folder"
    if not path.is_file():
        return "neither a file nor a folder"
    try:
        head = whole(path).read(0, 64)
    except OSError as error:
        return f"cannot be opened ({error.strerror})"
    if not head:
        return "an empty file"
    text = head.decode("utf-8", "replace").rstrip("\ufffd")
    plain = all(c.isprintable() or c.isspace() for c in text) and "\ufffd" not in text
    return "a text file" if plain else f"starts with {head[:8].hex()}"
