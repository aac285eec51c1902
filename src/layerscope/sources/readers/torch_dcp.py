"""Distributed checkpoints of torch (DCP, FSDP): folders of .distcp files, with tensors assembled from shards."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.errors import Unreadable
from layerscope.sources.inventory import DCP_OPTIMIZER_PREFIXES
from layerscope.sources.layouts.torch_names import TensorInfo
from layerscope.sources.readers.state_dict import StateDict
from layerscope.sources.readers.torch_zip import TensorZip
from layerscope.sources.storage.dtypes import MAX_AXES, as_dtype
from layerscope.sources.storage.extents import Extent, whole_file
from layerscope.sources.storage.paths import is_folder, path_inside, size_of
from layerscope.sources.storage.pickle_check import MAX_PICKLE_BYTES
from layerscope.sources.storage.pickle_objects import StandIn, Tensor
from layerscope.sources.storage.pickle_reader import unpickle
from layerscope.sources.targets import make_spec

if TYPE_CHECKING:
    from layerscope.array_types import Array

PORTABLE = True
METADATA_FILE = ".metadata"
MAX_SHARDS = 1 << 17
MAX_NAME_CHARS = 1 << 12  # characters in the name of a tensor or file

Shard = tuple[tuple[int, ...], tuple[int, ...], Path, int, int]  # offsets, sizes, file, first byte, bytes


def accepts(target: Any) -> bool:
    """Accept a folder with a .metadata file, which torch writes beside the .distcp files."""
    return is_folder(target) and (target / METADATA_FILE).is_file()


def open(target: Path) -> StateDict:
    """Read the metadata: the tensors and the location of each shard."""
    file = path_inside(target, METADATA_FILE)
    if size_of(file) > MAX_PICKLE_BYTES:
        raise Unreadable(f"{file}: the metadata have {size_of(file):,} bytes; at most {MAX_PICKLE_BYTES:,} are read")
    metadata = unpickle(file, whole_file(file).read())
    try:
        tensors, shards = _read_tables(target, metadata)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise Unreadable(
            f"{file}: not the metadata of a torch distributed checkpoint, or damaged ({error}); "
            "pass a folder written by torch.distributed.checkpoint.save"
        ) from None
    if not tensors:
        raise Unreadable(
            f"{target}: the distributed checkpoint contains no model tensors (optimizer state is not analyzed); "
            "save the model's state dict in it"
        )
    shapes = {info.name: info for info in tensors}

    def fetch(name: str) -> Array:
        return _assemble(target, shapes[name], shards.get(name, []))

    return StateDict(make_spec(target, "torch_dcp", portable=True), tensors, fetch)


def _read_tables(target: Path, meta: Any) -> tuple[list[TensorInfo], dict[str, list[Shard]]]:
    state = meta.state
    storage_by_chunk: dict[tuple[str, tuple[int, ...]], Any] = {}
    for index, info in state["storage_data"].items():
        storage_by_chunk[_checked_text(index.state["fqn"]), _checked_sizes(index.state.get("offset") or ())] = (
            info.state
        )
    tensors: list[TensorInfo] = []
    shards: dict[str, list[Shard]] = {}
    files: dict[str, Path] = {}
    count = 0
    for name, entry in state["state_dict_metadata"].items():
        if not isinstance(entry, StandIn) or "chunks" not in entry.state:
            continue
        if _checked_text(name).startswith(DCP_OPTIMIZER_PREFIXES):
            continue
        shape = _checked_sizes(entry.state["size"])
        tensors.append(TensorInfo(name, shape, _checked_text(entry.state["properties"].other_state[0])))
        count += len(entry.state["chunks"])
        if count > MAX_SHARDS:
            raise ValueError(f"more than {MAX_SHARDS:,} shards")
        tensor_shards = []
        for chunk in entry.state["chunks"]:
            offsets, sizes = _checked_sizes(chunk.state["offsets"]), _checked_sizes(chunk.state["sizes"])
            storage_info = storage_by_chunk.get((name, offsets)) or storage_by_chunk.get((name, ())) or {}
            path = _checked_text(storage_info["relative_path"])
            if path not in files:
                files[path] = path_inside(target, path)
                if not files[path].is_file():
                    raise Unreadable(
                        f"{target}: the shard file {path[:80]!r} is missing; copy the whole checkpoint folder"
                    )
            (start,), (length,) = _checked_sizes([storage_info["offset"]]), _checked_sizes([storage_info["length"]])
            tensor_shards.append((offsets, sizes, files[path], start, length))
        shards[name] = tensor_shards
    return tensors, shards


def _checked_text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > MAX_NAME_CHARS:
        raise ValueError(f"a name is not text of at most {MAX_NAME_CHARS:,} characters")
    return value


def _checked_sizes(values: Any) -> tuple[int, ...]:
    sizes = tuple(values)
    if len(sizes) > MAX_AXES or not all(isinstance(x, int) and 0 <= x < 1 << 62 for x in sizes):
        raise ValueError(f"sizes are not a list of at most {MAX_AXES} non-negative integers")
    return sizes


def _assemble(target: Path, info: TensorInfo, shards: list[Shard]) -> Array:
    """Assemble a tensor from its shards, each written by torch.save; a single shard is memory-mapped.

    :raises Unreadable: the shards overlap, leave gaps, or contradict the metadata.
    """
    stored_values, expected_values = sum(math.prod(sizes) for _, sizes, *_ in shards), math.prod(info.shape)
    if stored_values != expected_values:
        raise Unreadable(
            f"{target}: the shards of {info.name!r} hold {stored_values:,} values, but its shape needs "
            f"{expected_values:,}; copy the whole checkpoint folder"
        )
    if len(shards) == 1:
        return _read_shard(info, shards[0])
    assembled = np.empty(info.shape, as_dtype(info.dtype))
    filled = np.zeros(info.shape, bool)
    for shard in shards:
        offsets, sizes, *_ = shard
        window = tuple(slice(at, at + size) for at, size in zip(offsets, sizes, strict=True))
        if any(at + size > n for at, size, n in zip(offsets, sizes, info.shape, strict=True)) or filled[window].any():
            raise Unreadable(
                f"{target}: the shards of {info.name!r} overlap or exceed its shape; save the checkpoint again"
            )
        assembled[window] = _read_shard(info, shard)
        filled[window] = True
    return assembled


def _read_shard(info: TensorInfo, shard: Shard) -> Array:
    _, sizes, file, start, length = shard
    if start + length > size_of(file):
        raise Unreadable(
            f"{file}: truncated: a shard of {info.name!r} ends at byte {start + length:,}, but the file has "
            f"{size_of(file):,} bytes; copy it again"
        )
    checkpoint = TensorZip(Extent(file, start, length))
    if (
        not isinstance(checkpoint.content, Tensor)
        or checkpoint.content.shape != sizes
        or checkpoint.content.dtype != info.dtype
    ):
        raise Unreadable(
            f"{file}: a shard of {info.name!r} does not have the shape {list(sizes)[:8]} and dtype {info.dtype} "
            "stated by the metadata; save the checkpoint again"
        )
    if checkpoint.content.fault or checkpoint.content.expanded:
        raise Unreadable(
            f"{file}: a shard of {info.name!r} is not a plain dense tensor "
            f"({checkpoint.content.fault or 'expanded'}); only dense tensors are read"
        )
    return checkpoint.read(checkpoint.content)
