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
from layerscope.sources.storage.extents import whole_file
from layerscope.sources.storage.paths import is_file, is_path
from layerscope.sources.targets import Composed, locate, short_name
from layerscope.sources.unrecognized import READABLE_FORMATS, describe_placeholder, describe_target

# Formats of our own outputs.
TEXT_SUFFIXES = (".md", ".txt", ".csv", ".json", ".jsonl", ".html", ".htm", ".xml", ".sarif", ".layerscope")
_source_by_slot: dict[tuple[int, str], Source] = {}


@contextmanager
def opened_source(target: Any) -> Iterator[Source]:
    """Recognise and open a target; jobs in this process share the handle until the block ends."""
    source = open_target(target)
    slot = (os.getpid(), source.spec.key)
    _source_by_slot[slot] = source
    try:
        yield source
    finally:
        _source_by_slot.pop(slot, None)


def reopen(spec: SourceSpec) -> Source:
    """The opened source of a spec: shared within a process, opened again in a new one."""
    slot = (os.getpid(), spec.key)
    if slot not in _source_by_slot:
        _source_by_slot[slot] = registry.find("sources", spec.format).target.open(spec.target)
    return _source_by_slot[slot]


def models(target: Any) -> dict[str, Any]:
    """The models that a target holds, by name: a pipeline's parts, else the target itself."""
    located = locate(target) if isinstance(target, str | Path) and not isinstance(target, Composed) else target
    for plugin in registry.plugins("sources").values():
        if hasattr(plugin.target, "models") and _accepts(plugin, located):
            parts: dict[str, Any] = plugin.target.models(located)
            return parts
    return {short_name(target): target}


def open_target(target: Any) -> Source:
    """The source that recognises the target, with its headers read.

    :raises TargetNotFound: nothing at that path, nor in the local hub cache.
    :raises UnknownFormat: no source recognises it.
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
            f"{located}: {_describe_content(located)}; not a model in any known format ({READABLE_FORMATS})"
        )
    kind = f"{type(located).__module__}.{type(located).__qualname__}"
    raise UnknownFormat(
        f"cannot analyse a {kind}; live models are torch modules, Keras models, NNX modules and trees of arrays, "
        "as the params of a Linen module; else a path, a hub id or a URL"
    )


def holds_model(path: Path) -> bool:
    """Does any source recognise this file? Text that people write to again and again is none."""
    if path.suffix.lower() in TEXT_SUFFIXES:
        return False
    return any(_accepts(plugin, path) for plugin in registry.plugins("sources").values())


def _accepts(plugin: registry.Plugin, target: Any) -> bool:
    try:
        return bool(plugin.target.accepts(target))
    except OSError as error:
        raise Unreadable(f"{target}: {error.strerror or error}") from error


def _open(plugin: registry.Plugin, target: Any) -> Source:
    """Open a target; whatever a damaged or hostile one makes a reader stumble over is the target's fault."""
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
