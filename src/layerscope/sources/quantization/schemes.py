"""Weights from their parts, one function per scheme: what must fit is checked, then rows are made when asked for."""

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
STATE = "state."  # a part whose name ends in the kind of a bitsandbytes quant_state
BLOCK = 128  # rows and columns of DeepSeek's FP8 blocks
NVFP4_BLOCK, MXFP4_BLOCK = 16, 32
LONGEST_STATE = 1 << 16  # bytes


class Mismatch(Exception):
    """The parts of a weight do not fit each other."""


@dataclass(frozen=True)
class Weight:
    """A weight that is made from parts."""

    shape: tuple[int, ...]
    how: str
    make: Callable[[int, int], Array]  # rows start to stop of (∏ shape[:-1], shape[-1])
    axes: str = ""  # of experts


@dataclass
class Parts:
    """The stored tensors below one name, without the name."""

    stem: str
    infos: dict[str, TensorInfo]
    fetch: Fetch
    config: Config

    def __getitem__(self, part: str) -> Any:
        """The numbers of one part."""
        return self.fetch(self.infos[part].name)

    def width(self, part: str) -> int:
        """Bytes of one entry of a part: codes may be stored in the words of another type."""
        digits = "".join(c for c in self.infos[part].dtype.partition("_")[0] if c.isdigit())
        return max(1, int(digits or 8) // 8)

    def scales(self, part: str) -> Array:
        """The numbers of scales in float32; those stored as exponents (E8M0) are 2^(s − 127)."""
        stored = np.asarray(self[part])
        if self.infos[part].dtype == "uint8":
            powers: Array = np.ldexp(np.float32(1), stored.astype(np.int32) - 127)
            return powers
        return stored.astype(np.float32)

    def shape(self, part: str) -> tuple[int, ...]:
        """The shape of one part."""
        return self.infos[part].shape


def _need(true: bool, why: str) -> None:
    if not true:
        raise Mismatch(why)


def bitsandbytes_4bit(parts: Parts) -> Weight:
    kind = next(part for part in parts.infos if part.startswith("state."))
    _need(math.prod(parts.shape(kind)) <= LONGEST_STATE, "its quant_state is too long")
    try:
        state = json.loads(bytes(np.asarray(parts[kind]).astype(np.uint8)))
        shape, block = tuple(state["shape"]), state["blocksize"]
        nested, offset = state.get("nested_blocksize"), float(state.get("nested_offset") or 0.0)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Mismatch("its quant_state cannot be read") from None
    sizes = (*shape, block)
    _need(bool(shape) and all(isinstance(n, int) and 0 < n < 1 << 40 for n in sizes), "its quant_state has no sizes")
    count = math.prod(shape)
    blocks = -(-count // block)
    stored = math.prod(parts.shape("weight")) * parts.width("weight")
    _need(stored == -(-count // 2), "it has not as many codes as its shape says")
    _need(math.prod(parts.shape("weight.absmax")) == blocks, "it has not as many scales as blocks")
    _need(parts.shape("weight.quant_map") == (16,), "its table has not 16 entries")
    whole = "weight.nested_absmax" in parts.infos and "weight.nested_quant_map" in parts.infos
    _need(whole or parts.infos["weight.absmax"].dtype.startswith("float"), "its scales are codes without a table")
    if "weight.nested_absmax" in parts.infos:
        _need(isinstance(nested, int) and nested > 0, "its nested scales have no block size")
        _need(
            math.prod(parts.shape("weight.nested_absmax")) == -(-blocks // (nested or 1)),
            "its nested scales do not fit",
        )
        _need(parts.shape("weight.nested_quant_map") == (256,), "its nested table has not 256 entries")

    def make(start: int, stop: int) -> Array:
        absmax = np.asarray(parts["weight.absmax"]).reshape(-1)
        if "weight.nested_absmax" in parts.infos:
            table, outer = parts["weight.nested_quant_map"], parts["weight.nested_absmax"]
            absmax = decoders.bitsandbytes_absmax(absmax, table, outer, int(nested or 1), offset)
        raw, table = np.asarray(parts["weight"]).reshape(-1).view(np.uint8), parts["weight.quant_map"]
        return decoders.bitsandbytes_4bit(start, stop, shape[-1], raw, absmax, table, block)

    return Weight(shape, f"decoded from bitsandbytes {kind.removeprefix('state.')}", make)


def bitsandbytes_8bit(parts: Parts) -> Weight:
    shape = parts.shape("weight")
    _need(len(shape) == 2 and math.prod(parts.shape("SCB")) == shape[0], "it has not one scale per row")

    def make(start: int, stop: int) -> Array:
        return decoders.scaled(start, stop, parts["weight"], parts["SCB"], None, invert=127.0)

    return Weight(shape, "decoded from bitsandbytes int8", make)


def is_gptq(parts: Parts) -> bool:
    """GPTQ packs along the inputs, AWQ along the outputs: the scales have as many columns as there are outputs."""
    return parts.shape("qweight")[-1] == parts.shape("scales")[-1]


def gptq(parts: Parts) -> Weight:
    packed, scales, zeros = (parts.shape(part) for part in ("qweight", "scales", "qzeros"))
    _need(len(packed) == len(scales) == len(zeros) == 2, "its parts are no matrices")
    words = {parts.infos[part].dtype for part in ("qweight", "qzeros")}
    _need(words <= {"int32", "uint32"}, "its codes are not in words of 32 bits")
    groups, out = scales
    fitting = [bits for bits in (4, 8, 2, 3) if out and zeros[1] == -(-out * bits // 32)]
    if "g_idx" in parts.infos:  # one entry per input
        fitting = [bits for bits in fitting if parts.shape("g_idx") == (packed[0] * 32 // bits,)]
    told = parts.config.get("bits")
    bits = told if told in fitting and not isinstance(told, bool) else (fitting or [0])[0]
    _need(bits > 0 and groups > 0 and zeros[0] == groups, "its zeros or its group index do not fit its scales")
    into = packed[0] * 32 // bits
    _need(into > 0, "it has no inputs")
    size = -(-into // groups)
    offset = 0 if parts.config.get("checkpoint_format") == "gptq_v2" else 1

    def make(start: int, stop: int) -> Array:
        which = np.asarray(parts["g_idx"]) if "g_idx" in parts.infos else np.arange(into) // size
        if which.min(initial=0) < 0 or which.max(initial=0) >= groups:
            raise ValueError("a group index beyond the scales")
        return decoders.gptq(start, stop, parts["qweight"], parts["qzeros"], parts["scales"], which, bits, offset)

    return _turned(Weight((into, out), f"decoded from GPTQ, {bits} bits", make))


def awq(parts: Parts) -> Weight:
    packed, scales, zeros = (parts.shape(part) for part in ("qweight", "scales", "qzeros"))
    _need(len(packed) == len(scales) == len(zeros) == 2, "its parts are no matrices")
    words = {parts.infos[part].dtype for part in ("qweight", "qzeros")}
    _need(words <= {"int32", "uint32"}, "its codes are not in words of 32 bits")
    into, out = packed[0], packed[1] * 8
    fits = scales[1] == out and zeros == (scales[0], packed[1]) and scales[0] > 0 and into % max(scales[0], 1) == 0
    _need(fits, "its scales do not fit its codes")
    told = parts.config.get("version") or parts.config.get("kernel")
    _need(not isinstance(told, str) or told.lower() in ("gemm", "gemv", "awq"), f"AWQ's {told} layout is not decoded")
    group = into // scales[0]

    def make(start: int, stop: int) -> Array:
        return decoders.awq(start, stop, parts["qweight"], parts["qzeros"], parts["scales"], group)

    return _turned(Weight((into, out), "decoded from AWQ, 4 bits", make))


def _turned(weight: Weight) -> Weight:
    """A weight stored (in, out) among (out, in) ones: the rows stay, the axes say so."""
    return replace(weight, axes="io", how=f"{weight.how}, stored (in, out)")


def scaled(parts: Parts) -> Weight:
    """FP8 or int8 with scales: of all, of each row, of groups of a row, of square blocks."""
    name = next(part for part in SCALES if part in parts.infos)
    shape, scales, dtype = parts.shape("weight"), parts.shape(name), parts.infos["weight"].dtype
    many = math.prod(scales)
    if len(shape) == 3:
        return _scaled_experts(parts, name)
    _need(len(shape) == 2, f"it has {len(shape)} axes")
    if many == 1:
        form = "one scale"
    elif scales in ((shape[0],), (shape[0], 1)):
        form = "a scale per row"
    elif len(scales) == 2 and scales[0] == shape[0] and scales[1] and shape[1] % scales[1] == 0:
        form = f"a scale per {shape[1] // scales[1]} of a row"
    else:
        block = next((b for b in _blocks(parts) if _counts(shape, b) == scales), None)
        if block is None:
            raise Mismatch(f"its {scales} scales do not fit {shape}")
        form, fitting = f"a scale per {block[0]}×{block[1]}", block
        return Weight(shape, f"decoded from {dtype}, {form}", lambda a, b: _blockwise(a, b, parts, name, fitting))
    zeros = "weight_zero_point" if "weight_zero_point" in parts.infos else ""
    if zeros:
        _need(math.prod(parts.shape(zeros)) in (1, many), "its zero points do not fit its scales")

    def make(start: int, stop: int) -> Array:
        zero = np.asarray(parts[zeros]).reshape(scales) if zeros and many > 1 else parts[zeros] if zeros else None
        return decoders.scaled(start, stop, parts["weight"], parts.scales(name), zero)

    return Weight(shape, f"decoded from {dtype}, {form}", make)


def _blocks(parts: Parts) -> list[tuple[int, int]]:
    """Sizes of square blocks: those that the configuration names, else DeepSeek's."""
    groups = parts.config.get("config_groups")
    told = [parts.config.get("weight_block_size")]
    for group in groups.values() if isinstance(groups, Mapping) else ():
        weights = group.get("weights") if isinstance(group, Mapping) else None
        told.append(weights.get("block_structure") if isinstance(weights, Mapping) else None)
    sizes = [size for size in told if isinstance(size, list) and len(size) == 2]
    return [(a, b) for a, b in [*sizes, [BLOCK, BLOCK]] if all(isinstance(n, int) and n > 0 for n in (a, b))]


def _counts(shape: tuple[int, ...], block: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(-(-n // size) for n, size in zip(shape, block, strict=True))


def _blockwise(start: int, stop: int, parts: Parts, name: str, block: tuple[int, int]) -> Array:
    scales = parts.scales(name)[np.arange(start, stop) // block[0]]
    values = np.asarray(parts["weight"][start:stop]).astype(np.float32)
    made: Array = values * np.repeat(scales, block[1], axis=1)[:, : values.shape[1]]
    return made


def _scaled_experts(parts: Parts, name: str) -> Weight:
    """(experts, rows, columns) with one scale each, one per row or column of each, or one per square block."""
    shape, scales = parts.shape("weight"), parts.shape(name)
    form = (*scales, *(1,) * (3 - len(scales)))
    _need(len(form) == 3 and form[0] in (1, shape[0]), f"its {scales} scales do not fit {shape}")
    across = form[1:] == (shape[2], 1) and (shape[1] != shape[2] or parts.stem.endswith("down_proj"))
    if across:  # fbgemm: a scale per column, stored as if per row
        form = (form[0], 1, shape[2])
    plain = tuple(1 if count == n else n for n, count in zip(shape[1:], form[1:], strict=True))
    block = next((b for b in (plain, *_blocks(parts)) if _counts(shape[1:], b) == form[1:]), None)
    if block is None:
        raise Mismatch(f"its {scales} scales do not fit {shape}")
    high, wide = block

    def make(start: int, stop: int) -> Array:
        which = np.arange(start, stop)
        expert, row = which // shape[1], which % shape[1]
        each = parts.scales(name).reshape(form)[expert if form[0] > 1 else 0 * expert, row // high]
        spread = np.repeat(each, wide, axis=1)[:, : shape[2]]
        made: Array = np.asarray(parts["weight"][expert, row]).astype(np.float32) * spread
        return made

    return Weight(shape, f"decoded from {parts.infos['weight'].dtype} with scales", make)


def mxfp4(parts: Parts) -> Weight:
    """gpt-oss: blocks (experts, rows, groups, 16), scales (experts, rows, groups); rows are outputs."""
    blocks, scales = parts.shape("blocks"), parts.shape("scales")
    _need(
        len(blocks) >= 3 and blocks[:-1] == scales and blocks[-1] == MXFP4_BLOCK // 2,
        "its blocks and scales do not fit",
    )
    shape = (*blocks[:-2], blocks[-2] * MXFP4_BLOCK)
    lines = math.prod(shape[:-1])

    def make(start: int, stop: int) -> Array:
        raw = np.asarray(parts["blocks"]).reshape(lines, -1)
        each = np.asarray(parts["scales"]).reshape(lines, -1)
        return decoders.microscaled(start, stop, raw, each, MXFP4_BLOCK, power=True)

    return Weight(shape, "decoded from MXFP4", make, axes="eoi" if len(shape) == 3 else "")


def fp4(parts: Parts) -> Weight:
    """Two FP4 codes to a byte (rows, columns/2), a scale per 16 (NVFP4) or 32 (MXFP4) of them."""
    codes = "weight_packed" if "weight_packed" in parts.infos else "weight"
    packed, scales = parts.shape(codes), parts.shape("weight_scale")
    _need(
        len(packed) == len(scales) == 2 and packed[0] == scales[0] and scales[1] > 0, "its scales do not fit its codes"
    )
    shape = (packed[0], packed[1] * 2)
    power = parts.infos["weight_scale"].dtype == "uint8"
    block = MXFP4_BLOCK if power else NVFP4_BLOCK
    _need(shape[1] == scales[1] * block, "its scales do not fit its codes")
    divisor, factor = "weight_global_scale" in parts.infos, "weight_scale_2" in parts.infos
    _need(power or divisor or factor, "its global scale is missing")
    for outer in ("weight_global_scale", "weight_scale_2"):
        _need(outer not in parts.infos or math.prod(parts.shape(outer)) == 1, "it has several global scales")

    def make(start: int, stop: int) -> Array:
        outer = 1.0
        if divisor:
            outer = 1.0 / float(np.asarray(parts["weight_global_scale"]).reshape(-1)[0])
        elif factor:
            outer = float(np.asarray(parts["weight_scale_2"]).reshape(-1)[0])
        raw = np.asarray(parts[codes])
        return decoders.microscaled(start, stop, raw, parts["weight_scale"], block, power=power, factor=outer)

    return Weight(shape, f"decoded from {'MXFP4' if power else 'NVFP4'}", make)


def packed(parts: Parts) -> Weight:
    """compressed-tensors' pack-quantized: words (rows, ·), scales (rows, groups), and the shape."""
    packed, scales = parts.shape("weight_packed"), parts.shape("weight_scale")
    given = parts.infos.get("weight_shape")
    _need(len(packed) == 2 and given is not None, "its shape is missing")
    _need(
        given is not None and given.dtype in ("int32", "int64") and math.prod(given.shape) == 2, "its shape is no pair"
    )
    sizes = np.asarray(parts["weight_shape"]).reshape(-1)
    shape = tuple(int(n) for n in sizes)
    _need(
        len(shape) == 2 and shape[0] == packed[0] and 0 < shape[1] <= 32 * packed[1], "its shape does not fit its codes"
    )
    scales = scales if len(scales) == 2 else (scales[0] if scales else 1, 1)
    bits = _bits(parts, shape[1], packed[1])
    _need(scales[0] in (1, shape[0]) and scales[1] > 0, "its scales do not fit its codes")
    which = "weight_g_idx" if "weight_g_idx" in parts.infos else ""
    zeros = "weight_zero_point" if "weight_zero_point" in parts.infos else ""

    def make(start: int, stop: int) -> Array:
        each = np.broadcast_to(np.asarray(parts["weight_scale"]).reshape(scales), (shape[0], scales[1]))
        order = np.asarray(parts[which]) if which else None
        if order is not None and (order == -1).all():  # in order
            order = None
        if order is not None and (order.shape != (shape[1],) or order.min() < 0 or order.max() >= scales[1]):
            raise ValueError("a group index that does not fit the scales")
        zero = np.asarray(parts[zeros]) if zeros else None
        return decoders.packed(start, stop, parts["weight_packed"], each, zero, bits, shape[1], order)

    return Weight(shape, f"decoded from compressed-tensors, {bits} bits", make)


def _bits(parts: Parts, columns: int, words: int) -> int:
    """Bits of a code: as the configuration says, else the number that fits the words."""
    groups = parts.config.get("config_groups")
    told = set()
    for group in groups.values() if isinstance(groups, Mapping) else ():
        weights = group.get("weights") if isinstance(group, Mapping) else None
        told.add(str(weights.get("num_bits")) if isinstance(weights, Mapping) else "")
    fitting = [b for b in (4, 8, 2, 3, 5, 6, 7) if words in (-(-columns * b // 32), -(-columns // (32 // b)))]
    chosen = [b for b in fitting if str(b) in told] or fitting
    _need(bool(chosen), "its codes do not fit its shape")
    return chosen[0]


def mlx(parts: Parts) -> Weight:
    packed, scales, biases = (parts.shape(part) for part in ("weight", "scales", "biases"))
    own = parts.config.get(parts.stem)
    said = own if isinstance(own, Mapping) else parts.config
    group, told = said.get("group_size"), said.get("bits")
    _need(
        len(packed) == len(scales) == 2 and scales == biases and scales[0] == packed[0],
        "its scales do not fit its codes",
    )
    if not isinstance(group, int) or group not in (16, 32, 64, 128) or not isinstance(told, int):
        raise Mismatch("no configuration says how many bits and how long its groups are")
    columns, bits = scales[1] * group, int(told)
    _need(bits in (2, 3, 4, 5, 6, 8) and packed[1] * 32 == columns * bits, "its codes do not fit its scales")

    def make(start: int, stop: int) -> Array:
        return decoders.mlx(start, stop, parts["weight"], parts["scales"], parts["biases"], bits, columns)

    return Weight((packed[0], columns), f"decoded from MLX, {bits} bits", make)
