"""NumPy arrays in pickles: stand-ins that keep the bytes, and become tensors once shape and dtype are known."""

from __future__ import annotations

import math
import re
from typing import Any

from layerscope.sources.storage.dtypes import MAX_AXES
from layerscope.sources.storage.pickle_objects import StandIn, Storage, Tensor

ARRAY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
FRAME_MODULES = ("numpy.core.numeric", "numpy._core.numeric")
DTYPE_NAMES = {"f": "float", "i": "int", "u": "uint", "c": "complex"}
PLAIN_DTYPE = re.compile(r"[<>|=]?([fiuc])([1-8]|16)$|[<>|=]?(b1)$")


class PickledDtype(StandIn):
    """A numpy.dtype: its code, e.g. "f4", and its byte order."""

    kind = "numpy.dtype"

    def name(self) -> str:
        """The numpy-style name, or "" if it is no plain number or not little-endian."""
        code = self.args[0] if self.args and isinstance(self.args[0], str) else ""
        match = PLAIN_DTYPE.match(code)
        order = self.other_state[1] if isinstance(self.other_state, tuple) and len(self.other_state) > 1 else "<"
        if match is None or ">" in (order, code[:1]):
            return ""
        return "bool" if match[3] else f"{DTYPE_NAMES[match[1]]}{8 * int(match[2])}"


class PickledArray(StandIn):
    """A numpy.ndarray, made by ``_reconstruct`` and a state, or by ``_frombuffer``."""

    kind = "numpy.ndarray"

    def tensor(self) -> Tensor | None:
        """The array as a tensor whose bytes are in the pickle, or None if it has no plain numbers."""
        if isinstance(self.other_state, tuple) and len(self.other_state) == 5:
            _, shape, dtype, is_fortran, raw = self.other_state
        elif len(self.args) == 4:
            raw, dtype, shape, order = self.args
            is_fortran = order == "F"
        else:
            return None
        name = dtype.name() if isinstance(dtype, PickledDtype) else ""
        sizes = tuple(shape) if isinstance(shape, tuple) and len(shape) <= MAX_AXES else None
        if not name or sizes is None or not all(isinstance(n, int) and 0 <= n < 1 << 62 for n in sizes):
            return None
        width = max(1, int("".join(c for c in name if c.isdigit()) or 8) // 8)
        if not isinstance(raw, bytes | bytearray) or len(raw) != math.prod(sizes) * width:
            return None
        steps, strides = 1, []
        for size in sizes if is_fortran else reversed(sizes):
            strides.append(steps)
            steps *= size
        strides = strides if is_fortran else strides[::-1]
        storage = Storage(f"array{id(raw)}", name, len(raw) // width, bytes(raw))
        return Tensor(storage, 0, sizes, tuple(strides))


def array_class(module: str, name: str) -> Any:
    """The stand-in for a global of NumPy that makes arrays or dtypes, or None."""
    if (module in ARRAY_MODULES and name == "_reconstruct") or (module in FRAME_MODULES and name == "_frombuffer"):
        return PickledArray
    return PickledDtype if (module, name) == ("numpy", "dtype") else None


def as_tensor(value: Any) -> Tensor | None:
    """Return a tensor or an array of a pickle as a tensor, and None for any other value."""
    if isinstance(value, Tensor):
        return value
    return value.tensor() if isinstance(value, PickledArray) else None
