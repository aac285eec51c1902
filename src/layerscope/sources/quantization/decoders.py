"""From stored codes to float32 weights: one pure function per scheme, on rows start to stop of the result.

Every function takes the stored arrays and a range of rows, so that a large layer need never be whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from layerscope.array_types import Array

FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)  # E2M1, OCP MX 1.0
AWQ_ORDER = np.array([0, 4, 1, 5, 2, 6, 3, 7])  # which nibble of a word holds which column


def unpacked(words: Array, bits: int, axis: int) -> Array:
    """Unsigned codes from words of 32 bits, lowest bits first, along an axis; a code may cross a word's end.

    An axis of w words becomes one of 32·w/bits codes.
    """
    lines = np.moveaxis(np.asarray(words).view(np.uint32), axis, -1)
    if 32 % bits == 0:
        shifts = np.arange(0, 32, bits, dtype=np.uint32)
        codes = (lines[..., None] >> shifts) & np.uint32((1 << bits) - 1)
        codes = codes.reshape(*lines.shape[:-1], -1)
    else:
        places = np.arange(32 * lines.shape[-1] // bits) * bits
        word, shift = places // 32, (places % 32).astype(np.uint64)
        wide = np.concatenate([lines, np.zeros((*lines.shape[:-1], 1), np.uint32)], axis=-1).astype(np.uint64)
        pairs = wide[..., word] | (wide[..., word + 1] << np.uint64(32))
        codes = ((pairs >> shift) & np.uint64((1 << bits) - 1)).astype(np.uint32)
    return np.moveaxis(codes.astype(np.int32), -1, axis)


def nibbles(raw: Array, *, low_first: bool) -> Array:
    """Codes of four bits from bytes, along the last axis, which doubles."""
    raw = np.asarray(raw).view(np.uint8)
    pair = (raw & 0x0F, raw >> 4) if low_first else (raw >> 4, raw & 0x0F)
    return np.stack(pair, axis=-1).reshape(*raw.shape[:-1], -1)


def gptq(
    start: int, stop: int, qweight: Array, qzeros: Array, scales: Array, groups: Array, bits: int, offset: int
) -> Array:
    """Rows (inputs) of W (in, out) = scale·(q − zero), arXiv 2210.17323; ``offset`` is added to stored zeros.

    AutoGPTQ's first format stores zeros less one; 32 rows of codes lie in ``bits`` words.
    """
    first, last = start // 32, -(-stop // 32)
    codes = unpacked(qweight[first * bits : last * bits], bits, 0)[start - first * 32 : stop - first * 32]
    which = np.asarray(groups[start:stop])
    zeros = (unpacked(qzeros, bits, 1)[:, : scales.shape[1]] + offset) & ((1 << bits) - 1)
    made: Array = (codes - zeros[which]).astype(np.float32) * np.asarray(scales).astype(np.float32)[which]
    return made


def awq(start: int, stop: int, qweight: Array, qzeros: Array, scales: Array, group: int) -> Array:
    """Rows (inputs) of W (in, out) = scale·(q − zero), arXiv 2306.00978; four bits, interleaved in each word."""
    which = np.arange(start, stop) // group
    codes, zeros = (_awq_codes(words) for words in (qweight[start:stop], qzeros))
    made: Array = (codes - zeros[which]).astype(np.float32) * np.asarray(scales).astype(np.float32)[which]
    return made


def _awq_codes(words: Array) -> Array:
    codes = unpacked(words, 4, 1)
    return codes.reshape(len(codes), -1, 8)[:, :, AWQ_ORDER].reshape(len(codes), -1)


def bitsandbytes_4bit(start: int, stop: int, width: int, raw: Array, absmax: Array, table: Array, block: int) -> Array:
    """Rows of W: table[q]·absmax of each block of the flattened tensor, arXiv 2305.14314; high nibble first."""
    first, last = start * width, stop * width
    at = first // 2
    codes = nibbles(np.asarray(raw).reshape(-1)[at : -(-last // 2)], low_first=False)[first - 2 * at :][: last - first]
    scale = np.asarray(absmax)[np.arange(first, last) // block]
    made: Array = (np.asarray(table, np.float32)[codes] * scale).reshape(stop - start, width)
    return made


def bitsandbytes_absmax(absmax: Array, table: Array, nested: Array, block: int, offset: float) -> Array:
    """Block scales that are quantised themselves: table[q]·nested absmax + offset."""
    codes = np.asarray(absmax).reshape(-1)
    scale = np.asarray(nested, np.float32)[np.arange(len(codes)) // block]
    made: Array = np.asarray(table, np.float32)[codes] * scale + np.float32(offset)
    return made


def scaled(start: int, stop: int, codes: Array, scales: Array, zeros: Array | None, invert: float = 0.0) -> Array:
    """Rows of (codes − zeros)·scales, the scales of a tensor, a row, a block of a row, or a square block.

    Blocks are as long as their number makes them: ⌈n / count⌉ rows and columns. ``invert`` ≠ 0 divides by it.
    """
    rows = np.arange(start, stop)
    values = np.asarray(codes[start:stop]).astype(np.float32)
    if zeros is not None:
        values = values - _spread(zeros, rows, codes.shape)
    made: Array = values * _spread(scales, rows, codes.shape)
    return made / np.float32(invert) if invert else made


def _spread(scales: Array, rows: Array, shape: tuple[int, ...]) -> Array:
    scales = np.asarray(scales).astype(np.float32)
    if scales.size == 1:
        return scales.reshape(1, 1)
    scales = scales.reshape(-1, 1) if scales.ndim == 1 else scales
    high, wide = (-(-n // count) for n, count in zip(shape, scales.shape, strict=True))
    taken = scales[rows // high]
    return taken if taken.shape[1] == 1 else np.repeat(taken, wide, axis=1)[:, : shape[1]]


def microscaled(
    start: int, stop: int, raw: Array, scales: Array, block: int, *, power: bool, factor: float = 1.0
) -> Array:
    """Rows of FP4 codes with a scale per block: 2^(s − 127) where ``power`` (MXFP4), else s·factor (NVFP4).

    ``raw`` is (rows, columns/2), low nibble first; OCP Microscaling Formats 1.0, §5.
    """
    values = FP4[nibbles(raw[start:stop], low_first=True)]
    taken = np.asarray(scales[start:stop])
    each = (
        np.ldexp(np.float32(1), taken.astype(np.int32) - 127)
        if power
        else taken.astype(np.float32) * np.float32(factor)
    )
    made: Array = (values.reshape(len(values), -1, block) * each[:, :, None]).reshape(len(values), -1)
    return made


def packed(
    start: int,
    stop: int,
    words: Array,
    scales: Array,
    zeros: Array | None,
    bits: int,
    columns: int,
    which: Array | None,
) -> Array:
    """Rows of compressed-tensors' packed integers: (q − 2^(bits−1) − zero)·scale, a scale per group of columns.

    ``which`` is the group of each column where they are not in order; zeros are packed along the rows.
    """
    half = 1 << (bits - 1)
    dense = np.shape(words)[1] == -(-columns * bits // 32)
    codes = (unpacked(words[start:stop], bits, 1) if dense else _by_word(words[start:stop], bits))[:, :columns] - half
    table = np.asarray(scales).astype(np.float32)
    groups = np.arange(columns) // -(-columns // table.shape[1]) if which is None else np.asarray(which)
    if zeros is not None:
        plain = zeros.dtype.itemsize == 1  # not packed
        lifted = np.asarray(zeros) if plain else unpacked(zeros, bits, 0)[: table.shape[0]] - half
        lifted = np.broadcast_to(lifted.reshape(-1, 1) if lifted.ndim == 1 else lifted, table.shape)
        codes = codes - lifted[start:stop][:, groups]
    made: Array = codes.astype(np.float32) * table[start:stop][:, groups]
    return made


def mlx(start: int, stop: int, words: Array, scales: Array, biases: Array, bits: int, columns: int) -> Array:
    """Rows of MLX's affine quantisation: scale·q + bias, one of each per group of columns."""
    codes = unpacked(words[start:stop], bits, 1)[:, :columns]
    group = columns // scales.shape[1]
    scale, bias = (np.repeat(np.asarray(x[start:stop]).astype(np.float32), group, axis=1) for x in (scales, biases))
    made: Array = codes * scale + bias
    return made


def _by_word(words: Array, bits: int) -> Array:
    """⌊32/bits⌋ codes in each word, the rest of it empty: compressed-tensors before 0.11."""
    shifts = (np.arange(32 // bits) * bits).astype(np.uint32)
    codes = (np.asarray(words).view(np.uint32)[..., None] >> shifts) & np.uint32((1 << bits) - 1)
    made: Array = codes.reshape(len(codes), -1).astype(np.int32)
    return made
