"""An unpickler that creates only tensors and plain data, and runs no code from the file.

A pickle is a program. Here it may call only a few harmless functions, all listed below. Any other class or function
that it names becomes a :class:`StandIn`, which stores its arguments and does nothing. A pickle that asks for
functions of the standard library (e.g. ``os.system``) is malicious and is refused, although it could do no harm here.
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
from layerscope.sources.inventory import TORCH_OPTIMIZER_PREFIX, is_optimizer_table
from layerscope.sources.storage.dtypes import MAX_AXES
from layerscope.sources.storage.pickle_check import check_pickle

MAX_ENTRIES = 1 << 20  # visited below one object
MAX_KEY_CHARS = 1 << 12  # entries with longer keys are skipped
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
    "QInt8Storage": "qint8",
    "QUInt8Storage": "quint8",
    "QInt32Storage": "qint32",
}
STORAGE_DTYPES = {*DTYPE_BY_STORAGE_CLASS.values()}
TORCH_DTYPES = {  # torch.<name>, if a pickle names a dtype instead of a storage class
    "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool", "uint16",
    "uint32", "uint64", "complex64", "complex128", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz",
}  # fmt: skip
PLAIN_BUILTINS = (
    "set", "frozenset", "list", "tuple", "dict", "str", "int", "float", "complex", "bool", "bytearray", "slice",
)  # fmt: skip
DATA_MODULES = {  # standard-library modules with classes that only hold data
    "_codecs", "argparse", "collections", "copyreg", "dataclasses", "datetime", "decimal", "enum",
    "fractions", "functools", "numbers", "pathlib", "pathlib._local", "re", "types", "typing", "uuid", "zoneinfo",
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


@dataclass(frozen=True)
class Tensor(Immutable):
    """A tensor as its pickle describes it."""

    storage: Storage
    offset: int  # entries
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # entries
    fault: str = ""  # why it cannot be read as numbers
    dtype_override: str = ""  # dtype, if its storage is untyped bytes

    @property
    def dtype(self) -> str:
        """The numpy-style name of its dtype."""
        return self.dtype_override or self.storage.dtype

    @property
    def expanded(self) -> bool:
        """Whether it repeats numbers, i.e. has more entries than its storage."""
        width = _bytes_per_entry(self.dtype_override) if self.dtype_override else 1
        return math.prod(self.shape) > self.storage.count // width

    @property
    def identity(self) -> tuple[Any, ...]:
        """A key that is equal for tensors with the same memory and shape."""
        return (self.storage.key, self.offset, self.shape, self.strides)


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


def unpickle(where: Any, raw: bytes | BinaryIO, storages: dict[str, Storage] | None = None) -> Any:
    """Return the content of one pickle.

    :param raw: the pickle, or a file object, which is left at the end of the pickle.
    :param storages: collects the storages that the pickle names.
    :raises Refused: the pickle asks for a function that could run code.
    :raises Unreadable: the pickle is damaged, or built to exhaust its reader.
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
        raise Unreadable(f"{where}: the pickle asks for more memory than is available") from None
    except Exception as error:
        raise Unreadable(f"{where}: damaged pickle: {type(error).__name__}: {str(error)[:200]}") from None


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO, storages: dict[str, Storage] | None) -> None:
        super().__init__(file, encoding="latin1")  # decodes Python 2's strings
        self.storages = {} if storages is None else storages
        self.stand_in_classes: dict[tuple[str, str], type[StandIn]] = {}
        self.ordered_dict, self.copied_entries = AllowedCall(self._make_table), 0

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in ALLOWED_GLOBALS:
            return ALLOWED_GLOBALS[module, name]
        if (module, name) == ("collections", "OrderedDict"):
            return self.ordered_dict
        if module in ("torch", "torch.storage") and name in DTYPE_BY_STORAGE_CLASS:
            return DTYPE_BY_STORAGE_CLASS[name]
        if module == "torch" and name in TORCH_DTYPES:
            return name
        current_module = IMPORT_MAPPING.get(module, module)  # translate Python 2's module names
        is_data = current_module in DATA_MODULES or (current_module == "builtins" and name in PLAIN_BUILTINS)
        if current_module.partition(".")[0] in sys.stdlib_module_names and not is_data:
            raise Refused(
                f"its pickle asks for {module}.{name}, but only tensors are read and nothing is executed; "
                "save model.state_dict() or convert the file to safetensors"
            )
        if (module, name) not in self.stand_in_classes:
            self.stand_in_classes[module, name] = type("StandIn", (StandIn,), {"kind": f"{module}.{name}"})
        return self.stand_in_classes[module, name]

    def _make_table(self, *args: Any) -> Table:
        """Create an OrderedDict, with a limit on copied entries: repeated copies could grow without end."""
        entries = args[0] if args else ()
        if not isinstance(entries, Mapping | list | tuple):
            raise ValueError("an OrderedDict is made from something other than a mapping or a list")
        self.copied_entries += len(entries)
        if self.copied_entries > MAX_ENTRIES:
            raise ValueError(f"more than {MAX_ENTRIES:,} entries are copied to OrderedDicts")
        return Table(entries)

    def persistent_load(self, pid: Any) -> Any:
        if not isinstance(pid, tuple) or len(pid) < 2:
            raise ValueError("unknown persistent id")
        if pid[0] == "module":  # torch before 1.6 adds the source code of a module's class, ignored here
            return pid[1]
        kind, dtype, key, _, count = pid[:5]
        dtype = getattr(dtype, "kind", dtype)
        is_plain = isinstance(dtype, str) and isinstance(key, str) and isinstance(count, int)
        if kind != "storage" or not is_plain or count < 0 or dtype not in STORAGE_DTYPES:
            raise ValueError("unknown persistent id")
        if len(pid) > 5 and pid[5] is not None:
            raise ValueError("a storage is a view of another (torch before 0.4); save it again with a newer torch")
        return self.storages.setdefault(key, Storage(key, dtype, count))


def _rebuild_tensor(storage: Storage, offset: int, shape: Any, strides: Any, *_: Any) -> Tensor:
    shape, strides = tuple(shape), tuple(strides)
    sizes = [offset, *shape, *strides]
    is_possible = isinstance(storage, Storage) and len(shape) == len(strides) <= MAX_AXES
    if not is_possible or not all(isinstance(x, int) and 0 <= x < 1 << 62 for x in sizes):
        raise ValueError("a tensor has impossible sizes")
    if math.prod(shape) and offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) >= storage.count:
        raise ValueError("a tensor is larger than its storage")
    return Tensor(storage, offset, shape, strides)


def _rebuild_tensor_v3(storage: Storage, offset: int, shape: Any, strides: Any, *further_arguments: Any) -> Tensor:
    """Rebuild a tensor with a dtype that has no storage class; its storage counts bytes."""
    dtype = next((x for x in further_arguments if isinstance(x, str) and x in TORCH_DTYPES), "")
    if not isinstance(storage, Storage) or not dtype:
        raise ValueError("a tensor has an unknown dtype")
    typed_storage = Storage(storage.key, storage.dtype, storage.count // _bytes_per_entry(dtype))
    tensor = _rebuild_tensor(typed_storage, offset, shape, strides)
    return Tensor(storage, tensor.offset, tensor.shape, tensor.strides, dtype_override=dtype)


def _bytes_per_entry(dtype: str) -> int:
    digits = "".join(c for c in dtype.partition("_")[0] if c.isdigit())
    return max(1, int(digits or 8) // 8)


def _rebuild_quantized_tensor(storage: Storage, offset: int, shape: Any, strides: Any, *_: Any) -> Tensor:
    tensor = _rebuild_tensor(storage, offset, shape, strides)
    return Tensor(
        tensor.storage, tensor.offset, tensor.shape, tensor.strides, "quantized with torch.quantization, not decoded"
    )


def _rebuild_parameter(data: Any, *_: Any) -> Any:
    return data


def _rebuild_subclass(function: Any, kind: Any, args: Any, *_: Any) -> Any:
    """Return the plain tensor that a tensor subclass is made from."""
    return function(*args) if isinstance(function, AllowedCall) and isinstance(args, tuple) else StandIn()


def _make_size(sizes: Any = ()) -> tuple[Any, ...]:
    is_plain = isinstance(sizes, tuple | list) and len(sizes) <= MAX_AXES
    if not is_plain or not all(isinstance(size, int) for size in sizes):
        raise ValueError("torch.Size is made from something other than integers")
    return tuple(sizes)


def _is_short_key(key: str | int) -> bool:
    return len(key) <= MAX_KEY_CHARS if isinstance(key, str) else abs(key) < 1 << 62


def _return_none(*_: Any) -> None:
    return None


class AllowedCall(Immutable):
    """A function that a pickle may call, wrapped so that it has no attributes to set."""

    __slots__ = ("function",)
    function: Any

    def __init__(self, function: Any) -> None:
        object.__setattr__(self, "function", function)

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)

    def __setattr__(self, name: str, value: Any) -> None:
        raise ValueError("the pickle modifies a read-only object")


REBUILD_CALLS = {name: AllowedCall(function) for name, function in {
    "_rebuild_tensor": _rebuild_tensor, "_rebuild_tensor_v2": _rebuild_tensor, "_rebuild_tensor_v3": _rebuild_tensor_v3,
    "_rebuild_qtensor": _rebuild_quantized_tensor, "_rebuild_parameter": _rebuild_parameter,
    "_rebuild_parameter_with_state": _rebuild_parameter,
}.items()}  # fmt: skip
ALLOWED_GLOBALS: dict[tuple[str, str], Any] = {
    **{("torch._utils", name): call for name, call in REBUILD_CALLS.items()},
    ("torch._tensor", "_rebuild_from_type_v2"): AllowedCall(_rebuild_subclass),
    ("torch", "Size"): AllowedCall(_make_size),
    ("torch", "device"): AllowedCall(_return_none),
    ("torch.serialization", "_get_layout"): AllowedCall(_return_none),
    ("torch.storage", "UntypedStorage"): "uint8",
}


def walk_tensors(content: Any, max_depth: int) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, tensor) for every tensor in an object, with keys joined by dots; optimizer state is skipped.

    An object with several names is visited under each of them, but never inside itself.

    :raises ValueError: there are more than ``MAX_ENTRIES`` entries to visit.
    """
    steps = 0
    pending: list[tuple[str, Any, tuple[int, ...]]] = [("", content, ())]
    while pending:
        prefix, value, above = pending.pop()
        if isinstance(value, Tensor):
            yield prefix.removesuffix("."), value
            continue
        table = value.parts() if isinstance(value, StandIn) else value
        if isinstance(table, Mapping) and is_optimizer_table(table):
            continue
        items = list(enumerate(table)) if isinstance(table, list | tuple) else table
        items = list(items.items()) if isinstance(items, Mapping) else items
        if not isinstance(items, list) or len(above) > max_depth or id(value) in above:
            continue
        steps += len(items) * (1 + len(prefix) // 64)
        if steps > MAX_ENTRIES:
            raise ValueError(f"more than {MAX_ENTRIES:,} entries")
        inner = (*above, id(value))
        for key, entry in reversed(items):
            if not isinstance(key, str | int) or not _is_short_key(key):
                continue
            if isinstance(entry, Tensor) or not str(key).startswith(TORCH_OPTIMIZER_PREFIX):
                pending.append((f"{prefix}{key}.", entry, inner))
