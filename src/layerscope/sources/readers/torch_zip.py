"""Files written by torch.save, read without torch: tensors are described first, and their values mapped on demand."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.errors import Unreadable
from layerscope.sources.layouts.torch_names import TensorInfo
from layerscope.sources.storage.dtypes import as_dtype
from layerscope.sources.storage.extents import Extent
from layerscope.sources.storage.pickle_check import MAX_PICKLE_BYTES
from layerscope.sources.storage.pickle_objects import Storage, Tensor
from layerscope.sources.storage.pickle_reader import unpickle
from layerscope.sources.storage.zip_archive import Archive

if TYPE_CHECKING:
    from layerscope.array_types import Array

HOW_FORMED = {"sparse": "sparse, read as a dense tensor", "affine": "decoded from {}: (code − zero point) · scale"}
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # the first value in files of torch.save before torch 1.6
LEGACY_START = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")  # the pickle of that value
MAX_STREAM_BYTES = 4 << 30  # of a pickle that holds its numbers
MAX_STORAGES = 1 << 20


def open_checkpoint(extent: Extent) -> TensorZip | TensorStream:
    """Open a file of torch.save: a zip since torch 1.6, a stream of pickles before."""
    return TensorZip(extent) if extent.read(0, 2) == b"PK" else TensorStream(extent)


class _Checkpoint(ABC):
    """A checkpoint: tensors that are views of storages in one file."""

    def __init__(self, extent: Extent) -> None:
        self.extent = extent
        self.content: Any = None

    @abstractmethod
    def locate_storage(self, storage: Storage) -> tuple[Extent, int]:
        """Locate a storage: an extent, and the byte in it at which the values begin."""

    def describe(self, name: str, tensor: Tensor) -> TensorInfo:
        """Describe a tensor: its shape, dtype, identity and why it cannot be read, if so."""
        fault = tensor.fault or ("expanded: it repeats the same numbers" if tensor.expanded else "")
        where = (str(self.extent.path), self.extent.start, *tensor.identity)
        how = "" if fault else HOW_FORMED.get(tensor.form, "").format(tensor.dtype)
        dtype = "float32" if how and tensor.form == "affine" else tensor.dtype
        return TensorInfo(name, tensor.shape, dtype, where, fault, how)

    def read(self, tensor: Tensor) -> Array:
        """Map the values of one tensor; a sparse tensor is made dense."""
        if tensor.form == "sparse":
            return self._make_dense(tensor)
        if tensor.form == "affine" and tensor.parts:
            return self._decode_affine(tensor)
        dtype = as_dtype(tensor.dtype)
        last = tensor.offset + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.strides, strict=True))
        if tensor.offset < 0 or min(tensor.strides, default=0) < 0:
            raise Unreadable(f"{self.extent.path}: damaged: a tensor reaches beyond its storage; save the file again")
        count = last - tensor.offset + 1 if math.prod(tensor.shape) else 0
        if tensor.storage.raw is not None:
            flat = np.frombuffer(tensor.storage.raw, dtype, count, tensor.offset * dtype.itemsize)
        else:
            extent, start = self.locate_storage(tensor.storage)
            flat = extent.array(dtype, start + tensor.offset * dtype.itemsize, (last - tensor.offset + 1,))
        strides = tuple(s * dtype.itemsize for s in tensor.strides)
        if dtype.isbuiltin == 1:
            return np.lib.stride_tricks.as_strided(flat, tensor.shape, strides, writeable=False)
        bits = flat.view(f"u{dtype.itemsize}")  # as_strided supports only NumPy's built-in types
        return np.lib.stride_tricks.as_strided(bits, tensor.shape, strides, writeable=False).view(dtype)

    def _make_dense(self, tensor: Tensor) -> Array:
        *places, values = (np.asarray(self.read(part)) for part in tensor.parts)
        indices = tuple(places[0]) if len(places) == 1 else _csr_indices(places[0], places[1])
        sizes = zip(indices, tensor.shape, strict=False)
        if len(indices) != len(tensor.shape) or any(len(x) and not 0 <= x.min() <= x.max() < n for x, n in sizes):
            raise Unreadable(
                f"{self.extent.path}: damaged: a sparse tensor has indices outside its shape; save it again"
            )
        dense = np.zeros(tensor.shape, np.result_type(values.dtype, np.float32) if values.dtype != bool else bool)
        np.add.at(dense, indices, values.astype(dense.dtype))  # entries that are stored twice add up
        return dense.astype(values.dtype)

    def _decode_affine(self, tensor: Tensor) -> Array:
        """(codes − zero point) · scale, with a scale per tensor, per entry of an axis, or per block of codes."""
        codes, *others = (np.asarray(self.read(replace(part, form="", parts=()))) for part in tensor.parts)
        scale = _spread(others[0], codes.shape, tensor.axis) if others else np.float32(tensor.scale)
        zero = _spread(others[1], codes.shape, tensor.axis) if len(others) > 1 else np.float32(tensor.zero)
        return np.asarray((codes.astype(np.float32) - zero) * scale)


def _spread(part: Array, shape: tuple[int, ...], axis: int | None) -> Array:
    """Repeat scales or zero points until each code has its own.

    :raises Unreadable: their shape does not fit the codes.
    """
    sizes = part.shape
    if axis is not None:
        sizes = tuple(len(part) if i == axis else 1 for i in range(len(shape)))
    elif part.size == 1:
        sizes = (1,) * len(shape)
    if len(sizes) != len(shape) or any(n == 0 or m % n for n, m in zip(sizes, shape, strict=True)):
        raise Unreadable(f"its scales of shape {part.shape} do not match its codes of shape {shape}")
    spread = part.astype(np.float32).reshape(sizes)
    for i, (n, m) in enumerate(zip(sizes, shape, strict=True)):
        if n not in (1, m):
            spread = np.repeat(spread, m // n, axis=i)
    return spread


def _csr_indices(rows: Array, columns: Array) -> tuple[Array, ...]:
    """Row and column of each value from the pointers to the beginnings of the rows; () if they do not fit."""
    counts = np.diff(rows)
    if len(rows) == 0 or rows[0] != 0 or counts.min(initial=0) < 0 or rows[-1] != len(columns):
        return ()
    return np.repeat(np.arange(len(counts)), counts), columns


class TensorZip(_Checkpoint):
    """A zip written by torch.save or torch.jit.save."""

    def __init__(self, extent: Extent) -> None:
        super().__init__(extent)
        self.archive = Archive(extent)
        pickle_members = [name for name in self.archive.members if name == "data.pkl" or name.endswith("/data.pkl")]
        if len(pickle_members) != 1 or pickle_members[0].count("/") > 1:
            raise Unreadable(
                f"{extent.path}: a zip that torch.save did not write: expected exactly one data.pkl, "
                f"at the top or in one folder, found {len(pickle_members)}"
            )
        self.prefix = pickle_members[0].removesuffix("data.pkl")
        byte_order_member = self.prefix + "byteorder"
        if byte_order_member in self.archive.members and self.archive.read(byte_order_member, 16) != b"little":
            raise Unreadable(f"{extent.path}: its tensors are big-endian; save them on a little-endian machine")
        member = self.archive.stored_extent(pickle_members[0])
        if member.length > MAX_PICKLE_BYTES:
            raise Unreadable(
                f"{extent.path}: its data.pkl has {member.length:,} bytes; at most {MAX_PICKLE_BYTES:,} are read"
            )
        self.content = unpickle(extent.path, member.read())

    def locate_storage(self, storage: Storage) -> tuple[Extent, int]:
        extent = self.archive.stored_extent(f"{self.prefix}data/{storage.key}")
        expected_bytes = storage.count * as_dtype(storage.dtype).itemsize
        if extent.length != expected_bytes:
            raise Unreadable(
                f"{self.extent.path}: data/{storage.key} has {extent.length:,} bytes, but its pickle states "
                f"{expected_bytes:,}; save or download the file again"
            )
        return extent, 0


class TensorStream(_Checkpoint):
    """A file of torch.save before torch 1.6: magic number, protocol, system, content, keys, then the storages.

    A file of pickle.dump has the content alone, with the numbers of each tensor in it.
    """

    def __init__(self, extent: Extent) -> None:
        super().__init__(extent)
        path = extent.path
        if extent.length > MAX_STREAM_BYTES and not extent.read(0, 32).startswith(LEGACY_START):
            raise Unreadable(
                f"{path}: a file of pickle.dump with {extent.length:,} bytes, which would be read whole "
                f"(at most {MAX_STREAM_BYTES:,}); save the state dict with torch.save or safetensors"
            )
        with extent.open() as file:
            self._storage_starts: dict[str, int] = {}
            magic = unpickle(path, file)
            if magic != LEGACY_MAGIC:  # written by pickle.dump, with the numbers inside
                self.content = magic
                return
            storages: dict[str, Storage] = {}
            _, system, self.content, keys = (unpickle(path, file, storages) for _ in range(4))
            if not isinstance(keys, list) or len(keys) > MAX_STORAGES:
                raise Unreadable(
                    f"{path}: damaged torch checkpoint: expected a list of at most {MAX_STORAGES:,} storages; "
                    "save or download it again"
                )
            if isinstance(system, dict) and system.get("little_endian") is False:
                raise Unreadable(f"{path}: its tensors are big-endian; save them on a little-endian machine")
            position = file.tell()
        for key in keys:
            count_bytes = extent.read(position, 8)
            storage = storages.get(key) if isinstance(key, str) else None
            if len(count_bytes) < 8 or storage is None:
                raise Unreadable(
                    f"{path}: truncated or damaged: a storage is missing or belongs to no tensor; "
                    "save or download the file again"
                )
            count = int.from_bytes(count_bytes, "little")
            if count != storage.count:
                raise Unreadable(
                    f"{path}: damaged: a storage holds {count:,} values, but its pickle states {storage.count:,}; "
                    "save or download the file again"
                )
            self._storage_starts[storage.key] = position + 8
            position += 8 + count * as_dtype(storage.dtype).itemsize

    def locate_storage(self, storage: Storage) -> tuple[Extent, int]:
        if storage.key not in self._storage_starts:
            raise Unreadable(
                f"{self.extent.path}: truncated or damaged: the storage of a tensor is missing; "
                "save or download the file again"
            )
        return self.extent, self._storage_starts[storage.key]
