"""An unpickler that creates only tensors and plain data, and runs no code from the file.

A pickle is a program. Here it may call only a few harmless functions, all listed below. Any other class or function
that it names becomes a :class:`StandIn`, which stores its arguments and does nothing. A pickle that asks for
functions of the standard library (e.g. ``os.system``) is malicious and is refused, although it could do no harm here.
"""

from __future__ import annotations

import io
import pickle
import sys
from _compat_pickle import IMPORT_MAPPING
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, BinaryIO

from layerscope.errors import Refused, Unreadable
from layerscope.sources.inventory import TORCH_OPTIMIZER_PREFIX, is_optimizer_table
from layerscope.sources.storage.pickle_check import check_pickle
from layerscope.sources.storage.pickle_objects import (
    DTYPE_BY_STORAGE_CLASS,
    STORAGE_DTYPES,
    TORCH_DTYPES,
    StandIn,
    Storage,
    Table,
    Tensor,
    bytes_per_entry,
)  # fmt: skip
from layerscope.sources.storage.pickled_arrays import array_class, as_tensor
from layerscope.sources.storage.torch_rebuilds import ALLOWED_GLOBALS, AllowedCall

MAX_ENTRIES = 1 << 20  # visited below one object
MAX_KEY_CHARS = 1 << 12  # entries with longer keys are skipped
PLAIN_BUILTINS = (
    "set", "frozenset", "list", "tuple", "dict", "str", "int", "float", "complex", "bool", "bytearray", "slice",
)  # fmt: skip
DATA_MODULES = {  # standard-library modules with classes that only hold data
    "_codecs", "argparse", "collections", "copyreg", "dataclasses", "datetime", "decimal", "enum",
    "fractions", "functools", "numbers", "pathlib", "pathlib._local", "re", "types", "typing", "uuid", "zoneinfo",
}  # fmt: skip


def unpickle(
    where: Any, raw: bytes | BinaryIO, storages: dict[str, Storage] | None = None, is_inner: bool = False
) -> Any:
    """Return the content of one pickle.

    :param raw: the pickle, or a file object, which is left at the end of the pickle.
    :param storages: collects the storages that the pickle names.
    :param is_inner: it stands inside another pickle, and may hold none itself.
    :raises Refused: the pickle asks for a function that could run code.
    :raises Unreadable: the pickle is damaged, or built to exhaust its reader.
    """
    try:
        if isinstance(raw, bytes):
            check_pickle(raw)
            return _Unpickler(io.BytesIO(raw), storages, is_inner).load()
        at = raw.tell()
        check_pickle(raw)
        raw.seek(at)
        return _Unpickler(raw, storages, is_inner).load()
    except Refused as refused:
        raise Refused(f"{where}: {refused}") from None
    except MemoryError:
        raise Unreadable(f"{where}: the pickle asks for more memory than is available") from None
    except Exception as error:
        raise Unreadable(f"{where}: damaged pickle: {type(error).__name__}: {str(error)[:200]}") from None


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO, storages: dict[str, Storage] | None, is_inner: bool = False) -> None:
        super().__init__(file, encoding="latin1")  # decodes Python 2's strings
        self.is_inner = is_inner
        self.inner_storages: dict[int, tuple[bytes, Storage]] = {}  # by the id of their bytes, which stay alive here
        self.load_storage = AllowedCall(self._load_storage)
        self.storages = {} if storages is None else storages
        self.stand_in_classes: dict[tuple[str, str], type[StandIn]] = {}
        self.ordered_dict, self.copied_entries = AllowedCall(self._make_table), 0

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in ALLOWED_GLOBALS:
            return ALLOWED_GLOBALS[module, name]
        if (module, name) == ("collections", "OrderedDict"):
            return self.ordered_dict
        if (module, name) == ("torch.storage", "_load_from_bytes"):
            return self.load_storage
        if (array := array_class(module, name)) is not None:
            return array
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

    def _load_storage(self, raw: Any) -> Storage:
        """Find the storage of a tensor that pickle.dump wrote: a file of torch.save before 1.6, as bytes."""
        if not isinstance(raw, bytes) or self.is_inner:
            raise ValueError("a storage is made from something other than bytes")
        if id(raw) not in self.inner_storages:
            self.inner_storages[id(raw)] = raw, _parse_storage(raw, len(self.inner_storages))
        return self.inner_storages[id(raw)][1]

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


def _parse_storage(raw: bytes, number: int) -> Storage:
    file = io.BytesIO(raw)
    _, _, _, storage, keys = (unpickle("storage", file, is_inner=True) for _ in range(5))
    start = file.tell()
    if not isinstance(storage, Storage) or keys != [storage.key] or storage.count < 0:
        raise ValueError("bytes that should hold one storage do not")
    size = storage.count * bytes_per_entry(storage.dtype if storage.dtype != "bool" else "uint8")
    if len(raw) != start + 8 + size:
        raise ValueError(f"a storage has {len(raw) - start - 8:,} bytes, but its pickle states {size:,}")
    return replace(storage, key=f"inner{number}", raw=raw[start + 8 :])


def _unpack_name(name: str) -> str:
    """The name of a weight or bias that torch.ao stores as a pair: fc.weight for fc._packed_params._packed_params.0."""
    stem, pair, place = name.rpartition("_packed_params._packed_params.")
    return stem + ("weight", "bias")[int(place)] if pair and place in ("0", "1") else name


def _is_short_key(key: str | int) -> bool:
    return len(key) <= MAX_KEY_CHARS if isinstance(key, str) else abs(key) < 1 << 62


def walk_tensors(content: Any, max_depth: int) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, tensor) for every tensor in an object, with keys joined by dots; optimizer state is skipped.

    An object with several names is visited under each of them, but never inside itself.

    :raises ValueError: there are more than ``MAX_ENTRIES`` entries to visit.
    """
    steps = 0
    pending: list[tuple[str, Any, tuple[int, ...]]] = [("", content, ())]
    while pending:
        prefix, value, above = pending.pop()
        tensor = as_tensor(value)
        if tensor is not None:
            yield _unpack_name(prefix.removesuffix(".")), tensor
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
            if as_tensor(entry) is not None or not str(key).startswith(TORCH_OPTIMIZER_PREFIX):
                pending.append((f"{prefix}{key}.", entry, inner))
