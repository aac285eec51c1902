"""How much rounding to a number format alone changes a tensor: the floor below which a change says nothing.

Rounding to a grid of step h gives an error that is nearly uniform in [−h/2, h/2], with variance h²/12.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from layerscope.array_types import Array, Floats

FRACTION_BITS = {"float64": 52, "float32": 23, "float16": 10, "bfloat16": 7}  # stored bits of the significand
FLOAT8_FRACTION_BITS = {"e4m3": 3, "e5m2": 2, "e3m4": 4}
SMALLEST_EXPONENT = {"float64": -1022, "float32": -126, "float16": -14, "bfloat16": -126}
CODE_BITS = re.compile(r"(?:\bQ|IQ|TQ|NF|FP|MXFP|NVFP|int|uint|, )(\d{1,2})(?: bits)?", re.IGNORECASE)
DEFAULT_CODE_BITS = 4
CODE_BLOCKS = {"Q8_0": 32, "Q5_0": 32, "Q5_1": 32, "Q4_0": 32, "Q4_1": 32, "Q6_K": 16, "Q5_K": 32, "Q4_K": 32,
               "Q3_K": 16, "Q2_K": 16}  # fmt: skip
DEFAULT_CODE_BLOCK = 128  # values that share a scale, where the format does not say
MAX_ENTRIES = 1 << 16  # entries converted at a time, which fit into the cache of a core


def rounding_noise(tensor: Array, dtype: str, how: str = "") -> float:
    """Return the Frobenius norm of the error that rounding to a format makes in a tensor, as expected.

    :param tensor: values after rounding.
    :param dtype: format in which they are stored, such as "bfloat16".
    :param how: how they were decoded, such as "decoded from Q4_K"; decides before ``dtype``.
    """
    flat = np.asarray(tensor).reshape(-1)
    if "decoded from" in how or "dequantized from" in how:
        return _noise_of_codes(tensor, how)
    if dtype.startswith("float8"):
        bits = next((n for name, n in FLOAT8_FRACTION_BITS.items() if name in dtype), 2)
        return _noise_of_floats(flat, bits, -9)
    return _noise_of_floats(flat, FRACTION_BITS.get(dtype, 23), SMALLEST_EXPONENT.get(dtype, -126))


def coarser(first: str, second: str) -> bool:
    """Return whether the first of two float formats has fewer bits of significand than the second."""
    return FRACTION_BITS.get(first, 0) < FRACTION_BITS.get(second, 0)


def _noise_of_floats(flat: Array, fraction_bits: int, smallest: int) -> float:
    """Sum the variance of every entry: its unit in the last place is 2^(exponent − fraction bits)."""
    total, lowest = 0.0, 2.0**smallest
    for start in range(0, len(flat), MAX_ENTRIES):
        powers = powers_of_two(flat[start : start + MAX_ENTRIES]).astype(np.float64)
        if smallest > SMALLEST_EXPONENT["float32"]:
            powers = np.where(powers > 0, np.maximum(powers, lowest), 0.0)
        total += float(np.vdot(powers, powers))
    return math.sqrt(total / 12) * 2.0**-fraction_bits


def powers_of_two(values: Array) -> Floats:
    """Return 2^⌊log₂|x|⌋ of every entry, and 0 for zeros and subnormal numbers: the value without its fraction."""
    wide = np.ascontiguousarray(values, np.float64 if values.dtype == np.float64 else np.float32)
    integer, exponent = (np.uint64, 0x7FF << 52) if wide.dtype == np.float64 else (np.uint32, 0xFF << 23)
    powers: Floats = (wide.view(integer) & integer(exponent)).view(wide.dtype)
    return powers


def _noise_of_codes(tensor: Array, how: str) -> float:
    """Estimate the noise of a quantization: each block of values has a scale, its range over 2^bits − 1 steps."""
    bits = code_bits(how)
    block = next((size for name, size in CODE_BLOCKS.items() if name in how), DEFAULT_CODE_BLOCK)
    values = np.asarray(tensor, np.float64).reshape(-1)
    if tensor.ndim > 1 and "int8" in how:  # one scale per output
        block = values.size // tensor.shape[0]
    count = len(values) // block * block
    blocks: Floats = values[:count].reshape(-1, block) if count else values[None]
    largest = np.abs(blocks).max(1)
    steps = 2 * largest / (2**bits - 1)
    return math.sqrt(float(np.square(steps).sum()) * blocks.shape[1] / 12)


def code_bits(how: str) -> int:
    """Return the number of bits of the codes that ``how`` names."""
    match = CODE_BITS.search(how)
    return min(16, max(1, int(match[1]))) if match else DEFAULT_CODE_BITS
