"""NumPy .npz files, read without pickles, one array at a time; .npy files, mapped."""

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
from layerscope.sources.storage.dtypes import MAX_AXES
from layerscope.sources.storage.extents import whole_file
from layerscope.sources.storage.paths import is_file
from layerscope.sources.storage.zip_archive import Archive, open_zip, zip_names
from layerscope.sources.targets import make_spec

if TYPE_CHECKING:
    from layerscope.array_types import Array

PORTABLE = True
MAGIC = b"\x93NUMPY"
NPZ_ERRORS = (zipfile.BadZipFile, zlib.error, tokenize.TokenError, OSError, ValueError, EOFError, RuntimeError)


def accepts(target: Any) -> bool:
    """A zip whose members are all .npy files, or a file called .npz."""
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
        members = {name: info for name, info in Archive(whole_file(target)).members.items() if name.endswith(".npy")}
        with open_zip(whole_file(target)) as archive:
            tensors = [_describe_member(archive, info, target) for info in members.values()]
    except NPZ_ERRORS as error:
        raise Unreadable(f"{target}: damaged or truncated npz: {error}") from None
    if not tensors:
        raise Unreadable(f"{target}: holds no arrays")

    def fetch(name: str) -> Array:
        try:
            with open_zip(whole_file(target)) as archive, archive.open(members[f"{name}.npy"]) as member:
                array: Array = np.lib.format.read_array(member, allow_pickle=False)
                return array
        except NPZ_ERRORS as error:
            raise Unreadable(f"{target}: damaged or truncated npz: {error}") from None

    return StateDict(make_spec(target, "npz", portable=True), tensors, fetch)


def _open_npy(target: Path) -> StateDict:
    """A .npy file: one array, called by the file's name."""
    extent = whole_file(target)
    try:
        with extent.open() as file:
            shape, is_fortran, dtype = _read_npy_header(file)
            start = file.tell()
    except NPZ_ERRORS as error:
        raise Unreadable(f"{target}: damaged or truncated npy: {error}") from None
    if dtype.hasobject:
        raise Refused(f"{target}: holds pickled objects; only numbers are read")
    if len(shape) > MAX_AXES or min(shape, default=0) < 0 or start + dtype.itemsize * math.prod(shape) != extent.length:
        raise Unreadable(f"{target}: claims {str(shape)[:80]} of {dtype}, which is not what it holds")

    def fetch(name: str) -> Array:
        stored = extent.array(dtype, start, shape[::-1] if is_fortran else shape)
        return stored.T if is_fortran else stored

    return StateDict(make_spec(target, "npz", portable=True), [TensorInfo(target.stem, shape, dtype.name)], fetch)


def _read_npy_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """(shape, is it in Fortran's order?, dtype) as an .npy header has them."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"npy version {version}")
    read_array_header = (
        np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    )
    shape, fortran, dtype = read_array_header(file)
    return tuple(shape), bool(fortran), dtype


def _describe_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> TensorInfo:
    with archive.open(info) as member:
        shape, _, dtype = _read_npy_header(member)
        if dtype.hasobject:
            raise Refused(f"{path}: {info.filename} holds pickled objects; only numbers are read")
        size = dtype.itemsize * math.prod(shape) if len(shape) <= MAX_AXES and min(shape, default=0) >= 0 else -1
        if member.tell() + size != info.file_size:
            raise ValueError(f"{info.filename} claims {str(shape)[:80]} of {dtype}, which is not what it holds")
    return TensorInfo(info.filename.removesuffix(".npy"), shape, dtype.name)
