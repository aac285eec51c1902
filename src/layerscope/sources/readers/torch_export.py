"""Archives of torch.export (.pt2): the weights in them; the program is never loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerscope.errors import Unreadable
from layerscope.sources.readers.state_dict import StateDict
from layerscope.sources.readers.torch_zip import TensorZip
from layerscope.sources.storage.dtypes import as_dtype
from layerscope.sources.storage.extents import whole
from layerscope.sources.storage.json_text import parse
from layerscope.sources.storage.paths import is_file
from layerscope.sources.storage.pickle_reader import Storage, Tensor, walk
from layerscope.sources.storage.zip_archive import Archive, zip_names
from layerscope.sources.targets import spec

if TYPE_CHECKING:
    from layerscope.array_types import Array

PORTABLE = True
CONFIG = "data/weights/model_weights_config.json"
OLD = "serialized_state_dict.pt"  # of torch before 2.8
LONGEST = 16 << 20  # bytes of configuration
CODES = {  # torch._export.serde.schema.ScalarType
    1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float16", 7: "float32", 8: "float64",
    10: "complex64", 11: "complex128", 12: "bool", 13: "bfloat16", 28: "uint16", 29: "float8_e4m3fn",
    30: "float8_e5m2", 31: "float8_e4m3fnuz", 32: "float8_e5m2fnuz", 34: "uint32", 35: "uint64",
}  # fmt: skip


def accepts(target: Any) -> bool:
    """A zip with a table of weights as torch.export writes it."""
    return is_file(target) and any(_is_table(name) for name in zip_names(target))


def open(target: Path) -> StateDict:
    """Read names and shapes."""
    archive = Archive(whole(target))
    table = next(name for name in archive.members if _is_table(name))
    if table.endswith(OLD):
        inner = TensorZip(archive.stored(table))
        found = dict(walk(inner.content, 4))
        infos = [inner.describe(name, tensor) for name, tensor in found.items()]
        return StateDict(spec(target, "torch_export", portable=True), infos, lambda name: inner.read(found[name]))
    folder = table.removesuffix("model_weights_config.json")
    weights = _Weights(archive, folder)
    try:
        entries = parse(archive.read(table, LONGEST))["config"]
        tensors = {str(name): _tensor(entry) for name, entry in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise Unreadable(f"{target}: its table of weights is damaged") from None
    if not tensors:
        raise Unreadable(f"{target}: an exported program without weights")
    described = [weights.describe(name, tensor) for name, tensor in tensors.items()]
    return StateDict(spec(target, "torch_export", portable=True), described, lambda name: _read(weights, tensors[name]))


class _Weights(TensorZip):
    """Raw storages in a folder of the zip."""

    def __init__(self, archive: Archive, folder: str) -> None:
        self.extent, self.archive, self.folder = archive.extent, archive, folder

    def place(self, storage: Storage) -> tuple[Any, int]:
        return self.archive.stored(self.folder + storage.key), 0


def _read(weights: _Weights, tensor: Tensor) -> Array:
    return weights.read(tensor)


def _is_table(name: str) -> bool:
    return name.endswith((CONFIG, OLD))


def _tensor(entry: Any) -> Tensor:
    meta = entry["tensor_meta"]
    shape, strides = (tuple(_count(x["as_int"]) for x in meta[key]) for key in ("sizes", "strides"))
    dtype = CODES.get(meta["dtype"], f"code {meta['dtype']}")
    fault = "pickled" if entry.get("use_pickle") else "" if meta["dtype"] in CODES else f"dtype {dtype}, not decoded"
    offset = _count(meta["storage_offset"]["as_int"])
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    if not fault:
        as_dtype(dtype)
    return Tensor(Storage(str(entry["path_name"]), dtype, max(last + 1, 0)), offset, shape, strides, fault)


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 62:
        raise ValueError("no size")
    return value
