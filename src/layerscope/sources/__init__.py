"""The input edge: one format per file, each a module with ``accepts(target)``, ``open(target)`` and ``PORTABLE``.

``accepts`` looks at content (magic bytes, the type's module name), never imports a framework and never raises;
``open`` reads headers only and raises a TargetError that says what is wrong.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from layerscope import registry
from layerscope.errors import TargetNotFound, UnknownFormat, did_you_mean
from layerscope.types import Source, SourceSpec

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(@[\w./-]+)?|[A-Za-z][\w-]*(@[\w./-]+)?", re.ASCII)
_counter = itertools.count()
_opened: dict[tuple[int, str], Source] = {}


def spec(target: Any, format: str, *, portable: bool) -> SourceSpec:
    """A spec with a key of its own."""
    return SourceSpec(target, format, portable, f"{os.getpid()}.{next(_counter)}")


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


def open_target(target: Any) -> Source:
    """The source that recognises the target, with its headers read.

    :raises TargetNotFound: nothing at that path, nor in the local hub cache.
    :raises UnknownFormat: no source recognises it.
    """
    found = _locate(target) if isinstance(target, str | os.PathLike) else target
    for plugin in registry.plugins("sources").values():
        if plugin.target.accepts(found):
            source: Source = plugin.target.open(found)
            return source
    formats = ", ".join(registry.plugins("sources"))
    if isinstance(found, Path):
        raise UnknownFormat(f"{found}: {_content(found)}; not a model in any known format ({formats})")
    raise UnknownFormat(f"cannot analyse a {type(found).__module__}.{type(found).__qualname__}; known: {formats}")


def _locate(target: str | os.PathLike[str]) -> Path | str:
    """An existing path, or a string that may be a hub id."""
    text = os.fspath(target)
    if not text or "\0" in text:
        raise TargetNotFound(f"{text!r} is no path")
    path = Path(text).expanduser()
    try:
        if path.exists():
            return path
    except OSError as error:
        raise TargetNotFound(f"{text[:200]}: {error.strerror}") from error
    if isinstance(target, str) and HUB_ID.fullmatch(target) and not path.suffix:
        return target
    raise TargetNotFound(f"{text} does not exist{_suggest(path)}")


def _suggest(path: Path) -> str:
    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        return "."
    return did_you_mean(path.name, names)


def _content(path: Path) -> str:
    if path.is_dir():
        names = sorted(entry.name for entry in path.iterdir())
        return f"a folder with {', '.join(names[:5])}{' …' if len(names) > 5 else ''}" if names else "an empty folder"
    if not path.is_file():
        return "neither a file nor a folder"
    with path.open("rb") as file:
        head = file.read(64)
    if not head:
        return "an empty file"
    text = head.decode("utf-8", "replace")
    return "a text file" if text.isprintable() or text.split("\n")[0].isprintable() else f"starts with {head[:8].hex()}"
