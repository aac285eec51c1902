"""Paths on this machine or in a store, and files that must lie inside a folder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from layerscope.errors import (
    Refused,
)


def is_path(target: Any) -> bool:
    """A path, here or in a store."""
    upath = sys.modules.get("upath")
    return isinstance(target, Path) or (upath is not None and isinstance(target, upath.UPath))


def is_file(target: Any) -> bool:
    """A path to a file that is there."""
    return is_path(target) and bool(target.is_file())


def is_folder(target: Any) -> bool:
    """A path to a folder that is there."""
    return is_path(target) and bool(target.is_dir())


def size_of(path: Path) -> int:
    """Bytes of a file."""
    return int(path.stat().st_size)


def path_inside(folder: Path, name: str, *, below: bool = False) -> Path:
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
    real_path = path.resolve()
    hub = home.parent.parent / "blobs" if home.parent.name == "snapshots" else home
    if real_path.parent not in (home, hub) and home not in real_path.parents:
        raise Refused(f"{path}: links to {real_path}, outside its folder; name that file itself if you trust it")
    return path
