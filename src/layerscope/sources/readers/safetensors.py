"""safetensors: one file, a sharded index, or a folder of shards."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerscope.errors import Unreadable
from layerscope.sources.layouts.torch_names import TensorInfo
from layerscope.sources.readers.safetensors_header import Entry, looks_like_header, read_header
from layerscope.sources.readers.state_dict import StateDict, check_index
from layerscope.sources.storage.dtypes import as_dtype
from layerscope.sources.storage.extents import Extent
from layerscope.sources.storage.json_text import read_json
from layerscope.sources.storage.paths import is_file, path_inside
from layerscope.sources.targets import make_spec

if TYPE_CHECKING:
    from layerscope.array_types import Array

PORTABLE = True
MAX_INDEX_BYTES = 64 << 20  # bytes
INDEX_SUFFIX = ".safetensors.index.json"


def accepts(target: Any) -> bool:
    """A file whose first bytes are a safetensors header, or whose name says that they should be."""
    if not is_file(target):
        return False
    return target.name.endswith((".safetensors", INDEX_SUFFIX)) or looks_like_header(target)


def open(target: Path) -> StateDict:
    """Read the headers."""
    if target.name.endswith(INDEX_SUFFIX):
        listed = read_shard_index(target)
        return open_files(target, sorted(set(listed.values())), None, listed)
    return open_files(target, [target], None)


def open_files(
    target: Path, files: list[Path], config: dict[str, Any] | None, listed: Mapping[str, Path] | None = None
) -> StateDict:
    """One source over several files; ``listed`` is what an index says of them."""
    entries: dict[str, tuple[Path, Entry]] = {}
    for file in files:
        for name, entry in read_header(file).items():
            if name in entries:
                raise Unreadable(f"{target}: tensor {name!r} is in {entries[name][0].name} and in {file.name}")
            entries[name] = (file, entry)
    check_index(target, listed or {}, {name: file for name, (file, _) in entries.items()})

    def fetch(name: str) -> Array:
        file, entry = entries[name]
        return read_entry(file, entry)

    tensors = [TensorInfo(name, entry.shape, entry.dtype) for name, (_, entry) in entries.items()]
    return StateDict(make_spec(target, "safetensors", portable=True), tensors, fetch, config)


def read_shard_index(index: Path) -> dict[str, Path]:
    """Tensor → file, as an index says, each file inside the index's own folder and there.

    :raises Refused: a name that leads out of the folder.
    :raises Unreadable: no weight_map, or a file that is missing.
    """
    try:
        table = read_json(path_inside(index.parent, index.name), MAX_INDEX_BYTES)["weight_map"]
        listed = {str(tensor): str(name) for tensor, name in table.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise Unreadable(f"{index}: no table 'weight_map' of tensors and files") from None
    if not listed:
        raise Unreadable(f"{index}: names no file")
    files = {name: path_inside(index.parent, name) for name in sorted(set(listed.values()))}
    missing = [name for name, path in files.items() if not path.is_file()]
    if missing:
        raise Unreadable(f"{index}: {len(missing)} of {len(files)} files are missing, the first {missing[0]}")
    return {tensor: files[name] for tensor, name in listed.items()}


def read_entry(file: Path, entry: Entry) -> Array:
    """Map one tensor; nothing else of the file is touched, and the mapping goes with the array."""
    return Extent(file, 0, entry.stop).array(as_dtype(entry.dtype), entry.start, entry.shape)
