"""Archives of torch.export (.pt2): only the weights are read; the program is never loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from layerscope.errors import Unreadable
from layerscope.sources.readers.state_dict import StateDict
from layerscope.sources.readers.torch_zip import TensorZip
from layerscope.sources.storage.dtypes import as_dtype, is_size
from layerscope.sources.storage.extents import whole_file
from layerscope.sources.storage.json_text import parse_json
from layerscope.sources.storage.paths import is_file
from layerscope.sources.storage.pickle_objects import Storage, Tensor
from layerscope.sources.storage.pickle_reader import walk_tensors
from layerscope.sources.storage.zip_archive import Archive, zip_names
from layerscope.sources.targets import make_spec

PORTABLE = True
WEIGHTS_TABLE = "data/weights/model_weights_config.json"
LEGACY_WEIGHTS = "serialized_state_dict.pt"  # written by torch before 2.8
MAX_CONFIG_BYTES = 16 << 20
DTYPE_BY_CODE = {  # torch._export.serde.schema.ScalarType
    1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float16", 7: "float32", 8: "float64",
    10: "complex64", 11: "complex128", 12: "bool", 13: "bfloat16", 28: "uint16", 29: "float8_e4m3fn",
    30: "float8_e5m2", 31: "float8_e4m3fnuz", 32: "float8_e5m2fnuz", 34: "uint32", 35: "uint64",
}  # fmt: skip


def accepts(target: Any) -> bool:
    """Accept a zip with a table of weights written by torch.export."""
    return is_file(target) and any(_is_weights_table(name) for name in zip_names(target))


def open(target: Path) -> StateDict:
    """Read the names and shapes of the weights."""
    archive = Archive(whole_file(target))
    table = next(name for name in archive.members if _is_weights_table(name))
    if table.endswith(LEGACY_WEIGHTS):
        legacy_checkpoint = TensorZip(archive.stored_extent(table))
        legacy_tensors = dict(walk_tensors(legacy_checkpoint.content, 4))
        infos = [legacy_checkpoint.describe(name, tensor) for name, tensor in legacy_tensors.items()]
        return StateDict(
            make_spec(target, "torch_export", portable=True),
            infos,
            lambda name: legacy_checkpoint.read(legacy_tensors[name]),
        )
    folder = table.removesuffix("model_weights_config.json")
    weights = _RawStorages(archive, folder)
    try:
        entries = parse_json(archive.read(table, MAX_CONFIG_BYTES))["config"]
        tensors = {str(name): _parse_tensor(entry) for name, entry in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise Unreadable(
            f"{target}: the table of weights ({WEIGHTS_TABLE}) is damaged; save the program again"
        ) from None
    if not tensors:
        raise Unreadable(f"{target}: the exported program contains no weights; export a module with parameters")
    described = [weights.describe(name, tensor) for name, tensor in tensors.items()]
    return StateDict(
        make_spec(target, "torch_export", portable=True), described, lambda name: weights.read(tensors[name])
    )


class _RawStorages(TensorZip):
    """Weights stored as raw bytes in a folder of the zip."""

    def __init__(self, archive: Archive, folder: str) -> None:
        self.extent, self.archive, self.folder = archive.extent, archive, folder

    def locate_storage(self, storage: Storage) -> tuple[Any, int]:
        return self.archive.stored_extent(self.folder + storage.key), 0


def _is_weights_table(name: str) -> bool:
    return name.endswith((WEIGHTS_TABLE, LEGACY_WEIGHTS))


def _parse_tensor(entry: Any) -> Tensor:
    metadata = entry["tensor_meta"]
    shape, strides = (tuple(_checked_size(x["as_int"]) for x in metadata[key]) for key in ("sizes", "strides"))
    dtype = DTYPE_BY_CODE.get(metadata["dtype"], f"code {metadata['dtype']}")
    fault = "" if metadata["dtype"] in DTYPE_BY_CODE else f"dtype {dtype}, not decoded"
    if entry.get("use_pickle"):
        fault = "pickled, not decoded"
    offset = _checked_size(metadata["storage_offset"]["as_int"])
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    if not fault:
        as_dtype(dtype)
    return Tensor(Storage(str(entry["path_name"]), dtype, max(last + 1, 0)), offset, shape, strides, fault)


def _checked_size(value: Any) -> int:
    if not is_size(value):
        raise ValueError("a size is not a non-negative integer")
    return int(value)
