"""Recognize a target, open it, and reopen it in another process."""

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
from layerscope.sources.storage.extents import whole_file
from layerscope.sources.storage.paths import is_file, is_path
from layerscope.sources.targets import Composed, locate, short_name
from layerscope.sources.unrecognized import READABLE_FORMATS, describe_placeholder, describe_target

# Text files, among them layerscope's own outputs; they are never models.
TEXT_SUFFIXES = (".md", ".txt", ".csv", ".json", ".jsonl", ".html", ".htm", ".xml", ".sarif", ".layerscope")
_source_by_slot: dict[tuple[int, str], Source] = {}


@contextmanager
def opened_source(target: Any) -> Iterator[Source]:
    """Recognize and open a target; jobs in this process share the handle until the block ends."""
    source = open_target(target)
    slot = (os.getpid(), source.spec.key)
    _source_by_slot[slot] = source
    try:
        yield source
    finally:
        _source_by_slot.pop(slot, None)


def reopen(spec: SourceSpec) -> Source:
    """Return the opened source of a spec, shared within a process and reopened in a new one."""
    slot = (os.getpid(), spec.key)
    if slot not in _source_by_slot:
        _source_by_slot[slot] = registry.find("sources", spec.format).target.open(spec.target)
    return _source_by_slot[slot]


def models(target: Any) -> dict[str, Any]:
    """Return the models of a target by name: the parts of a pipeline, or the target itself."""
    located = locate(target) if isinstance(target, str | Path) and not isinstance(target, Composed) else target
    for plugin in registry.plugins("sources").values():
        if hasattr(plugin.target, "models") and _accepts(plugin, located):
            parts: dict[str, Any] = plugin.target.models(located)
            return parts
    return {short_name(target): target}


def open_target(target: Any) -> Source:
    """Return the source that recognizes the target, with its headers read.

    :raises TargetNotFound: nothing exists at that path or in the local hub cache.
    :raises UnknownFormat: no source recognizes the target.
    """
    located = locate(target) if isinstance(target, str | Path) else target
    for plugin in registry.plugins("sources").values():
        if _accepts(plugin, located):
            return _open(plugin, located)
    if is_path(located):
        description = describe_target(located)
        if description:
            raise UnknownFormat(f"{located}: {description}")
        raise UnknownFormat(
            f"{located}: {_describe_content(located)}, not a model in a supported format ({READABLE_FORMATS})"
        )
    kind = f"{type(located).__module__}.{type(located).__qualname__}"
    raise UnknownFormat(
        f"cannot analyze an object of type {kind}; pass a path, a hub id, a URL, a torch module, a Keras model, "
        "an NNX module or a tree of arrays (e.g. the params of a Linen module)"
    )


def holds_model(path: Path) -> bool:
    """Return whether any source recognizes this file; common text files are never models."""
    if path.suffix.lower() in TEXT_SUFFIXES:
        return False
    return any(_accepts(plugin, path) for plugin in registry.plugins("sources").values())


def _accepts(plugin: registry.Plugin, target: Any) -> bool:
    try:
        return bool(plugin.target.accepts(target))
    except OSError as error:
        raise Unreadable(f"{target}: {error.strerror or error}") from error


def _open(plugin: registry.Plugin, target: Any) -> Source:
    """Open a target; any exception that a damaged or hostile target causes becomes Unreadable."""
    placeholder = describe_placeholder(target) if is_file(target) else ""
    if placeholder:
        raise Unreadable(f"{target}: {placeholder}")
    try:
        source: Source = plugin.target.open(target)
    except LayerscopeError:
        raise
    except Exception as error:
        target_name = target if isinstance(target, str | Composed) or is_path(target) else type(target).__name__
        reason = error.strerror if isinstance(error, OSError) and error.strerror else f"{type(error).__name__}: {error}"
        raise Unreadable(f"{target_name}: cannot be read as {plugin.name}: {reason}") from error
    return source


def _describe_content(path: Path) -> str:
    if path.is_dir():
        try:
            names = sorted(entry.name for entry in path.iterdir())
        except OSError as error:
            return f"a folder that cannot be opened ({error.strerror})"
        return f"a folder with {', '.join(names[:5])}{' …' if len(names) > 5 else ''}" if names else "an empty folder"
    if not path.is_file():
        return "neither a file nor a folder"
    try:
        head = whole_file(path).read(0, 64)
    except OSError as error:
        return f"cannot be opened ({error.strerror})"
    if not head:
        return "an empty file"
    text = head.decode("utf-8", "replace").rstrip("\ufffd")
    is_text = all(c.isprintable() or c.isspace() for c in text) and "\ufffd" not in text
    return "a text file" if is_text else f"starts with {head[:8].hex()}"
