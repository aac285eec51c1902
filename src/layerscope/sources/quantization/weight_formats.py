"""Formats that a plan chooses from: how each rounds a weight, and how many bits it takes.

The types of llama.cpp that the ``gguf`` package quantizes (Q8_0, Q5_1, Q5_0, Q4_1, Q4_0) are rounded by it. Its K types
are simulated by their groups: 16 or 32 neighbors share a scale, with or without an offset, at their number of bits.
``int4`` and its relatives round a group of neighbors to the nearest multiple of one scale, as compressed-tensors does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.errors import UnknownName

if TYPE_CHECKING:
    from layerscope.array_types import Array


SCALE_BITS = 16  # of the scale of a group
DEFAULT_GROUP = 128
MAX_SCALE_SEARCH = 5  # scales that are tried for a group; the one with the smallest squared error is taken
MAX_ROWS_ENTRIES = 1 << 20  # entries rounded at a time
INTEGER = re.compile(r"int(?P<bits>[2-8])(-g(?P<group>\d{1,5}))?$")
K_TYPES = {  # name → (bits of a code, group, has an offset, bits per weight with all scales)
    "q6_k": (6, 16, False, 6.5625),
    "q5_k": (5, 32, True, 5.5),
    "q4_k": (4, 32, True, 4.5),
    "q3_k": (3, 16, False, 3.4375),
    "q2_k": (2, 16, True, 2.625),
}
K_BLOCK = 256  # neighbors in a super-block; a row must divide into them
GGUF_TYPES = {"q8_0": 8.5, "q5_1": 6.0, "q5_0": 5.5, "q4_1": 5.0, "q4_0": 4.5}
PLAIN = {"f32": 32.0, "f16": 16.0, "bf16": 16.0}
FAMILIES = {  # what a plan chooses from by default
    "llama.cpp": ("q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "q4_0", "q5_0", "q8_0"),
    "llm-compressor": ("int4", "int8", "bf16"),
    "int": ("int2-g32", "int3-g32", "int4-g32", "int5-g32", "int6-g32", "int8-g32"),
}


@dataclass(frozen=True)
class WeightFormat:
    """One way to store a weight."""

    name: str
    bits: float  # per weight, with its scales
    block: int  # neighbors on the last axis that a row must divide into
    round_block: Callable[[Array], Array]  # rows (n, columns) → their values after rounding
    code_bits: int = 16
    group: int = 0

    def fits(self, shape: Sequence[int]) -> bool:
        """Return whether rows of this shape divide into its blocks."""
        return shape[-1] % self.block == 0

    def round(self, weight: Array) -> Array:
        """Return the weight as it is after storing, in float32."""
        rows = np.ascontiguousarray(weight, np.float32).reshape(-1, weight.shape[-1])
        rounded = np.empty_like(rows)
        step = max(1, MAX_ROWS_ENTRIES // max(1, rows.shape[1]))
        for start in range(0, len(rows), step):
            rounded[start : start + step] = self.round_block(rows[start : start + step])
        result: Array = rounded.reshape(weight.shape)
        return result


@cache
def format_named(name: str) -> WeightFormat:
    """Return a format by its name.

    :raises UnknownName: there is no such format.
    """
    key = name.lower()
    match = INTEGER.fullmatch(key)
    if match:
        bits, group = int(match["bits"]), int(match["group"] or DEFAULT_GROUP)
        if group > 0:
            rounding = partial(_round_symmetric, bits=bits, group=group)
            return WeightFormat(key, bits + SCALE_BITS / group, group, rounding, bits, group)
    if key in K_TYPES:
        bits, group, has_offset, size = K_TYPES[key]
        rounding = partial(_round_with_offset if has_offset else _round_searched, bits=bits, group=group)
        return WeightFormat(key, size, K_BLOCK, rounding, bits, group)
    if key in GGUF_TYPES:
        return WeightFormat(key, GGUF_TYPES[key], 32, partial(_round_by_gguf, name=key), int(key[1]), 32)
    if key in PLAIN:
        return WeightFormat(key, PLAIN[key], 1, partial(_round_float, name=key), int(PLAIN[key]))
    known = [*K_TYPES, *GGUF_TYPES, *PLAIN, *(f"int{n}" for n in (2, 3, 4, 5, 6, 8))]
    raise UnknownName("weight format", name, known)


def _groups(rows: Array, group: int) -> Array:
    return rows.reshape(-1, group)


def _round_symmetric(rows: Array, *, bits: int, group: int) -> Array:
    """Round to q·s with q from −2^(b−1) to 2^(b−1) − 1 and s = max|w|/(2^(b−1) − ½) of each group."""
    w = _groups(rows, group)
    scale = np.abs(w).max(1, keepdims=True) * np.float32(2) / np.float32(2**bits - 1)
    return _quantize(w, scale, bits).reshape(rows.shape)


def _round_searched(rows: Array, *, bits: int, group: int) -> Array:
    """Round symmetrically with the best of several scales of each group, as llama.cpp searches them."""
    w = _groups(rows, group)
    largest = np.abs(w).max(1, keepdims=True)
    best = _quantize(w, largest * np.float32(2 / (2**bits - 1)), bits)
    error = np.square(best - w).sum(1, keepdims=True)
    for share in np.linspace(0.75, 1.1, MAX_SCALE_SEARCH, dtype=np.float32):
        tried = _quantize(w, share * largest / np.float32(2 ** (bits - 1)), bits)
        error_here = np.square(tried - w).sum(1, keepdims=True)
        is_better = error_here < error
        best, error = np.where(is_better, tried, best), np.where(is_better, error_here, error)
    return np.asarray(best, np.float32).reshape(rows.shape)


def _quantize(w: Array, scale: Array, bits: int) -> Array:
    safe = np.where(scale > 0, scale, np.float32(1))
    low = -(2 ** (bits - 1))
    codes: Array = np.clip(np.rint(w / safe), low, -low - 1) * safe
    return codes


def _round_with_offset(rows: Array, *, bits: int, group: int) -> Array:
    """Round to q·s + o with q from 0 to 2^b − 1: o = min(0, smallest), s = range/(2^b − 1) of each group."""
    w = _groups(rows, group)
    low = np.minimum(w.min(1, keepdims=True), np.float32(0))
    scale = (w.max(1, keepdims=True) - low) / np.float32(2**bits - 1)
    safe = np.where(scale > 0, scale, np.float32(1))
    return np.asarray(np.rint((w - low) / safe) * safe + low, np.float32).reshape(rows.shape)


def _round_by_gguf(rows: Array, *, name: str) -> Array:
    from gguf.quants import dequantize, quantize

    ggml_type = _ggml_type(name)
    return np.asarray(dequantize(quantize(rows, ggml_type), ggml_type), np.float32).reshape(rows.shape)


def _ggml_type(name: str) -> Any:
    from layerscope.sources.quantization.gguf_types import decodable_types

    return decodable_types()[name.upper()]


def _round_float(rows: Array, *, name: str) -> Array:
    if name == "f32":
        return rows
    import ml_dtypes

    return rows.astype(np.float16 if name == "f16" else ml_dtypes.bfloat16).astype(np.float32)
