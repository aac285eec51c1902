"""GGUF files of llama.cpp, whole or split, decoded row by row from every quantization that the gguf package knows."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.errors import Unreadable
from layerscope.numerics.lazy_rows import lazy_rows
from layerscope.sources.layouts.parametrized_weights import ScaleOf
from layerscope.sources.layouts.torch_names import TensorInfo
from layerscope.sources.quantization.gguf_types import PLAIN_DTYPES, decodable_types, decode, look_up_type
from layerscope.sources.readers.gguf_header import MAGIC, Entry, Header, read_header
from layerscope.sources.readers.state_dict import StateDict
from layerscope.sources.storage.dtypes import as_dtype
from layerscope.sources.storage.extents import Extent, whole_file
from layerscope.sources.storage.paths import is_file, path_inside
from layerscope.sources.targets import make_spec

if TYPE_CHECKING:
    from layerscope.array_types import Array

PORTABLE = True
INTERLEAVED_ARCHITECTURES = (  # those for which llama.cpp's conversion permutes the rows of q and k
    "llama", "baichuan", "xverse", "deci", "internlm2", "minicpm", "granite", "granitemoe", "olmo", "arctic",
    "bailingmoe", "smollm3", "arcee",
)  # fmt: skip
SPLIT_FILE_NAME = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf$")


def accepts(target: Any) -> bool:
    """Accept a file that starts with GGUF's magic bytes, or a file called .gguf."""
    return is_file(target) and (target.suffix == ".gguf" or whole_file(target).read(0, 4) == MAGIC)


def open(target: Path) -> StateDict:
    """Read the header of every part."""
    files = [whole_file(file) for file in _list_parts(target)]
    headers = [read_header(extent) for extent in files]
    places: dict[str, tuple[Extent, int, Entry]] = {}
    for extent, header in zip(files, headers, strict=True):
        for name, entry in header.tensors.items():
            if name in places:
                raise Unreadable(f"{target}: two tensors are called {name[:80]!r}; names must be unique")
            places[name] = (extent, header.data, entry)
    if not places:
        raise Unreadable(f"{target}: the GGUF file contains no tensors (only a vocabulary?); pass a file with weights")
    if headers[0].metadata.get("general.type") == "imatrix":
        raise Unreadable(
            f"{target}: an importance matrix (imatrix), which holds statistics of activations for quantization and no "
            "weights; pass the model"
        )
    tensors = [_describe_tensor(target, name, *place) for name, place in places.items()]
    _check_no_overlap(target, places)

    spec, config = make_spec(target, "gguf", portable=True), _config_from_metadata(headers[0])
    heads = _interleaved_heads(headers[0], config)

    def fetch(name: str) -> Array:
        count = next((count for ending, count in heads.items() if name.endswith(ending)), 0)
        return _read_tensor(*places[name], count)

    return StateDict(spec, tensors, fetch, config, _scale_of_adapter(headers[0]))


def _list_parts(target: Path) -> list[Path]:
    match = SPLIT_FILE_NAME.match(target.name)
    if match is None:
        return [target]
    names = [f"{match['stem']}-{i:05d}-of-{match['count']}.gguf" for i in range(1, int(match["count"]) + 1)]
    paths = [path_inside(target.parent, name) for name in names]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise Unreadable(
            f"{target}: {len(missing)} of {len(paths)} parts are missing, the first {missing[0]}; "
            "put all parts into one folder"
        )
    return paths


def _describe_tensor(target: Path, name: str, extent: Extent, data: int, entry: Entry) -> TensorInfo:
    ggml_type, (block, size) = look_up_type(entry.code)
    if not ggml_type:
        return TensorInfo(name, entry.shape, f"ggml type {entry.code}", fault=f"ggml type {entry.code}, not decoded")
    entries = math.prod(entry.shape)
    if entry.shape and entry.shape[-1] % block:
        raise Unreadable(
            f"{target}: damaged: rows of {entry.shape[-1]:,} values in {name[:80]!r} do not divide into "
            f"{ggml_type} blocks of {block}; convert the model again"
        )
    end = data + entry.offset + entries // block * size
    if end > extent.length:
        raise Unreadable(
            f"{target}: truncated: {name[:80]!r} ends at byte {end:,}, but the file has {extent.length:,} bytes; "
            "download it again"
        )
    if ggml_type in PLAIN_DTYPES:
        return TensorInfo(name, entry.shape, PLAIN_DTYPES[ggml_type])
    fault = "" if ggml_type in decodable_types() else f"quantized as {ggml_type}, not decoded"
    return TensorInfo(name, entry.shape, "float32", fault=fault, how=f"decoded from {ggml_type}")


def _check_no_overlap(target: Path, places: Mapping[str, tuple[Extent, int, Entry]]) -> None:
    """Check that no two tensors share bytes.

    :raises Unreadable: two tensors overlap.
    """
    spans = []
    for name, (extent, _, entry) in places.items():
        ggml_type, (block, size) = look_up_type(entry.code)
        length = math.prod(entry.shape) // block * size if ggml_type else 0
        spans.append((str(extent.path), entry.offset, entry.offset + length, name))
    spans.sort()
    for previous, span in itertools.pairwise(spans):
        if previous[0] == span[0] and span[1] < previous[2]:
            raise Unreadable(
                f"{target}: damaged: tensor {span[3][:80]!r} overlaps {previous[3][:80]!r}; convert the model again"
            )


def _read_tensor(extent: Extent, data: int, entry: Entry, heads: int = 0) -> Array:
    """The values of a tensor; with ``heads``, the two halves of each head's rows are no longer interleaved.

    llama.cpp interleaves the rows of q and k, 0, d/2, 1, d/2 + 1, …, for its rotary embedding. Here they stand in
    Hugging Face's order again.
    """
    ggml_type, (block, size) = look_up_type(entry.code)
    start = data + entry.offset
    shape = (math.prod(entry.shape[:-1]), entry.shape[-1])
    is_interleaved = heads > 0 and len(entry.shape) < 3 and entry.shape[0] % (2 * heads) == 0
    rows_per_head = entry.shape[0] // heads if is_interleaved else 0
    if ggml_type in PLAIN_DTYPES:
        stored: Array = extent.array(as_dtype(PLAIN_DTYPES[ggml_type]), start, entry.shape)
        return _halves_apart(stored, rows_per_head) if rows_per_head else stored
    codes = extent.array(np.dtype(np.uint8), start, (shape[0], shape[1] // block * size))

    def decode_rows(first: int, stop: int) -> Array:
        if not rows_per_head:
            return decode(codes[first:stop], ggml_type).reshape(-1, shape[1])
        begin, end = first // rows_per_head * rows_per_head, -(-stop // rows_per_head) * rows_per_head
        whole_heads = decode(codes[begin:end], ggml_type).reshape(-1, shape[1])
        return _halves_apart(whole_heads, rows_per_head)[first - begin : stop - begin]

    decoded_rows = lazy_rows(shape, np.float32, decode_rows)
    return decoded_rows if len(entry.shape) == 2 else np.asarray(decoded_rows).reshape(entry.shape)  # type: ignore[return-value]


def _halves_apart(rows: Array, rows_per_head: int) -> Array:
    """Rows 0, 2, 4, … of each head, then rows 1, 3, 5, …"""
    heads = rows.reshape(-1, rows_per_head // 2, 2, *rows.shape[1:])
    apart: Array = heads.swapaxes(1, 2).reshape(rows.shape)
    return apart


def _interleaved_heads(header: Header, config: dict[str, Any]) -> dict[str, int]:
    """End of a tensor's name → its number of heads, of the tensors whose rows llama.cpp interleaved."""
    if header.metadata.get("general.architecture") not in INTERLEAVED_ARCHITECTURES:
        return {}
    heads = config.get("num_attention_heads", 0)
    key_heads = config.get("num_key_value_heads", heads)
    return {f".attn_{which}.{part}": n for which, n in (("q", heads), ("k", key_heads)) for part in ("weight", "bias")}


def _config_from_metadata(header: Header) -> dict[str, Any]:
    """Translate the metadata to the settings of a Hugging Face config.json."""
    metadata = header.metadata
    architecture = metadata.get("general.architecture", "")
    gguf_key_by_config_key = {
        "num_attention_heads": "attention.head_count",
        "num_key_value_heads": "attention.head_count_kv",
        "head_dim": "attention.key_length",
        "hidden_size": "embedding_length",
    }
    values = {
        config_key: metadata.get(f"{architecture}.{gguf_key}")
        for config_key, gguf_key in gguf_key_by_config_key.items()
    }
    return {"model_type": "gguf", **{name: value for name, value in values.items() if isinstance(value, int)}}


def _scale_of_adapter(header: Header) -> ScaleOf | None:
    """The scale alpha/r of a LoRA adapter, if the file states alpha."""
    alpha = header.metadata.get("adapter.lora.alpha")
    if not isinstance(alpha, int | float) or not math.isfinite(alpha):
        return None
    return lambda _, rank: float(alpha) / rank
