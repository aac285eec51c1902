"""torch.save's zip files without torch: an unpickler that knows tensors and nothing else.

A pickle is a program. This one may call four functions, all of them ours and harmless; any other name in it ends the
reading. Storages are described, never loaded: the numbers stay in the zip, where they lie uncompressed.
"""

from __future__ import annotations

import io
import math
import pickle
import struct
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.errors import Refused, Unreadable
from layerscope.sources._header import MOST_AXES
from layerscope.sources._pickle import LONGEST, check_pickle
from layerscope.sources.safetensors import as_dtype

if TYPE_CHECKING:
    from layerscope.types import Array

STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}
DTYPES = {  # torch.<name>, where a pickle names a dtype instead of a storage class
    "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool",
    "float8_e4m3fn", "float8_e5m2",
}  # fmt: skip
HARMLESS = {("torch", "Size"), ("torch", "device"), ("torch.serialization", "_get_layout"), ("collections", "Counter")}


@dataclass(frozen=True)
class Storage:
    """A stretch of numbers in the file."""

    key: str
    dtype: str
    count: int


@dataclass(frozen=True)
class Tensor:
    """A tensor as its pickle describes it."""

    storage: Storage
    offset: int  # entries
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # entries

    @property
    def dtype(self) -> str:
        """numpy-style name."""
        return self.storage.dtype

    def __setstate__(self, state: Any) -> None:
        raise ValueError("a pickle that changes a tensor after it is made")

    @property
    def expanded(self) -> bool:
        """Does it show the same numbers more than once?"""
        return math.prod(self.shape) > self.storage.count

    @property
    def identity(self) -> tuple[Any, ...]:
        """Equal for tensors that are the same memory in the same shape."""
        return (self.storage.key, self.offset, self.shape, self.strides)


class TensorZip:
    """A zip written by torch.save, opened."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with zipfile.ZipFile(path) as archive:
                self.members = {info.filename: info for info in archive.infolist()}
                self.prefix = _prefix(path, self.members)
                info = self.members[self.prefix + "data.pkl"]
                order = self.members.get(self.prefix + "byteorder")
                if order is not None and _member(path, archive, order, 16) != b"little":
                    raise Unreadable(f"{path}: big-endian tensors are not supported")
                self.content = _unpickle(path, _member(path, archive, info, LONGEST))
        except (zipfile.BadZipFile, EOFError, OSError, struct.error, NotImplementedError, RuntimeError) as error:
            raise Unreadable(f"{path}: damaged or truncated zip: {error}") from None

    def read(self, tensor: Tensor) -> Array:
        """Map one tensor's numbers."""
        storage = tensor.storage
        name = f"{self.prefix}data/{storage.key}"
        dtype = as_dtype(storage.dtype)
        last = tensor.offset + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.strides, strict=True))
        info = self.members.get(name)
        if info is None:
            raise Unreadable(f"{self.path}: {name} is missing")
        if info.compress_type != zipfile.ZIP_STORED:
            raise Unreadable(f"{self.path}: {name} is compressed, which torch.save never does")
        if tensor.offset < 0 or min(tensor.strides, default=0) < 0 or (last + 1) * dtype.itemsize > info.file_size:
            raise Unreadable(f"{self.path}: a tensor reaches beyond {name}")
        with self.path.open("rb") as file:
            file.seek(info.header_offset)
            header = file.read(30)
        name_length, extra_length = struct.unpack("<HH", header[26:30])
        start = info.header_offset + 30 + name_length + extra_length
        if start + info.file_size > self.path.stat().st_size:
            raise Unreadable(f"{self.path}: truncated")
        flat = np.memmap(self.path, dtype=dtype, mode="r", offset=start, shape=(info.file_size // dtype.itemsize,))
        strides = tuple(s * dtype.itemsize for s in tensor.strides)
        return np.lib.stride_tricks.as_strided(flat[tensor.offset :], tensor.shape, strides, writeable=False)


def _member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, longest: int) -> bytes:
    """A member as it lies in the file: torch.save compresses nothing, so that nothing can be larger than the file."""
    if info.compress_type != zipfile.ZIP_STORED or info.file_size > longest:
        raise Unreadable(f"{path}: {info.filename} is compressed or too long, which torch.save never makes it")
    return archive.read(info)


def _prefix(path: Path, members: dict[str, zipfile.ZipInfo]) -> str:
    found = [name for name in members if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(found) != 1 or found[0].count("/") > 1:
        raise Unreadable(f"{path}: a zip without one data.pkl was not written by torch.save")
    if f"{found[0].removesuffix('data.pkl')}constants.pkl" in members:
        raise Unreadable(f"{path}: a TorchScript archive; save its state_dict")
    return found[0].removesuffix("data.pkl")


def _unpickle(path: Path, raw: bytes) -> Any:
    try:
        check_pickle(raw)
        return _Unpickler(io.BytesIO(raw)).load()
    except Refused as refused:
        raise Refused(f"{path}: {refused}") from None
    except MemoryError:
        raise Unreadable(f"{path}: the pickle asks for more memory than there is") from None
    except Exception as error:
        raise Unreadable(f"{path}: damaged pickle: {type(error).__name__}: {error}") from None


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in (("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_tensor")):
            return _rebuild_tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _rebuild_parameter
        if (module, name) == ("collections", "OrderedDict"):
            return _Table
        if module in ("torch", "torch.storage") and name in STORAGES:
            return STORAGES[name]
        if module == "torch" and name in DTYPES:
            return name
        if (module, name) == ("torch.storage", "UntypedStorage"):
            return "uint8"
        if (module, name) in HARMLESS:
            return _nothing
        raise Refused(
            f"its pickle asks for {module}.{name}; only tensors are read, nothing is executed. "
            "Save model.state_dict(), or convert to safetensors"
        )

    def persistent_load(self, pid: Any) -> Storage:
        kind, dtype, key, _, count = pid
        if kind != "storage" or not isinstance(dtype, str) or not isinstance(key, str) or not isinstance(count, int):
            raise ValueError(f"unknown persistent id {pid!r}")
        return Storage(key, dtype, count)


class _Table(OrderedDict[Any, Any]):
    """An OrderedDict that a pickle may fill and not otherwise change."""

    def __setstate__(self, state: Any) -> None:
        """State dicts carry version numbers as an attribute; nothing here needs them."""


def _rebuild_tensor(storage: Storage, offset: int, shape: Any, strides: Any, *_: Any) -> Tensor:
    shape, strides = tuple(shape), tuple(strides)
    sizes = [offset, *shape, *strides]
    possible = isinstance(storage, Storage) and len(shape) == len(strides) <= MOST_AXES
    if not possible or not all(isinstance(x, int) and 0 <= x < 1 << 62 for x in sizes):
        raise ValueError("a tensor with impossible sizes")
    if math.prod(shape) and offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) >= storage.count:
        raise ValueError("a tensor larger than its storage")
    return Tensor(storage, offset, shape, strides)


def _rebuild_parameter(data: Tensor, *_: Any) -> Tensor:
    return data


def _nothing(*_: Any) -> None:
    return None
