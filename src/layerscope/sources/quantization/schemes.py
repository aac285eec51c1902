"""Decode weights from their parts, one function per scheme: check that the parts fit, then decode rows on demand."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.sources.layouts.torch_names import TensorInfo
from layerscope.sources.quantization import decoders

if TYPE_CHECKING:
    from layerscope.array_types import Array

Fetch = Callable[[str], Any]
Config = Mapping[str, Any]
SCALES = ("weight_scale_inv", "weight_scale", "scale", "qscale_weight")
FLOAT8_SCALES = ("scale_weight", "weights_scaling_factor")  # of ComfyUI and TensorRT-LLM
STATE_PART = "state."  # prefix of the part that holds a bitsandbytes quant_state, before its kind
BLOCK = 128  # rows and columns of DeepSeek's FP8 blocks
NVFP4_BLOCK, MXFP4_BLOCK = 16, 32
MAX_STATE_BYTES = 1 << 16


class Mismatch(Exception):
    """The parts of a weight do not fit together; the message states why."""


@dataclass(frozen=True)
class Weight:
    """A weight that is decoded from its parts."""

    shape: tuple[int, ...]
    how: str
    decode_rows: Callable[[int, int], Array]  # rows start to stop of (∏ shape[:-1], shape[-1])
    axes: str = ""  # if the scheme determines them


@dataclass
class Parts:
    """The stored tensors of one module, by name within the module."""

    stem: str
    infos: dict[str, TensorInfo]
    fetch: Fetch
    config: Config

    def __getitem__(self, part: str) -> Any:
        """Return the values of one part."""
        return self.fetch(self.infos[part].name)

    def width(self, part: str) -> int:
        """Return the bytes per entry of a part; codes may be packed in words of another type."""
        digits = "".join(c for c in self.infos[part].dtype.partition("_")[0] if c.isdigit())
        return max(1, int(digits or 8) // 8)

    def scales(self, part: str) -> Array:
        """Return scales as float32; scales stored as exponents (E8M0) become 2^(s − 127)."""
        stored = np.asarray(self[part])
        if self.infos[part].dtype == "uint8":
            powers: Array = np.ldexp(np.float32(1), stored.astype(np.int32) - 127)
            return powers
        return stored.astype(np.float32)

    def shape(self, part: str) -> tuple[int, ...]:
        """Return the shape of one part."""
        return self.infos[part].shape


def _require(condition: bool, reason: str) -> None:
    if not condition:
        raise Mismatch(reason)


def bitsandbytes_4bit(parts: Parts) -> Weight:
    kind = next(part for part in parts.infos if part.startswith(STATE_PART))
    _require(math.prod(parts.shape(kind)) <= MAX_STATE_BYTES, f"its quant_state exceeds {MAX_STATE_BYTES:,} bytes")
    try:
        state = json.loads(bytes(np.asarray(parts[kind]).astype(np.uint8)))
        shape, block = tuple(state["shape"]), state["blocksize"]
        nested, offset = state.get("nested_blocksize"), float(state.get("nested_offset") or 0.0)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Mismatch("its quant_state cannot be read") from None
    sizes = (*shape, block)
    _require(bool(shape) and all(isinstance(n, int) and 0 < n < 1 << 40 for n in sizes), "its quant_state lacks sizes")
    count = math.prod(shape)
    blocks = -(-count // block)
    stored = math.prod(parts.shape("weight")) * parts.width("weight")
    _require(stored == -(-count // 2), "its number of codes does not match its shape")
    _require(math.prod(parts.shape("weight.absmax")) == blocks, "its number of scales does not match its blocks")
    _require(parts.shape("weight.quant_map") == (16,), "its lookup table does not have 16 entries")
    has_nested_table = "weight.nested_absmax" in parts.infos and "weight.nested_quant_map" in parts.infos
    _require(
        has_nested_table or parts.infos["weight.absmax"].dtype.startswith("float"),
        "its scales are quantized and their lookup table is missing",
    )
    if "weight.nested_absmax" in parts.infos:
        _require(isinstance(nested, int) and nested > 0, "its nested scales have no block size")
        _require(
            math.prod(parts.shape("weight.nested_absmax")) == -(-blocks // (nested or 1)),
            "its nested scales do not match its blocks",
        )
        _require(parts.shape("weight.nested_quant_map") == (256,), "its nested lookup table does not have 256 entries")

    def decode_rows(start: int, stop: int) -> Array:
        absmax = np.asarray(parts["weight.absmax"]).reshape(-1)
        if "weight.nested_absmax" in parts.infos:
            table, outer = parts["weight.nested_quant_map"], parts["weight.nested_absmax"]
            absmax = decoders.bitsandbytes_absmax(absmax, table, outer, int(nested or 1), offset)
        raw, table = np.asarray(parts["weight"]).reshape(-1).view(np.uint8), parts["weight.quant_map"]
        return decoders.bitsandbytes_4bit(start, stop, shape[-1], raw, absmax, table, block)

    return Weight(shape, f"decoded from bitsandbytes {kind.removeprefix(STATE_PART)}", decode_rows)


def bitsandbytes_8bit(parts: Parts) -> Weight:
    shape = parts.shape("weight")
    _require(len(shape) == 2 and math.prod(parts.shape("SCB")) == shape[0], "it does not have one scale per row")

    def decode_rows(start: int, stop: int) -> Array:
        return decoders.scale_codes(start, stop, parts["weight"], parts["SCB"], None, invert=127.0)

    return Weight(shape, "decoded from bitsandbytes int8", decode_rows)


def is_gptq(parts: Parts) -> bool:
    """Return whether codes are packed along the inputs (GPTQ) rather than the outputs (AWQ).

    The scales have one column per output.
    """
    return parts.shape("qweight")[-1] == parts.shape("scales")[-1]


def gptq_or_awq(parts: Parts) -> Weight:
    """Decode by the layout of the packed codes: both schemes have parts of the same names."""
    return gptq(parts) if is_gptq(parts) else awq(parts)


def gptq(parts: Parts) -> Weight:
    words, scales, zeros = (parts.shape(part) for part in ("qweight", "scales", "qzeros"))
    _require(len(words) == len(scales) == len(zeros) == 2, "its parts are not all matrices")
    dtypes = {parts.infos[part].dtype for part in ("qweight", "qzeros")}
    _require(dtypes <= {"int32", "uint32"}, "its codes are not 32-bit words")
    groups, outputs = scales
    fitting = [bits for bits in (4, 8, 2, 3) if outputs and zeros[1] == -(-outputs * bits // 32)]
    if "g_idx" in parts.infos:  # one entry per input
        fitting = [bits for bits in fitting if parts.shape("g_idx") == (words[0] * 32 // bits,)]
    configured = parts.config.get("bits")
    bits = configured if configured in fitting and not isinstance(configured, bool) else (fitting or [0])[0]
    _require(bits > 0 and groups > 0 and zeros[0] == groups, "its zero points or group index do not match its scales")
    inputs = words[0] * 32 // bits
    _require(inputs > 0, "it has no inputs")
    group_size = -(-inputs // groups)
    offset = 0 if parts.config.get("checkpoint_format") == "gptq_v2" else 1

    def decode_rows(start: int, stop: int) -> Array:
        row_groups = np.asarray(parts["g_idx"]) if "g_idx" in parts.infos else np.arange(inputs) // group_size
        if row_groups.min(initial=0) < 0 or row_groups.max(initial=0) >= groups:
            raise ValueError("the group index exceeds the number of scales")
        return decoders.gptq(start, stop, parts["qweight"], parts["qzeros"], parts["scales"], row_groups, bits, offset)

    return _mark_transposed(Weight((inputs, outputs), f"decoded from GPTQ, {bits} bits", decode_rows))


def awq(parts: Parts) -> Weight:
    words, scales, zeros = (parts.shape(part) for part in ("qweight", "scales", "qzeros"))
    _require(len(words) == len(scales) == len(zeros) == 2, "its parts are not all matrices")
    dtypes = {parts.infos[part].dtype for part in ("qweight", "qzeros")}
    _require(dtypes <= {"int32", "uint32"}, "its codes are not 32-bit words")
    inputs, outputs = words[0], words[1] * 8
    fits = scales[1] == outputs and zeros == (scales[0], words[1])
    fits = fits and scales[0] > 0 and inputs % max(scales[0], 1) == 0
    _require(fits, "its scales do not match its codes")
    layout = parts.config.get("version") or parts.config.get("kernel")
    is_known = not isinstance(layout, str) or layout.lower() in ("gemm", "gemv", "awq")
    _require(is_known, f"its AWQ layout {layout} is not supported")
    group_size = inputs // scales[0]

    def decode_rows(start: int, stop: int) -> Array:
        return decoders.awq(start, stop, parts["qweight"], parts["qzeros"], parts["scales"], group_size)

    return _mark_transposed(Weight((inputs, outputs), "decoded from AWQ, 4 bits", decode_rows))


def _mark_transposed(weight: Weight) -> Weight:
    """Mark a weight as stored (in, out); its rows stay as they are."""
    return replace(weight, axes="io", how=f"{weight.how}, stored (in, out)")


def scaled(parts: Parts) -> Weight:
    """Decode FP8 or int8 codes with one scale per tensor, row, group of a row, or square block."""
    name, *others = (part for part in (*SCALES, *FLOAT8_SCALES) if part in parts.infos)
    _require(not others, f"it has two kinds of scales, {name} and {', '.join(others)}")
    shape, scales, dtype = parts.shape("weight"), parts.shape(name), parts.infos["weight"].dtype
    count = math.prod(scales)
    if len(shape) == 3:
        return _decode_scaled_experts(parts, name)
    _require(len(shape) == 2, f"it has {len(shape)} axes instead of 2 or 3")
    if count == 1:
        form = "one scale"
    elif scales in ((shape[0],), (shape[0], 1)):
        form = "one scale per row"
    elif len(scales) == 2 and scales[0] == shape[0] and scales[1] and shape[1] % scales[1] == 0:
        form = f"one scale per {shape[1] // scales[1]} entries of a row"
    else:
        block = next((b for b in _block_sizes(parts) if _blocks_per_axis(shape, b) == scales), None)
        if block is None:
            raise Mismatch(f"its scales of shape {scales} do not match its shape {shape}")
        form, fitting_block = f"one scale per {block[0]}×{block[1]} block", block
        return Weight(
            shape, f"decoded from {dtype}, {form}", lambda a, b: _decode_blockwise(a, b, parts, name, fitting_block)
        )
    zeros = "weight_zero_point" if "weight_zero_point" in parts.infos else ""
    if zeros:
        _require(math.prod(parts.shape(zeros)) in (1, count), "its zero points do not match its scales")

    def decode_rows(start: int, stop: int) -> Array:
        zero = np.asarray(parts[zeros]).reshape(scales) if zeros and count > 1 else parts[zeros] if zeros else None
        return decoders.scale_codes(start, stop, parts["weight"], parts.scales(name), zero)

    return Weight(shape, f"decoded from {dtype}, {form}", decode_rows)


def _block_sizes(parts: Parts) -> list[tuple[int, int]]:
    """Return the possible block sizes: those in the configuration, then DeepSeek's."""
    groups = parts.config.get("config_groups")
    configured = [parts.config.get("weight_block_size")]
    for group in groups.values() if isinstance(groups, Mapping) else ():
        weights = group.get("weights") if isinstance(group, Mapping) else None
        configured.append(weights.get("block_structure") if isinstance(weights, Mapping) else None)
    sizes = [size for size in configured if isinstance(size, list) and len(size) == 2]
    return [(a, b) for a, b in [*sizes, [BLOCK, BLOCK]] if all(isinstance(n, int) and n > 0 for n in (a, b))]


def _blocks_per_axis(shape: tuple[int, ...], block: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(-(-n // size) for n, size in zip(shape, block, strict=True))


def _decode_blockwise(start: int, stop: int, parts: Parts, name: str, block: tuple[int, int]) -> Array:
    scales = parts.scales(name)[np.arange(start, stop) // block[0]]
    values = np.asarray(parts["weight"][start:stop]).astype(np.float32)
    weights: Array = values * np.repeat(scales, block[1], axis=1)[:, : values.shape[1]]
    return weights


def _decode_scaled_experts(parts: Parts, name: str) -> Weight:
    """Decode (experts, rows, columns) with one scale per expert, per row or column of each, or per square block."""
    shape, scales = parts.shape("weight"), parts.shape(name)
    form = (*scales, *(1,) * (3 - len(scales)))
    mismatch = f"its scales of shape {scales} do not match its shape {shape}"
    _require(len(form) == 3 and form[0] in (1, shape[0]), mismatch)
    has_column_scales = form[1:] == (shape[2], 1) and (shape[1] != shape[2] or parts.stem.endswith("down_proj"))
    if has_column_scales:  # fbgemm: one scale per column, stored like scales per row
        form = (form[0], 1, shape[2])
    simple_block = tuple(1 if count == n else n for n, count in zip(shape[1:], form[1:], strict=True))
    block = next((b for b in (simple_block, *_block_sizes(parts)) if _blocks_per_axis(shape[1:], b) == form[1:]), None)
    if block is None:
        raise Mismatch(mismatch)
    block_rows, block_columns = block

    def decode_rows(start: int, stop: int) -> Array:
        positions = np.arange(start, stop)
        expert, row = positions // shape[1], positions % shape[1]
        row_scales = parts.scales(name).reshape(form)[expert if form[0] > 1 else 0 * expert, row // block_rows]
        spread = np.repeat(row_scales, block_columns, axis=1)[:, : shape[2]]
        weights: Array = np.asarray(parts["weight"][expert, row]).astype(np.float32) * spread
        return weights

    return Weight(shape, f"decoded from {parts.infos['weight'].dtype} with scales", decode_rows)


def mxfp4(parts: Parts) -> Weight:
    """Decode gpt-oss: blocks (experts, rows, groups, 16), scales (experts, rows, groups); rows are outputs."""
    blocks, scales = parts.shape("blocks"), parts.shape("scales")
    _require(
        len(blocks) >= 3 and blocks[:-1] == scales and blocks[-1] == MXFP4_BLOCK // 2,
        "its blocks do not match its scales",
    )
    shape = (*blocks[:-2], blocks[-2] * MXFP4_BLOCK)
    row_count = math.prod(shape[:-1])

    def decode_rows(start: int, stop: int) -> Array:
        raw = np.asarray(parts["blocks"]).reshape(row_count, -1)
        scale_rows = np.asarray(parts["scales"]).reshape(row_count, -1)
        return decoders.microscaled_fp4(start, stop, raw, scale_rows, MXFP4_BLOCK, power=True)

    return Weight(shape, "decoded from MXFP4", decode_rows, axes="eoi" if len(shape) == 3 else "")


def fp4(parts: Parts) -> Weight:
    """Decode FP4 codes, two per byte (rows, columns/2), with one scale per 16 (NVFP4) or 32 (MXFP4) codes."""
    codes = "weight_packed" if "weight_packed" in parts.infos else "weight"
    packed_shape, scales = parts.shape(codes), parts.shape("weight_scale")
    _require(
        len(packed_shape) == len(scales) == 2 and packed_shape[0] == scales[0] and scales[1] > 0,
        "its scales do not match its codes",
    )
    shape = (packed_shape[0], packed_shape[1] * 2)
    power = parts.infos["weight_scale"].dtype == "uint8"
    block = MXFP4_BLOCK if power else NVFP4_BLOCK
    _require(shape[1] == scales[1] * block, "its scales do not match its codes")
    divisor, factor = "weight_global_scale" in parts.infos, "weight_scale_2" in parts.infos
    _require(power or divisor or factor, "its global scale is missing")
    for outer in ("weight_global_scale", "weight_scale_2"):
        _require(outer not in parts.infos or math.prod(parts.shape(outer)) == 1, "it has several global scales")

    def decode_rows(start: int, stop: int) -> Array:
        outer = 1.0
        if divisor:
            outer = 1.0 / float(np.asarray(parts["weight_global_scale"]).reshape(-1)[0])
        elif factor:
            outer = float(np.asarray(parts["weight_scale_2"]).reshape(-1)[0])
        raw = np.asarray(parts[codes])
        return decoders.microscaled_fp4(start, stop, raw, parts["weight_scale"], block, power=power, factor=outer)

    return Weight(shape, f"decoded from {'MXFP4' if power else 'NVFP4'}", decode_rows)


def compressed_tensors(parts: Parts) -> Weight:
    """Decode pack-quantized compressed-tensors: words (rows, ·), scales (rows, groups), and the shape."""
    words, scales = parts.shape("weight_packed"), parts.shape("weight_scale")
    shape_info = parts.infos.get("weight_shape")
    _require(len(words) == 2 and shape_info is not None, "its weight_shape is missing")
    _require(
        shape_info is not None and shape_info.dtype in ("int32", "int64") and math.prod(shape_info.shape) == 2,
        "its weight_shape is not a pair of integers",
    )
    sizes = np.asarray(parts["weight_shape"]).reshape(-1)
    shape = tuple(int(n) for n in sizes)
    _require(
        len(shape) == 2 and shape[0] == words[0] and 0 < shape[1] <= 32 * words[1], "its shape does not match its codes"
    )
    scales = scales if len(scales) == 2 else (scales[0] if scales else 1, 1)
    bits = _bits_per_code(parts, shape[1], words[1])
    _require(scales[0] in (1, shape[0]) and scales[1] > 0, "its scales do not match its codes")
    group_index = "weight_g_idx" if "weight_g_idx" in parts.infos else ""
    zeros = "weight_zero_point" if "weight_zero_point" in parts.infos else ""

    def decode_rows(start: int, stop: int) -> Array:
        group_scales = np.broadcast_to(np.asarray(parts["weight_scale"]).reshape(scales), (shape[0], scales[1]))
        order = np.asarray(parts[group_index]) if group_index else None
        if order is not None and (order == -1).all():  # groups are consecutive
            order = None
        if order is not None and (order.shape != (shape[1],) or order.min() < 0 or order.max() >= scales[1]):
            raise ValueError("the group index does not match the scales")
        zero = np.asarray(parts[zeros]) if zeros else None
        return decoders.compressed_tensors(
            start, stop, parts["weight_packed"], group_scales, zero, bits, shape[1], order
        )

    return Weight(shape, f"decoded from compressed-tensors, {bits} bits", decode_rows)


def _bits_per_code(parts: Parts, columns: int, words: int) -> int:
    """Return the bits per code: as configured, else the number that fits the words."""
    groups = parts.config.get("config_groups")
    configured = set()
    for group in groups.values() if isinstance(groups, Mapping) else ():
        weights = group.get("weights") if isinstance(group, Mapping) else None
        configured.add(str(weights.get("num_bits")) if isinstance(weights, Mapping) else "")
    fitting = [b for b in (4, 8, 2, 3, 5, 6, 7) if words in (-(-columns * b // 32), -(-columns // (32 // b)))]
    chosen = [b for b in fitting if str(b) in configured] or fitting
    _require(bool(chosen), "its codes do not match its shape")
    return chosen[0]


def mlx(parts: Parts) -> Weight:
    words, scales, biases = (parts.shape(part) for part in ("weight", "scales", "biases"))
    layer_config = parts.config.get(parts.stem)
    settings = layer_config if isinstance(layer_config, Mapping) else parts.config
    group, bits = settings.get("group_size"), settings.get("bits")
    _require(
        len(words) == len(scales) == 2 and scales == biases and scales[0] == words[0],
        "its scales do not match its codes",
    )
    if not isinstance(group, int) or group not in (16, 32, 64, 128) or not isinstance(bits, int):
        raise Mismatch("its configuration lacks valid bits and group_size")
    columns = scales[1] * group
    _require(bits in (2, 3, 4, 5, 6, 8) and words[1] * 32 == columns * bits, "its codes do not match its scales")

    def decode_rows(start: int, stop: int) -> Array:
        return decoders.mlx(start, stop, parts["weight"], parts["scales"], parts["biases"], bits, columns)

    return Weight((words[0], columns), f"decoded from MLX, {bits} bits", decode_rows)
