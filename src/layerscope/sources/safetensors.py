"""safetensors: one file, a sharded index, or a folder of shards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.errors import Refused, Unreadable
from layerscope.sources import spec
from layerscope.sources._header import Entry, looks_like_header, read_header
from layerscope.sources._layout import TensorInfo
from layerscope.sources._state_dict import StateDict

if TYPE_CHECKING:
    from layerscope.types import Array

PORTABLE = True
INDEX = ".safetensors.index.json"


def accepts(target: Any) -> bool:
    """A file whose first bytes are a safetensors header, or whose name says that they should be."""
    if not isinstance(target, Path) or not target.is_file():
        return False
    return target.name.endswith((".safetensors", INDEX)) or looks_like_header(target)


def open(target: Path) -> StateDict:
    """Read the headers."""
    return open_files(target, shards(target) if target.name.endswith(INDEX) else [target], None)


def open_files(target: Path, files: list[Path], config: dict[str, Any] | None) -> StateDict:
    """One source over several files."""
    entries: dict[str, tuple[Path, Entry]] = {}
    for file in files:
        for name, entry in read_header(file).items():
            if name in entries:
                raise Unreadable(f"{target}: tensor {name!r} is in {entries[name][0].name} and in {file.name}")
            entries[name] = (file, entry)

    def fetch(name: str) -> Array:
        file, entry = entries[name]
        return read_entry(file, entry)

    tensors = [TensorInfo(name, entry.shape, entry.dtype) for name, (_, entry) in entries.items()]
    return StateDict(spec(target, "safetensors", portable=True), tensors, fetch, config)


def shards(index: Path) -> list[Path]:
    """The files that an index names, each inside the index's own folder and there.

    :raises Refused: a name that leads out of the folder.
    :raises Unreadable: no weight_map, or a file that is missing.
    """
    try:
        names = json.loads(index.read_text("utf-8"))["weight_map"].values()
        files = sorted({str(name) for name in names})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise Unreadable(f"{index}: no table 'weight_map' of tensors and files") from None
    if not files:
        raise Unreadable(f"{index}: names no file")
    folder = index.parent
    for name in files:
        if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
            raise Refused(f"{index}: names {name!r}, which is not a file beside it")
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        raise Unreadable(f"{index}: {len(missing)} of {len(files)} files are missing, the first {missing[0]}")
    return [folder / name for name in files]


def read_entry(file: Path, entry: Entry) -> Array:
    """Map one tensor; nothing else of the file is touched, and the mapping goes with the array."""
    dtype = as_dtype(entry.dtype)
    if file.stat().st_size < entry.stop:
        raise Unreadable(f"{file}: became shorter while it was read")
    return np.memmap(file, dtype=dtype, mode="r", offset=entry.start, shape=entry.shape)


def as_dtype(name: str) -> np.dtype[Any]:
    """NumPy dtype of a numpy-style name, little-endian; narrow floats come from ml_dtypes."""
    if name.startswith(("bfloat", "float8")):
        import ml_dtypes

        narrow: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
        return narrow
    plain: np.dtype[Any] = np.dtype(name).newbyteorder("<")
    return plain
