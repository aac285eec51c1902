"""Targets that a user can pass as a model: how they are named and located."""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path
from typing import Any

from layerscope.errors import (
    MissingExtra,
    TargetNotFound,
    did_you_mean,
    without_secrets,
    without_secrets_of,
)
from layerscope.records.sources import SourceSpec
from layerscope.sources.storage.http_paths import HttpFile
from layerscope.sources.storage.paths import is_path
from layerscope.sources.storage.store_paths import store_path


class Composed:
    """A target made of other targets, e.g. the difference of two models; ``str`` returns its name."""


HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(@[\w./-]+)?|[A-Za-z][\w-]*(@[\w./-]+)?", re.ASCII)
URL = re.compile(r"[a-z][a-z0-9+.-]+(::[a-z][a-z0-9+.-]+)*://", re.ASCII)
_counter = itertools.count()


def make_spec(target: Any, format: str, *, portable: bool, parts: tuple[SourceSpec, ...] = ()) -> SourceSpec:
    """Return a spec with a unique key; a spec made of others is portable only if all of them are."""
    portable = portable and all(part.portable for part in parts)
    return SourceSpec(target, format, portable, f"{os.getpid()}.{next(_counter)}", parts)


def short_name(target: Any) -> str:
    """Return the last part of a target's name."""
    return name_of(target).rstrip("/").rpartition("/")[2]


def name_of(target: Any) -> str:
    """Return the name of a target in reports: its path without passwords and signatures, or its type."""
    if isinstance(target, str | Composed) or is_path(target):
        return without_secrets(str(target))
    return f"{type(target).__module__}.{type(target).__qualname__}"


def _locate_in_store(url: str) -> Any:
    """Return the path of a URL in an fsspec store.

    :raises MissingExtra: universal_pathlib is not installed.
    :raises TargetNotFound: nothing exists there, access is denied, or the store's own package is missing.
    """
    if url.startswith(("http://", "https://")):
        file = HttpFile(url)
        if not file.exists():
            raise TargetNotFound(f"{url} does not exist")
        return file
    try:
        import upath  # noqa: F401 - a store's own package may be missing too, which is another error
    except ImportError:
        raise MissingExtra(f"{url}: reading from a URL", "remote") from None
    try:
        path = store_path(url)
        exists = path.exists()
        index_path = path.with_name(path.name + ".index") if not exists and path.name else path
        if not exists and index_path.is_file():  # the prefix of a TensorFlow checkpoint
            return index_path
    except ImportError as error:
        extra = "; pip install 'layerscope[hf]'" if url.startswith("hf:") else ""
        raise TargetNotFound(f"{url}: {without_secrets_of(url, str(error))}{extra}") from None
    except ValueError as error:
        what = without_secrets_of(url, str(error))
        raise TargetNotFound(f"{url}: the storage protocol is not supported: {what}") from None
    except Exception as error:  # every store raises its own exceptions
        what = without_secrets_of(url, str(error))
        raise TargetNotFound(f"{url}: {type(error).__name__}: {what}") from None
    if not exists:
        raise TargetNotFound(f"{url} does not exist")
    return Path(path.path) if path.protocol in ("", "file", "local") else path


def locate(target: str | os.PathLike[str]) -> Any:
    """Return an existing path, or a string that may be a hub id.

    :raises TargetNotFound: the target is neither.
    """
    text = os.fspath(target)
    if not text or "\0" in text:
        raise TargetNotFound(f"{text!r} is not a valid path; pass a path, a hub id or a URL")
    if URL.match(text):
        return _locate_in_store(text)
    try:
        path = Path(text).expanduser()
        if path.exists():
            return path
        if path.with_name(path.name + ".index").is_file():  # the prefix of a TensorFlow checkpoint
            return path.with_name(path.name + ".index")
    except (OSError, RuntimeError) as error:  # RuntimeError: ~user is not a known user
        reason = error.strerror if isinstance(error, OSError) else error
        raise TargetNotFound(f"{text[:200]}: {reason}") from error
    if isinstance(target, str) and HUB_ID.fullmatch(target) and not path.suffix:
        return target
    raise TargetNotFound(f"{text} does not exist{_suggest_name(path)}")


def _suggest_name(path: Path) -> str:
    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        return "."
    return did_you_mean(path.name, names)
