"""NumPy .npz files, read one array at a time without unpickling, and .npy files, memory-mapped."""

from __future__ import annotations

import math
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.errors import Refused, Unreadable
from layerscope.sources.layouts.torch_names import TensorInfo
from layerscope.sources.readers.state_dict import StateDict
from layerscope.sources.storage.dtypes import MAX_AXES, as_dtype
from layerscope.sources.storage.extents import whole_file
from layerscope.sources.storage.paths import is_file
from layerscope.sources.storage.zip_archive import Archive, zip_names
from layerscope.sources.targets import make_spec

if TYPE_CHECKING:
    from layerscope.array_types import Array

PORTABLE = True
MAGIC = b"\x93NUMPY"
NPZ_ERRORS = (zipfile.BadZipFile, zlib.error, tokenize.TokenError, OSError, ValueError, EOFError, RuntimeError)


def accepts(target: Any) -> bool:
    """Accept a .npz or .npy file, or a zip that contains only .npy files."""
    if not is_file(target):
        return False
    if target.suffix == ".npz" or whole_file(target).read(0, 6) == MAGIC:
        return True
    names = zip_names(target)
    return bool(names) and all(name.endswith(".npy") for name in names)


def open(target: Path) -> StateDict:
    """Read the header of every member."""
    if whole_file(target).read(0, 6) == MAGIC:
        return _open_npy(target)
    try:
        archive = Archive(whole_file(target))
        tensors = [_describe_member(archive, name) for name in archive.members if name.endswith(".npy")]
    except NPZ_ERRORS as error:
        raise Unreadable(f"{target}: damaged or truncated .npz file: {error}; save or copy it again") from None
    if not tensors:
        raise Unreadable(f"{target}: the .npz file contains no arrays; save arrays with numpy.savez")

    def fetch(name: str) -> Array:
        try:
            with archive.open(f"{name}.npy") as member:
                array: Array = np.lib.format.read_array(member, allow_pickle=False)
                return array.view(as_dtype("bfloat16")) if _is_bfloat16(array.dtype) else array
        except NPZ_ERRORS as error:
            raise Unreadable(f"{target}: damaged or truncated .npz file: {error}; save or copy it again") from None

    return StateDict(make_spec(target, "npz", portable=True), tensors, fetch)


def _open_npy(target: Path) -> StateDict:
    """Open a .npy file: one array, named after the file."""
    extent = whole_file(target)
    try:
        with extent.open() as file:
            shape, is_fortran, dtype = _read_npy_header(file)
            start = file.tell()
    except NPZ_ERRORS as error:
        raise Unreadable(f"{target}: damaged or truncated .npy file: {error}; save or copy it again") from None
    if dtype.hasobject:
        raise Refused(f"{target}: holds pickled objects, which are never loaded; save arrays of numbers")
    if len(shape) > MAX_AXES or min(shape, default=0) < 0 or start + dtype.itemsize * math.prod(shape) != extent.length:
        raise Unreadable(
            f"{target}: claims shape {str(shape)[:80]} of dtype {dtype}, but holds {extent.length - start:,} bytes "
            "of values; save it again"
        )

    def fetch(name: str) -> Array:
        stored = extent.array(dtype, start, shape[::-1] if is_fortran else shape)
        return stored.T if is_fortran else stored

    return StateDict(make_spec(target, "npz", portable=True), [TensorInfo(target.stem, shape, dtype.name)], fetch)


def _read_npy_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read an .npy header: the shape, whether the array is in Fortran order, and the dtype."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"version {version} of the .npy format, but only (1, 0) and (2, 0) are supported")
    read_array_header = (
        np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    )
    shape, fortran, dtype = read_array_header(file)
    return tuple(shape), bool(fortran), dtype


def _describe_member(archive: Archive, name: str) -> TensorInfo:
    info = archive.members[name]
    with archive.open(name) as member:
        shape, _, dtype = _read_npy_header(member)
        if dtype.hasobject:
            path = archive.extent.path
            raise Refused(f"{path}: {name} holds pickled objects, which are never loaded; save arrays of numbers")
        size = dtype.itemsize * math.prod(shape) if len(shape) <= MAX_AXES and min(shape, default=0) >= 0 else -1
        if member.tell() + size != info.file_size:
            raise ValueError(
                f"{info.filename} claims shape {str(shape)[:80]} of dtype {dtype}, but holds "
                f"{info.file_size - member.tell():,} bytes of values"
            )
    name = info.filename.removesuffix(".npy")
    if _is_bfloat16(dtype):
        return TensorInfo(name, shape, "bfloat16", how="two bytes without a dtype, read as bfloat16")
    return TensorInfo(name, shape, dtype.name)


def _is_bfloat16(dtype: np.dtype[Any]) -> bool:
    """Is it the dtype under which NumPy stores bfloat16: two bytes of no type?"""
    return dtype.kind == "V" and dtype.itemsize == 2 and dtype.names is None
