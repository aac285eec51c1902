"""GGUF files of llama.cpp, whole or split: every quantisation that the gguf package knows, decoded row by row."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.errors import MissingExtra, Unreadable
from layerscope.numerics.lazy_rows import rows_of
from layerscope.sources.layouts.torch_names import TensorInfo
from layerscope.sources.readers.gguf_header import MAGIC, Entry, Header, read_header
from layerscope.sources.readers.state_dict import StateDict
from layerscope.sources.storage.dtypes import as_dtype
from layerscope.sources.storage.extents import Extent, whole
from layerscope.sources.storage.paths import inside, is_file
from layerscope.sources.targets import spec

if TYPE_CHECKING:
    from layerscope.array_types import Array

PORTABLE = True
PLAIN = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64",
         "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64"}  # fmt: skip
SPLIT = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf$")


def accepts(target: Any) -> bool:
    """A file that begins as GGUF does, or whose name says that it should."""
    return is_file(target) and (target.suffix == ".gguf" or whole(target).read(0, 4) == MAGIC)


def open(target: Path) -> StateDict:
    """Read the headers."""
    files = [whole(file) for file in _parts(target)]
    headers = [read_header(extent) for extent in files]
    places: dict[str, tuple[Extent, int, Entry]] = {}
    for extent, header in zip(files, headers, strict=True):
        for name, entry in header.tensors.items():
            if name in places:
                raise Unreadable(f"{target}: tensor {name[:80]!r} is there twice")
            places[name] = (extent, header.data, entry)
    if not places:
        raise Unreadable(f"{target}: a GGUF file without tensors (a vocabulary alone?)")
    tensors = [_describe(target, name, *place) for name, place in places.items()]
    _check_apart(target, places)

    def fetch(name: str) -> Array:
        return _read(*places[name])

    return StateDict(spec(target, "gguf", portable=True), tensors, fetch, _config(headers[0]))


def _parts(target: Path) -> list[Path]:
    match = SPLIT.match(target.name)
    if match is None:
        return [target]
    names = [f"{match['stem']}-{i:05d}-of-{match['count']}.gguf" for i in range(1, int(match["count"]) + 1)]
    paths = [inside(target.parent, name) for name in names]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise Unreadable(f"{target}: {len(missing)} of {len(paths)} parts are missing, the first {missing[0]}")
    return paths


def _describe(target: Path, name: str, extent: Extent, data: int, entry: Entry) -> TensorInfo:
    kind, (block, size) = _type_of(entry.code)
    if not kind:
        return TensorInfo(name, entry.shape, f"ggml type {entry.code}", fault=f"ggml type {entry.code}, not decoded")
    entries = math.prod(entry.shape)
    if entry.shape and entry.shape[-1] % block:
        raise Unreadable(f"{target}: {name[:80]!r}: rows of {entry.shape[-1]} are no whole blocks of {kind}")
    if data + entry.offset + entries // block * size > extent.length:
        raise Unreadable(f"{target}: truncated: {name[:80]!r} would end beyond the file")
    if kind in PLAIN:
        return TensorInfo(name, entry.shape, PLAIN[kind])
    fault = "" if kind in _decoders() else f"quantised as {kind}, not decoded"
    return TensorInfo(name, entry.shape, "float32", fault=fault, how=f"decoded from {kind}")


def _check_apart(target: Path, places: Mapping[str, tuple[Extent, int, Entry]]) -> None:
    """No two tensors share bytes.

    :raises Unreadable: two do.
    """
    taken = []
    for name, (extent, _, entry) in places.items():
        kind, (block, size) = _type_of(entry.code)
        length = math.prod(entry.shape) // block * size if kind else 0
        taken.append((str(extent.path), entry.offset, entry.offset + length, name))
    taken.sort()
    for before, after in itertools.pairwise(taken):
        if before[0] == after[0] and after[1] < before[2]:
            raise Unreadable(f"{target}: {after[3][:80]!r} overlaps {before[3][:80]!r}")


def _read(extent: Extent, data: int, entry: Entry) -> Array:
    kind, (block, size) = _type_of(entry.code)
    at = data + entry.offset
    if kind in PLAIN:
        return extent.array(as_dtype(PLAIN[kind]), at, entry.shape)
    from gguf.quants import dequantize

    shape = (math.prod(entry.shape[:-1]), entry.shape[-1])
    width = shape[1] // block * size
    codes = extent.array(np.dtype(np.uint8), at, (shape[0], width))

    def make(start: int, stop: int) -> Array:
        return np.asarray(dequantize(np.asarray(codes[start:stop]), _decoders()[kind])).reshape(-1, shape[1])

    made = rows_of(shape, np.float32, make)
    return made if len(entry.shape) == 2 else np.asarray(made).reshape(entry.shape)  # type: ignore[return-value]


def _type_of(code: int) -> tuple[str, tuple[int, int]]:
    """(name, (entries, bytes) of a block) of one of ggml's types; an empty name where the package knows none."""
    constants = _package()
    try:
        kind = constants.GGMLQuantizationType(code)
    except ValueError:
        return "", (1, 1)
    return kind.name, constants.GGML_QUANT_SIZES[kind]


def _decoders() -> dict[str, Any]:
    _package()
    from gguf import quants

    return {kind.name: kind for kind in quants._type_traits}


def _package() -> Any:
    try:
        from gguf import constants
    except ImportError:
        raise MissingExtra("a GGUF file", "gguf") from None
    return constants


def _config(header: Header) -> dict[str, Any]:
    """What the metadata says, in the words of a config.json."""
    meta = header.metadata
    architecture = meta.get("general.architecture", "")
    words = {
        "num_attention_heads": "attention.head_count",
        "num_key_value_heads": "attention.head_count_kv",
        "head_dim": "attention.key_length",
        "hidden_size": "embedding_length",
    }
    found = {ours: meta.get(f"{architecture}.{theirs}") for ours, theirs in words.items()}
    return {"model_type": "gguf", **{name: value for name, value in found.items() if isinstance(value, int)}}
