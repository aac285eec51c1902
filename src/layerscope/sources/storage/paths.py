"""Local and remote paths, and files that must be inside a folder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from layerscope.errors import (
    Refused,
)
from layerscope.sources.storage.http_paths import HttpFile


def is_path(target: Any) -> bool:
    """Return whether the target is a path, local or remote."""
    upath = sys.modules.get("upath")
    return isinstance(target, Path | HttpFile) or (upath is not None and isinstance(target, upath.UPath))


def is_file(target: Any) -> bool:
    """Return whether the target is the path of an existing file."""
    return is_path(target) and bool(target.is_file())


def is_folder(target: Any) -> bool:
    """Return whether the target is the path of an existing folder."""
    return is_path(target) and bool(target.is_dir())


def size_of(path: Path) -> int:
    """Return the size of a file in bytes."""
    return int(path.stat().st_size)


def named_inside(folder: Path, name: str, *, below: bool = False) -> Path:
    """Return the path of a name in a folder, whose links are not yet checked: :func:`path_inside` does that.

    :raises Refused: the name leads out of the folder.
    """
    words = name.split("/") if below else [name]
    if any(word in ("", ".", "..") or set(word) & {"/", "\\", "\0"} for word in words):
        raise Refused(f"{folder}: refers to {name!r}, but only files in the model's own folder are read")
    return folder / name


def path_inside(folder: Path, name: str, *, below: bool = False) -> Path:
    """Return the path of a file in a model's own folder; ``below`` allows subfolders.

    :raises Refused: the name or a link leads out of the folder; the hub cache's ``blobs`` count as part of it.
    """
    path = named_inside(folder, name, below=below)
    if not isinstance(path, Path):
        return path  # remote stores have no links
    home = folder.resolve()
    real_path = path.resolve()
    hub = home.parent.parent / "blobs" if home.parent.name == "snapshots" else home
    if real_path.parent not in (home, hub) and home not in real_path.parents:
        raise Refused(f"{path}: links to {real_path}, outside its folder; if you trust that file, pass its path")
    return path
