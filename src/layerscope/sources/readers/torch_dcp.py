"""Distributed checkpoints of torch (DCP, FSDP): a folder of .distcp files; a tensor is put together from its shards."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.errors import Unreadable
from layerscope.sources.layouts.torch_names import TensorInfo
from layerscope.sources.readers.state_dict import StateDict
from layerscope.sources.readers.torch_zip import TensorZip
from layerscope.sources.storage.dtypes import MOST_AXES, as_dtype
from layerscope.sources.storage.extents import Extent, whole
from layerscope.sources.storage.paths import inside, is_folder, size_of
from layerscope.sources.storage.pickle_check import LONGEST
from layerscope.sources.storage.pickle_reader import StandIn, Tensor, unpickle
from layerscope.sources.targets import spec

if TYPE_CHECKING:
    from layerscope.array_types import Array

PORTABLE = True
METADATA = ".metadata"
MOST_SHARDS = 1 << 17
LONGEST_NAME = 1 << 12  # letters
OPTIMISER = ("optim", "optimizer")

Shard = tuple[tuple[int, ...], tuple[int, ...], Path, int, int]  # offsets, sizes, file, start, length


def accepts(target: Any) -> bool:
    """A folder with a .metadata beside .distcp files."""
    return is_folder(target) and (target / METADATA).is_file()


def open(target: Path) -> StateDict:
    """Read the metadata: which tensors there are, and where each shard lies."""
    file = inside(target, METADATA)
    if size_of(file) > LONGEST:
        raise Unreadable(f"{file}: {size_of(file):,} bytes are more than any checkpoint's metadata")
    meta = unpickle(file, whole(file).read())
    try:
        tensors, shards = _tables(target, meta)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise Unreadable(f"{file}: is not the metadata of a distributed checkpoint ({error})") from None
    if not tensors:
        raise Unreadable(f"{target}: a distributed checkpoint without tensors")
    shapes = {info.name: info for info in tensors}

    def fetch(name: str) -> Array:
        return _assembled(target, shapes[name], shards.get(name, []))

    return StateDict(spec(target, "torch_dcp", portable=True), tensors, fetch)


def _tables(target: Path, meta: Any) -> tuple[list[TensorInfo], dict[str, list[Shard]]]:
    state = meta.state
    places: dict[tuple[str, tuple[int, ...]], Any] = {}
    for index, info in state["storage_data"].items():
        places[_text(index.state["fqn"]), _sizes(index.state.get("offset") or ())] = info.state
    tensors: list[TensorInfo] = []
    shards: dict[str, list[Shard]] = {}
    files: dict[str, Path] = {}
    count = 0
    for name, entry in state["state_dict_metadata"].items():
        if not isinstance(entry, StandIn) or "chunks" not in entry.state or _text(name).startswith(OPTIMISER):
            continue
        shape = _sizes(entry.state["size"])
        tensors.append(TensorInfo(name, shape, _text(entry.state["properties"].rest[0])))
        count += len(entry.state["chunks"])
        if count > MOST_SHARDS:
            raise ValueError(f"more than {MOST_SHARDS:,} shards")
        found = []
        for chunk in entry.state["chunks"]:
            offsets, sizes = _sizes(chunk.state["offsets"]), _sizes(chunk.state["sizes"])
            where = places.get((name, offsets)) or places.get((name, ())) or {}
            path = _text(where["relative_path"])
            if path not in files:
                files[path] = inside(target, path)
                if not files[path].is_file():
                    raise Unreadable(f"{target}: its file {path[:80]!r} is missing")
            (start,), (length,) = _sizes([where["offset"]]), _sizes([where["length"]])
            found.append((offsets, sizes, files[path], start, length))
        shards[name] = found
    return tensors, shards


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > LONGEST_NAME:
        raise ValueError("a name that is none")
    return value


def _sizes(values: Any) -> tuple[int, ...]:
    sizes = tuple(values)
    if len(sizes) > MOST_AXES or not all(isinstance(x, int) and 0 <= x < 1 << 62 for x in sizes):
        raise ValueError("impossible sizes")
    return sizes


def _assembled(target: Path, info: TensorInfo, shards: list[Shard]) -> Array:
    """The tensor from its shards, each of them one torch.save'd tensor; a single one is mapped as it lies.

    :raises Unreadable: shards that overlap, leave holes, or are not what the metadata says.
    """
    if sum(math.prod(sizes) for _, sizes, *_ in shards) != math.prod(info.shape):
        raise Unreadable(f"{target}: the shards of {info.name!r} do not make up its shape")
    if len(shards) == 1:
        return _shard(info, shards[0])
    whole = np.empty(info.shape, as_dtype(info.dtype))
    filled = np.zeros(info.shape, bool)
    for shard in shards:
        offsets, sizes, *_ = shard
        window = tuple(slice(at, at + size) for at, size in zip(offsets, sizes, strict=True))
        if any(at + size > n for at, size, n in zip(offsets, sizes, info.shape, strict=True)) or filled[window].any():
            raise Unreadable(f"{target}: the shards of {info.name!r} overlap")
        whole[window] = _shard(info, shard)
        filled[window] = True
    return whole


def _shard(info: TensorInfo, shard: Shard) -> Array:
    _, sizes, file, start, length = shard
    if start + length > size_of(file):
        raise Unreadable(f"{file}: truncated")
    opened = TensorZip(Extent(file, start, length))
    if not isinstance(opened.content, Tensor) or opened.content.shape != sizes or opened.content.dtype != info.dtype:
        raise Unreadable(f"{file}: a shard of {info.name!r} is not what the metadata says")
    if opened.content.fault or opened.content.expanded:
        raise Unreadable(f"{file}: a shard of {info.name!r} is no plain tensor")
    return opened.read(opened.content)
