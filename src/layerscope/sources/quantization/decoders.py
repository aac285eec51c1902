"""Decode stored codes to float32 weights: one pure function per scheme, for rows start to stop of the result.

Every function takes the stored arrays and a range of rows, so that a large layer is never decoded as a whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from layerscope.array_types import Array

FP4_VALUES = np.array(
    [0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32
)  # E2M1, OCP MX 1.0
AWQ_ORDER = np.array([0, 4, 1, 5, 2, 6, 3, 7])  # nibble of a word that holds each column


def unpack_words(words: Array, bits: int, axis: int) -> Array:
    """Unpack unsigned codes from 32-bit words along an axis, lowest bits first; a code may span two words.

    An axis of w words becomes one of 32·w/bits codes.
    """
    lines = np.moveaxis(np.asarray(words).view(np.uint32), axis, -1)
    if 32 % bits == 0:
        shifts = np.arange(0, 32, bits, dtype=np.uint32)
        codes = (lines[..., None] >> shifts) & np.uint32((1 << bits) - 1)
        codes = codes.reshape(*lines.shape[:-1], -1)
    else:
        bit_offsets = np.arange(32 * lines.shape[-1] // bits) * bits
        word, shift = bit_offsets // 32, (bit_offsets % 32).astype(np.uint64)
        wide = np.concatenate([lines, np.zeros((*lines.shape[:-1], 1), np.uint32)], axis=-1).astype(np.uint64)
        pairs = wide[..., word] | (wide[..., word + 1] << np.uint64(32))
        codes = ((pairs >> shift) & np.uint64((1 << bits) - 1)).astype(np.uint32)
    return np.moveaxis(codes.astype(np.int32), -1, axis)


def unpack_nibbles(raw: Array, *, low_first: bool) -> Array:
    """Unpack 4-bit codes from bytes along the last axis, which doubles in length."""
    raw = np.asarray(raw).view(np.uint8)
    pair = (raw & 0x0F, raw >> 4) if low_first else (raw >> 4, raw & 0x0F)
    return np.stack(pair, axis=-1).reshape(*raw.shape[:-1], -1)


def gptq(
    start: int, stop: int, qweight: Array, qzeros: Array, scales: Array, groups: Array, bits: int, offset: int
) -> Array:
    """Decode rows (inputs) of W (in, out) = scale·(q − zero), arXiv 2210.17323; ``offset`` is added to stored zeros.

    AutoGPTQ's first format stores zeros minus one. ``bits`` words hold 32 rows of codes.
    """
    first, last = start // 32, -(-stop // 32)
    codes = unpack_words(qweight[first * bits : last * bits], bits, 0)[start - first * 32 : stop - first * 32]
    row_groups = np.asarray(groups[start:stop])
    zeros = (unpack_words(qzeros, bits, 1)[:, : scales.shape[1]] + offset) & ((1 << bits) - 1)
    weights: Array = (codes - zeros[row_groups]).astype(np.float32) * np.asarray(scales).astype(np.float32)[row_groups]
    return weights


def awq(start: int, stop: int, qweight: Array, qzeros: Array, scales: Array, group: int) -> Array:
    """Decode rows (inputs) of W (in, out) = scale·(q − zero), arXiv 2306.00978; 4 bits, interleaved in each word."""
    row_groups = np.arange(start, stop) // group
    codes, zeros = (_awq_codes(words) for words in (qweight[start:stop], qzeros))
    weights: Array = (codes - zeros[row_groups]).astype(np.float32) * np.asarray(scales).astype(np.float32)[row_groups]
    return weights


def _awq_codes(words: Array) -> Array:
    codes = unpack_words(words, 4, 1)
    return codes.reshape(len(codes), -1, 8)[:, :, AWQ_ORDER].reshape(len(codes), -1)


def bitsandbytes_4bit(start: int, stop: int, width: int, raw: Array, absmax: Array, table: Array, block: int) -> Array:
    """Decode rows of W: table[q]·absmax per block of the flattened tensor, arXiv 2305.14314; high nibble first."""
    first, last = start * width, stop * width
    first_byte = first // 2
    codes = unpack_nibbles(np.asarray(raw).reshape(-1)[first_byte : -(-last // 2)], low_first=False)[
        first - 2 * first_byte :
    ][: last - first]
    scale = np.asarray(absmax)[np.arange(first, last) // block]
    weights: Array = (np.asarray(table, np.float32)[codes] * scale).reshape(stop - start, width)
    return weights


def bitsandbytes_absmax(absmax: Array, table: Array, nested: Array, block: int, offset: float) -> Array:
    """Decode block scales that are themselves quantized: table[q]·nested absmax + offset."""
    codes = np.asarray(absmax).reshape(-1)
    scale = np.asarray(nested, np.float32)[np.arange(len(codes)) // block]
    weights: Array = np.asarray(table, np.float32)[codes] * scale + np.float32(offset)
    return weights


def scale_codes(start: int, stop: int, codes: Array, scales: Array, zeros: Array | None, invert: float = 0.0) -> Array:
    """Decode rows of (codes − zeros)·scales, with one scale per tensor, row, block of a row, or square block.

    Blocks have ⌈n / count⌉ rows and columns. If ``invert`` is not 0, the result is divided by it.
    """
    rows = np.arange(start, stop)
    values = np.asarray(codes[start:stop]).astype(np.float32)
    if zeros is not None:
        values = values - _scales_per_entry(zeros, rows, codes.shape)
    weights: Array = values * _scales_per_entry(scales, rows, codes.shape)
    return weights / np.float32(invert) if invert else weights


def _scales_per_entry(scales: Array, rows: Array, shape: tuple[int, ...]) -> Array:
    scales = np.asarray(scales).astype(np.float32)
    if scales.size == 1:
        return scales.reshape(1, 1)
    scales = scales.reshape(-1, 1) if scales.ndim == 1 else scales
    block_rows, block_columns = (-(-n // count) for n, count in zip(shape, scales.shape, strict=True))
    row_scales = scales[rows // block_rows]
    return row_scales if row_scales.shape[1] == 1 else np.repeat(row_scales, block_columns, axis=1)[:, : shape[1]]


def microscaled_fp4(
    start: int, stop: int, raw: Array, scales: Array, block: int, *, power: bool, factor: float = 1.0
) -> Array:
    """Decode rows of FP4 codes with one scale per block: 2^(s − 127) if ``power`` (MXFP4), else s·factor (NVFP4).

    ``raw`` is (rows, columns/2), low nibble first; OCP Microscaling Formats 1.0, §5.
    """
    values = FP4_VALUES[unpack_nibbles(raw[start:stop], low_first=True)]
    stored_scales = np.asarray(scales[start:stop])
    block_scales = (
        np.ldexp(np.float32(1), stored_scales.astype(np.int32) - 127)
        if power
        else stored_scales.astype(np.float32) * np.float32(factor)
    )
    weights: Array = (values.reshape(len(values), -1, block) * block_scales[:, :, None]).reshape(len(values), -1)
    return weights


def compressed_tensors(
    start: int,
    stop: int,
    words: Array,
    scales: Array,
    zeros: Array | None,
    bits: int,
    columns: int,
    column_groups: Array | None,
) -> Array:
    """Decode rows of packed integers of compressed-tensors: (q − 2^(bits−1) − zero)·scale, a scale per column group.

    ``column_groups`` gives the group of each column if groups are not consecutive; zeros are packed along the rows.
    """
    half = 1 << (bits - 1)
    is_dense = np.shape(words)[1] == -(-columns * bits // 32)
    codes = (unpack_words(words[start:stop], bits, 1) if is_dense else _unpack_word_aligned(words[start:stop], bits))[
        :, :columns
    ] - half
    table = np.asarray(scales).astype(np.float32)
    groups = np.arange(columns) // -(-columns // table.shape[1]) if column_groups is None else np.asarray(column_groups)
    if zeros is not None:
        is_packed = zeros.dtype.itemsize != 1
        offsets = unpack_words(zeros, bits, 0)[: table.shape[0]] - half if is_packed else np.asarray(zeros)
        offsets = np.broadcast_to(offsets.reshape(-1, 1) if offsets.ndim == 1 else offsets, table.shape)
        codes = codes - offsets[start:stop][:, groups]
    weights: Array = codes.astype(np.float32) * table[start:stop][:, groups]
    return weights


def mlx(start: int, stop: int, words: Array, scales: Array, biases: Array, bits: int, columns: int) -> Array:
    """Decode rows of MLX's affine quantization: scale·q + bias, with a scale and a bias per group of columns."""
    codes = unpack_words(words[start:stop], bits, 1)[:, :columns]
    group = columns // scales.shape[1]
    scale, bias = (np.repeat(np.asarray(x[start:stop]).astype(np.float32), group, axis=1) for x in (scales, biases))
    weights: Array = codes * scale + bias
    return weights


def _unpack_word_aligned(words: Array, bits: int) -> Array:
    """Unpack ⌊32/bits⌋ codes per word and ignore unused bits, as compressed-tensors before 0.11 stores them."""
    shifts = (np.arange(32 // bits) * bits).astype(np.uint32)
    codes = (np.asarray(words).view(np.uint32)[..., None] >> shifts) & np.uint32((1 << bits) - 1)
    unpacked: Array = codes.reshape(len(codes), -1).astype(np.int32)
    return unpacked
