"""GGUF data types: block sizes and decoders from the gguf package, and types that need no decoding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.errors import MissingExtra

if TYPE_CHECKING:
    from layerscope.array_types import Array

PLAIN_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64",
                "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64"}  # fmt: skip


def look_up_type(code: int) -> tuple[str, tuple[int, int]]:
    """Return (name, (entries, bytes) per block) of a ggml type code; the name is "" if the package does not know it.

    :raises MissingExtra: the gguf package is not installed.
    """
    constants = _import_constants()
    try:
        ggml_type = constants.GGMLQuantizationType(code)
    except ValueError:
        return "", (1, 1)
    return ggml_type.name, constants.GGML_QUANT_SIZES[ggml_type]


def bits_of_type(name: str) -> float | None:
    """Return the bits per weight of a ggml type with all its scales; None if there is no type of this name."""
    try:
        constants = _import_constants()
        entries, size = constants.GGML_QUANT_SIZES[constants.GGMLQuantizationType[name]]
    except (MissingExtra, KeyError):
        return None
    return 8.0 * float(size) / float(entries)


def decodable_types() -> dict[str, Any]:
    """Return the types that the gguf package decodes, by name.

    :raises MissingExtra: the gguf package is not installed.
    """
    _import_constants()
    from gguf import quants

    return {ggml_type.name: ggml_type for ggml_type in quants._type_traits}


def decode(codes: Array, type_name: str) -> Array:
    """Decode rows of whole blocks; the result is flat or by row, as the gguf package returns it."""
    from gguf.quants import dequantize

    return np.asarray(dequantize(np.asarray(codes), decodable_types()[type_name]))


def _import_constants() -> Any:
    try:
        from gguf import constants
    except ImportError:
        raise MissingExtra("reading a GGUF file", "gguf") from None
    return constants
