"""safetensors: a single file, a sharded index, or a folder of shards."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerscope.errors import Unreadable
from layerscope.sources.adapters.lora_scale import scale_from_metadata
from layerscope.sources.layouts.parametrized_weights import ScaleOf
from layerscope.sources.layouts.torch_names import TensorInfo
from layerscope.sources.readers.safetensors_header import Entry, looks_like_header, read_header, read_metadata
from layerscope.sources.readers.state_dict import StateDict, check_index
from layerscope.sources.storage.dtypes import as_dtype
from layerscope.sources.storage.extents import Extent
from layerscope.sources.storage.json_text import read_json
from layerscope.sources.storage.paths import is_file, named_inside, path_inside
from layerscope.sources.targets import make_spec

if TYPE_CHECKING:
    from layerscope.array_types import Array

PORTABLE = True
MAX_INDEX_BYTES = 64 << 20
MAX_FILES = 99_999  # of one index: their numbers have five digits
DIFFUSERS_LORA = re.compile(r"pytorch_lora_weights.*\.safetensors$")
INDEX_SUFFIX = ".safetensors.index.json"


def accepts(target: Any) -> bool:
    """Accept a file that starts with a safetensors header, or has the suffix of safetensors or its index."""
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
    target: Path,
    files: list[Path],
    config: dict[str, Any] | None,
    listed: Mapping[str, Path] | None = None,
    lora_scale: ScaleOf | None = None,
) -> StateDict:
    """Open several files as one source.

    :param listed: the file of each tensor as an index states it, checked against the files.
    :param lora_scale: the scale of LoRA factors, where the kind of the file gives it.
    """
    entries: dict[str, tuple[Path, Entry]] = {}
    for file in files:
        for name, entry in read_header(file).items():
            if name in entries:
                raise Unreadable(
                    f"{target}: tensor {name!r} is in both {entries[name][0].name} and {file.name}; "
                    "use the files of one model"
                )
            entries[name] = (file, entry)
    check_index(target, listed or {}, {name: file for name, (file, _) in entries.items()})

    def fetch(name: str) -> Array:
        file, entry = entries[name]
        return read_entry(file, entry)

    tensors = [TensorInfo(name, entry.shape, entry.dtype) for name, (_, entry) in entries.items()]
    if any(DIFFUSERS_LORA.match(file.name) for file in files):
        lora_scale = _scale_of_diffusers(files[0])
    return StateDict(make_spec(target, "safetensors", portable=True), tensors, fetch, config, lora_scale)


def _scale_of_diffusers(file: Path) -> ScaleOf:
    try:
        return scale_from_metadata(read_metadata(file))
    except (ValueError, OverflowError, RecursionError) as error:
        raise Unreadable(f"{file}: cannot read the scale of the adapter in its header: {error}") from None


def read_shard_index(index: Path) -> dict[str, Path]:
    """Map each tensor to its file as an index states it; the files must be in the index's own folder.

    :raises Refused: the name of a file leads out of the folder.
    :raises Unreadable: there is no weight_map, or a file is missing.
    """
    try:
        table = read_json(path_inside(index.parent, index.name), MAX_INDEX_BYTES)["weight_map"]
        listed = {str(tensor): str(name) for tensor, name in table.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise Unreadable(f"{index}: no 'weight_map' of tensors to files found; download the index again") from None
    if not listed:
        raise Unreadable(f"{index}: its 'weight_map' names no file; download the index again")
    names = sorted(set(listed.values()))
    if len(names) > MAX_FILES:
        raise Unreadable(f"{index}: names {len(names):,} files; the limit is {MAX_FILES:,}")
    missing = [name for name in names if not named_inside(index.parent, name).is_file()]
    if missing:
        raise Unreadable(
            f"{index}: {len(missing)} of {len(names)} files are missing, the first {missing[0]}; "
            "put all files into the folder of the index"
        )
    files = {name: path_inside(index.parent, name) for name in names}
    return {tensor: files[name] for tensor, name in listed.items()}


def read_entry(file: Path, entry: Entry) -> Array:
    """Map one tensor; the rest of the file is not read, and the mapping is released with the array."""
    return Extent(file, 0, entry.stop).array(as_dtype(entry.dtype), entry.start, entry.shape)
