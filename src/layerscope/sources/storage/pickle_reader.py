"""An unpickler that knows tensors and makes nothing else.

A pickle is a program. This one may call a few functions, all of them below and harmless. Any other class or function
that it names becomes a :class:`StandIn`, which remembers what it was given and does nothing. A pickle that asks for
the standard library's functions (``os.system``) was built to do harm and is refused, though it could do none here.
"""

from __future__ import annotations

import io
import math
import pickle
import sys
from _compat_pickle import IMPORT_MAPPING
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from layerscope.errors import Refused, Unreadable
from layerscope.sources.storage.dtypes import MOST_AXES
from layerscope.sources.storage.pickle_check import check_pickle

MOST_STEPS = 1 << 20  # entries that are looked at below one object
LONGEST_KEY = 1 << 12  # letters
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
    "QInt8Storage": "qint8",
    "QUInt8Storage": "quint8",
    "QInt32Storage": "qint32",
}
WIDTHS = {*STORAGES.values()}
DTYPES = {  # torch.<name>, where a pickle names a dtype instead of a storage class
    "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool", "uint16",
    "uint32", "uint64", "complex64", "complex128", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz",
}  # fmt: skip
PLAIN = ("set", "frozenset", "list", "tuple", "dict", "str", "int", "float", "complex", "bool", "bytearray", "slice")
DATA = {  # modules of the standard library whose classes only hold data
    "_codecs", "argparse", "collections", "copyreg", "dataclasses", "datetime", "decimal", "enum",
    "fractions", "functools", "numbers", "pathlib", "pathlib._local", "re", "types", "typing", "uuid", "zoneinfo",
}  # fmt: skip


class Fixed:
    """What a pickle may make and not change."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise ValueError("a pickle that changes what it has made")


@dataclass(frozen=True)
class Storage(Fixed):
    """A stretch of numbers in the file."""

    key: str
    dtype: str
    count: int


@dataclass(frozen=True)
class Tensor(Fixed):
    """A tensor as its pickle describes it."""

    storage: Storage
    offset: int  # entries
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # entries
    fault: str = ""  # why it cannot be read as numbers
    wanted: str = ""  # dtype, where its storage is untyped bytes

    @property
    def dtype(self) -> str:
        """numpy-style name."""
        return self.wanted or self.storage.dtype

    @property
    def expanded(self) -> bool:
        """Does it show the same numbers more than once?"""
        return math.prod(self.shape) > self.storage.count // (_width(self.wanted) if self.wanted else 1)

    @property
    def identity(self) -> tuple[Any, ...]:
        """Equal for tensors that are the same memory in the same shape."""
        return (self.storage.key, self.offset, self.shape, self.strides)


class StandIn:
    """What an object of an unknown class becomes: its class's name and what it was given."""

    kind = ""  # "module.Class"

    def __new__(cls, *args: Any, **named: Any) -> StandIn:  # noqa: ARG004
        made = super().__new__(cls)
        made.args = args
        made.state = {}
        made.items = {}
        return made

    args: tuple[Any, ...]
    state: Mapping[Any, Any]
    rest: Any = None  # a state that is no table
    items: dict[Any, Any]  # of a class that is itself a table

    def __init__(self, *args: Any, **named: Any) -> None:
        """Whatever it was made with is in ``args``."""

    def __call__(self, *args: Any) -> StandIn:
        return StandIn(*args)

    def __setstate__(self, state: Any) -> None:
        """The last state counts; what is kept is what the pickle gave, not a copy."""
        if isinstance(state, tuple) and len(state) == 2 and any(isinstance(part, Mapping) for part in state):
            state = next(part for part in state if isinstance(part, Mapping) and part) if any(state) else {}
        if isinstance(state, Mapping):
            self.state = state
        else:
            self.rest = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items[key] = value

    def append(self, value: Any) -> None:
        """Lists may grow."""
        self.items[len(self.items)] = value

    def extend(self, values: Any) -> None:
        """Lists may grow."""
        self.items[len(self.items)] = values  # as it is: copies of copies have no end

    def add(self, value: Any) -> None:
        """Sets may grow."""
        self.append(value)

    def parts(self) -> Mapping[Any, Any]:
        """What it holds, under the names it would be reached by: a module's parameters, buffers and children."""
        own = ("_parameters", "_buffers", "_modules")
        if not any(isinstance(self.state.get(name), Mapping) for name in own):
            return {**self.items, **self.state}
        tables = [table for name in own if isinstance(table := self.state.get(name), Mapping)]
        return {key: value for table in tables for key, value in table.items()}


class Table(OrderedDict[Any, Any]):
    """An OrderedDict that a pickle may fill and not otherwise change."""

    def __setstate__(self, state: Any) -> None:
        """State dicts carry version numbers as an attribute; nothing here needs them."""


def unpickle(where: Any, raw: bytes | BinaryIO, storages: dict[str, Storage] | None = None) -> Any:
    """What one pickle describes; a file object is left after its end. ``storages`` gathers those that it names.

    :raises Refused: it asks for what could run code.
    :raises Unreadable: damaged, or built to exhaust its reader.
    """
    try:
        if isinstance(raw, bytes):
            check_pickle(raw)
            return _Unpickler(io.BytesIO(raw), storages).load()
        at = raw.tell()
        check_pickle(raw)
        raw.seek(at)
        return _Unpickler(raw, storages).load()
    except Refused as refused:
        raise Refused(f"{where}: {refused}") from None
    except MemoryError:
        raise Unreadable(f"{where}: the pickle asks for more memory than there is") from None
    except Exception as error:
        raise Unreadable(f"{where}: damaged pickle: {type(error).__name__}: {str(error)[:200]}") from None


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO, storages: dict[str, Storage] | None) -> None:
        super().__init__(file, encoding="latin1")  # Python 2's strings
        self.storages = {} if storages is None else storages
        self.made: dict[tuple[str, str], type[StandIn]] = {}
        self.table, self.copied = Call(self._table), 0

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in KNOWN:
            return KNOWN[module, name]
        if (module, name) == ("collections", "OrderedDict"):
            return self.table
        if module in ("torch", "torch.storage") and name in STORAGES:
            return STORAGES[name]
        if module == "torch" and name in DTYPES:
            return name
        today = IMPORT_MAPPING.get(module, module)  # Python 2's names of modules
        harmless = today in DATA or (today == "builtins" and name in PLAIN)
        if today.partition(".")[0] in sys.stdlib_module_names and not harmless:
            raise Refused(
                f"its pickle asks for {module}.{name}; only tensors are read, nothing is executed. "
                "Save model.state_dict(), or convert to safetensors"
            )
        if (module, name) not in self.made:
            self.made[module, name] = type("StandIn", (StandIn,), {"kind": f"{module}.{name}"})
        return self.made[module, name]

    def _table(self, *args: Any) -> Table:
        """An OrderedDict; what it is made from is a copy, and copies of copies have no end."""
        given = args[0] if args else ()
        if not isinstance(given, Mapping | list | tuple):
            raise ValueError("a table made from something else")
        self.copied += len(given)
        if self.copied > MOST_STEPS:
            raise ValueError("tables copied beyond any use")
        return Table(given)

    def persistent_load(self, pid: Any) -> Any:
        if not isinstance(pid, tuple) or len(pid) < 2:
            raise ValueError("an unknown persistent id")
        if pid[0] == "module":  # before 1.6 a module's class came with its source code, which is not looked at
            return pid[1]
        kind, dtype, key, _, count = pid[:5]
        dtype = getattr(dtype, "kind", dtype)
        plain = isinstance(dtype, str) and isinstance(key, str) and isinstance(count, int)
        if kind != "storage" or not plain or count < 0 or dtype not in WIDTHS:
            raise ValueError("an unknown persistent id")
        if len(pid) > 5 and pid[5] is not None:
            raise ValueError("a storage that is a view of another, as torch before 0.4 wrote it")
        return self.storages.setdefault(key, Storage(key, dtype, count))


def _rebuild_tensor(storage: Storage, offset: int, shape: Any, strides: Any, *_: Any) -> Tensor:
    shape, strides = tuple(shape), tuple(strides)
    sizes = [offset, *shape, *strides]
    possible = isinstance(storage, Storage) and len(shape) == len(strides) <= MOST_AXES
    if not possible or not all(isinstance(x, int) and 0 <= x < 1 << 62 for x in sizes):
        raise ValueError("a tensor with impossible sizes")
    if math.prod(shape) and offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) >= storage.count:
        raise ValueError("a tensor larger than its storage")
    return Tensor(storage, offset, shape, strides)


def _rebuild_v3(storage: Storage, offset: int, shape: Any, strides: Any, *rest: Any) -> Tensor:
    """A tensor of a dtype without a storage class; its storage counts bytes."""
    wanted = next((x for x in rest if isinstance(x, str) and x in DTYPES), "")
    if not isinstance(storage, Storage) or not wanted:
        raise ValueError("a tensor of an unknown dtype")
    narrow = Storage(storage.key, storage.dtype, storage.count // _width(wanted))
    made = _rebuild_tensor(narrow, offset, shape, strides)
    return Tensor(storage, made.offset, made.shape, made.strides, wanted=wanted)


def _width(dtype: str) -> int:
    digits = "".join(c for c in dtype.partition("_")[0] if c.isdigit())
    return max(1, int(digits or 8) // 8)


def _rebuild_quantised(storage: Storage, offset: int, shape: Any, strides: Any, *_: Any) -> Tensor:
    made = _rebuild_tensor(storage, offset, shape, strides)
    return Tensor(made.storage, made.offset, made.shape, made.strides, "quantised with torch.quantization, not decoded")


def _rebuild_parameter(data: Any, *_: Any) -> Any:
    return data


def _rebuild_subclass(function: Any, kind: Any, args: Any, *_: Any) -> Any:
    """A tensor of a subclass: the tensor that it is made from."""
    return function(*args) if isinstance(function, Call) and isinstance(args, tuple) else StandIn()


def _size(sizes: Any = ()) -> tuple[Any, ...]:
    plain = isinstance(sizes, tuple | list) and len(sizes) <= MOST_AXES
    if not plain or not all(isinstance(size, int) for size in sizes):
        raise ValueError("sizes that are none")
    return tuple(sizes)


def _short(key: str | int) -> bool:
    return len(key) <= LONGEST_KEY if isinstance(key, str) else abs(key) < 1 << 62


def _nothing(*_: Any) -> None:
    return None


class Call(Fixed):
    """A function that a pickle may call: an object, so that it has no attributes to set."""

    __slots__ = ("function",)
    function: Any

    def __init__(self, function: Any) -> None:
        object.__setattr__(self, "function", function)

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)

    def __setattr__(self, name: str, value: Any) -> None:
        raise ValueError("a pickle that changes what it has made")


REBUILD = {name: Call(function) for name, function in {
    "_rebuild_tensor": _rebuild_tensor, "_rebuild_tensor_v2": _rebuild_tensor, "_rebuild_tensor_v3": _rebuild_v3,
    "_rebuild_qtensor": _rebuild_quantised, "_rebuild_parameter": _rebuild_parameter,
    "_rebuild_parameter_with_state": _rebuild_parameter,
}.items()}  # fmt: skip
KNOWN: dict[tuple[str, str], Any] = {
    **{("torch._utils", name): call for name, call in REBUILD.items()},
    ("torch._tensor", "_rebuild_from_type_v2"): Call(_rebuild_subclass),
    ("torch", "Size"): Call(_size),
    ("torch", "device"): Call(_nothing),
    ("torch.serialization", "_get_layout"): Call(_nothing),
    ("torch.storage", "UntypedStorage"): "uint8",
}


def walk(content: Any, deepest: int) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of everything below, keys joined by dots; an optimiser is left out.

    What several names lead to is followed from each, unless it leads to itself, for as long as that ends.

    :raises ValueError: it does not, within ``MOST_STEPS``.
    """
    steps = 0
    waiting: list[tuple[str, Any, tuple[int, ...]]] = [("", content, ())]
    while waiting:
        prefix, value, above = waiting.pop()
        if isinstance(value, Tensor):
            yield prefix.removesuffix("."), value
            continue
        table = value.parts() if isinstance(value, StandIn) else value
        items = list(enumerate(table)) if isinstance(table, list | tuple) else table
        items = list(items.items()) if isinstance(items, Mapping) else items
        if not isinstance(items, list) or len(above) > deepest or id(value) in above:
            continue
        steps += len(items) * (1 + len(prefix) // 64)
        if steps > MOST_STEPS:
            raise ValueError(f"more than {MOST_STEPS:,} entries")
        inner = (*above, id(value))
        for key, entry in reversed(items):
            if not isinstance(key, str | int) or not _short(key):
                continue
            if isinstance(entry, Tensor) or not str(key).startswith("optim"):
                waiting.append((f"{prefix}{key}.", entry, inner))
