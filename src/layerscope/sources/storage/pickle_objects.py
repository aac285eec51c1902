"""What the objects in a pickle become: tensors and storages as their sizes, and stand-ins for all other classes."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

DTYPE_BY_STORAGE_CLASS = {
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
    "QInt8Storage": "int8",
    "QUInt8Storage": "uint8",
    "QInt32Storage": "int32",
}
STORAGE_DTYPES = {*DTYPE_BY_STORAGE_CLASS.values()}
TORCH_DTYPES = {  # torch.<name>, if a pickle names a dtype instead of a storage class
    "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool", "uint16",
    "uint32", "uint64", "complex64", "complex128", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz",
}  # fmt: skip


class Immutable:
    """Base of objects that a pickle may create but not modify."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise ValueError("the pickle modifies a read-only object")


@dataclass(frozen=True)
class Storage(Immutable):
    """A block of numbers in the file."""

    key: str
    dtype: str
    count: int
    raw: bytes | None = field(default=None, repr=False, compare=False)  # the numbers, where the pickle holds them


@dataclass(frozen=True)
class Tensor(Immutable):
    """A tensor as its pickle describes it."""

    storage: Storage
    offset: int  # entries
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # entries
    fault: str = ""  # why it cannot be read as numbers
    dtype_override: str = ""  # dtype, if its storage is untyped bytes
    form: str = ""  # "sparse" or "affine": how it is formed from its parts
    parts: tuple[Tensor, ...] = ()
    # sparse: indices (COO), or row pointers and columns (CSR), and values; affine: codes, scales, zero points
    scale: float = 1.0  # of all codes of an affine tensor, beside the scales in its parts
    zero: float = 0.0
    axis: int | None = None  # along which scales in a vector belong to the codes

    @property
    def dtype(self) -> str:
        """The numpy-style name of its dtype."""
        return self.dtype_override or self.storage.dtype

    @property
    def expanded(self) -> bool:
        """Whether it repeats numbers, i.e. has more entries than its storage."""
        if self.form:
            return False
        width = bytes_per_entry(self.dtype_override) if self.dtype_override else 1
        return math.prod(self.shape) > self.storage.count // width

    @property
    def identity(self) -> tuple[Any, ...]:
        """A key that is equal for tensors with the same memory and shape."""
        return (self.storage.key, self.offset, self.shape, self.strides, tuple(part.identity for part in self.parts))


class StandIn:
    """A placeholder for an object of an unknown class; it stores the class name, arguments and state."""

    kind = ""  # "module.Class"

    def __new__(cls, *args: Any, **keywords: Any) -> StandIn:  # noqa: ARG004
        instance = super().__new__(cls)
        instance.args = args
        instance.state = {}
        instance.items = {}
        return instance

    args: tuple[Any, ...]
    state: Mapping[Any, Any]
    other_state: Any = None  # a state that is not a mapping
    items: dict[Any, Any]  # entries of a class that is itself a mapping or a list

    def __init__(self, *args: Any, **keywords: Any) -> None:
        """Ignore the arguments, which ``__new__`` stores in ``args``."""

    def __call__(self, *args: Any) -> StandIn:
        return StandIn(*args)

    def __setstate__(self, state: Any) -> None:
        """Store the state without copying it; a later state replaces an earlier one."""
        if isinstance(state, tuple) and len(state) == 2 and any(isinstance(part, Mapping) for part in state):
            state = next(part for part in state if isinstance(part, Mapping) and part) if any(state) else {}
        if isinstance(state, Mapping):
            self.state = state
        else:
            self.other_state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items[key] = value

    def append(self, value: Any) -> None:
        """Store one more value, as a list does."""
        self.items[len(self.items)] = value

    def extend(self, values: Any) -> None:
        """Store a group of values as one entry."""
        self.items[len(self.items)] = values  # not copied: repeated copies could grow without limit

    def add(self, value: Any) -> None:
        """Store one more value, as a set does."""
        self.append(value)

    def parts(self) -> Mapping[Any, Any]:
        """Return its contents by name: of a module the parameters, buffers and children, else all items and state."""
        module_tables = ("_parameters", "_buffers", "_modules")
        if not any(isinstance(self.state.get(name), Mapping) for name in module_tables):
            return {**self.items, **self.state}
        tables = [table for name in module_tables if isinstance(table := self.state.get(name), Mapping)]
        return {key: value for table in tables for key, value in table.items()}


class Table(OrderedDict[Any, Any]):
    """An OrderedDict that a pickle may fill but not modify otherwise."""

    def __setstate__(self, state: Any) -> None:
        """Ignore the state: state dicts store version numbers there, which are not needed."""


def bytes_per_entry(dtype: str) -> int:
    digits = "".join(c for c in dtype.partition("_")[0] if c.isdigit())
    return max(1, int(digits or 8) // 8)
