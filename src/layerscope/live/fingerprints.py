"""Digests that identify functions, data and settings: they change whenever one of these changes."""

from __future__ import annotations

import functools
import hashlib
import pickle
import types
from collections.abc import Sequence
from typing import Any

from layerscope.live.torch_models import at_least_float32


def identify_function(function: Any) -> bytes:
    """Return bytes that distinguish a function from others.

    They cover its name, its code and the values bound to it: arguments of a partial, defaults, closure values, and the
    attributes of a callable object.
    """
    if isinstance(function, functools.partial):
        return identify_function(function.func) + _pickle_bytes((function.args, sorted(function.keywords.items())))
    code = getattr(function, "__code__", None)
    name = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', type(function).__qualname__)}"
    if code is None:
        return name.encode() + _pickle_bytes(getattr(function, "__dict__", {}))
    cells = [cell.cell_contents for cell in function.__closure__ or () if cell != _EMPTY_CELL]
    cells = [value for value in cells if not isinstance(value, list | dict | set)]  # these may change, e.g. counters
    bound = _pickle_bytes((cells, function.__defaults__, function.__kwdefaults__))
    return b"".join([name.encode(), code.co_code, repr((code.co_names, code.co_consts)).encode(), bound])


_EMPTY_CELL = types.CellType()


def digest(words: Sequence[str], tensors: Sequence[Any], functions: Sequence[Any]) -> bytes:
    """Return a digest that changes with any of the words, tensors and functions."""
    hasher = hashlib.sha256("\0".join(words).encode())
    for tensor in tensors:
        hasher.update(at_least_float32(tensor).cpu().contiguous().numpy().tobytes())
    for function in functions:
        hasher.update(identify_function(function) if callable(function) else repr(function).encode())
    return hasher.digest()


def _pickle_bytes(value: Any) -> bytes:
    """Return bytes that change with a value. If it cannot be pickled, use its parts, or only its type."""
    try:
        return bytes(pickle.dumps(value))
    except Exception:  # pickling user objects may raise any exception
        if isinstance(value, dict):
            return b"".join(_pickle_bytes(item) for item in value.items())
        if isinstance(value, list | tuple):
            return b"".join(_pickle_bytes(item) for item in value)
        return identify_function(value) if hasattr(value, "__code__") else str(type(value)).encode()
