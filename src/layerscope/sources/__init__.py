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
from layerscope.errors import (
    LayerscopeError,
    MissingExtra,
    Refused,
    TargetNotFound,
    UnknownFormat,
    Unreadable,
    did_you_mean,
)
from layerscope.sources._files import is_file, is_path, whole
from layerscope.sources._unknown import READ, hint, pointer
from layerscope.types import Source, SourceSpec


class Composed:
    """A target made of other targets: a difference of two models, an adapter on its base. ``str`` names it."""


HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(@[\w./-]+)?|[A-Za-z][\w-]*(@[\w./-]+)?", re.ASCII)
URL = re.compile(r"[a-z][a-z0-9+.-]+(::[a-z][a-z0-9+.-]+)*://", re.ASCII)
_counter = itertools.count()
TEXTS = (".md", ".txt", ".csv", ".json", ".jsonl", ".html", ".htm", ".xml", ".sarif", ".layerscope")  # our own outputs
_opened: dict[tuple[int, str], Source] = {}


def spec(target: Any, format: str, *, portable: bool, parts: tuple[SourceSpec, ...] = ()) -> SourceSpec:
    """A spec with a key of its own; one that is made of others is as portable as they are."""
    portable = portable and all(part.portable for part in parts)
    return SourceSpec(target, format, portable, f"{os.getpid()}.{next(_counter)}", parts)


def short(target: Any) -> str:
    """The last part of a target's name."""
    return name_of(target).rstrip("/").rpartition("/")[2]


def name_of(target: Any) -> str:
    """How a target is called in a report: its path, or its type."""
    if isinstance(target, str | Composed) or is_path(target):
        return str(target)
    return f"{type(target).__module__}.{type(target).__qualname__}"


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


def _in_store(url: str) -> Any:
    """The path of a URL in an fsspec store.

    :raises MissingExtra: no library for stores, or none for this one.
    :raises TargetNotFound: nothing there, or no access.
    """
    try:
        from upath import UPath
    except ImportError:
        raise MissingExtra(f"{url}: a URL", "remote") from None
    try:
        path = UPath(url)
        there = path.exists()
        beside = path.with_name(path.name + ".index") if not there and path.name else path
        if not there and beside.is_file():  # a TensorFlow checkpoint is named by what its files share
            return beside
    except ImportError as error:
        extra = "; pip install 'layerscope[hf]'" if url.startswith("hf:") else ""
        raise TargetNotFound(f"{url}: {error}{extra}") from None
    except ValueError as error:
        raise TargetNotFound(f"{url}: no such kind of store: {error}") from None
    except Exception as error:  # each store has its own
        raise TargetNotFound(f"{url}: {type(error).__name__}: {error}") from None
    if not there:
        raise TargetNotFound(f"{url} does not exist")
    return Path(path.path) if path.protocol in ("", "file", "local") else path


def _locate(target: str | os.PathLike[str]) -> Any:
    """An existing path, or a string that may be a hub id."""
    text = os.fspath(target)
    if not text or "\0" in text:
        raise TargetNotFound(f"{text!r} is no path")
    if URL.match(text):
        return _in_store(text)
    try:
        path = Path(text).expanduser()
        if path.exists():
            return path
        if path.with_name(path.name + ".index").is_file():  # a TensorFlow checkpoint is named by what its files share
            return path.with_name(path.name + ".index")
    except (OSError, RuntimeError) as error:  # RuntimeError: no such user's home
        why = error.strerror if isinstance(error, OSError) else error
        raise TargetNotFound(f"{text[:200]}: {why}") from error
    if isinstance(target, str) and HUB_ID.fullmatch(target) and not path.suffix:
        return target
    raise TargetNotFound(f"{text} does not exist{_suggest(path)}")


def inside(folder: Path, name: str, *, below: bool = False) -> Path:
    """A file of a model's own folder; ``below`` allows its subfolders.

    :raises Refused: the name, or the link behind it, leads out of the folder; the hub cache's ``blobs`` are part of it.
    """
    words = name.split("/") if below else [name]
    if any(word in ("", ".", "..") or set(word) & {"/", "\\", "\0"} for word in words):
        raise Refused(f"{folder}: names {name!r}, which is not a file beside it")
    path = folder / name
    if not isinstance(path, Path):
        return path  # a store has no links
    home = folder.resolve()
    real = path.resolve()
    hub = home.parent.parent / "blobs" if home.parent.name == "snapshots" else home
    if real.parent not in (home, hub) and home not in real.parents:
        raise Refused(f"{path}: links to {real}, outside its folder; name that file itself if you trust it")
    return path


def _suggest(path: Path) -> str:
    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        return "."
    return did_you_mean(path.name, names)


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
