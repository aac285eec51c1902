"""Which stored tensors are codes, scales and zeros of one weight, and the weight that they make.

Each scheme is told by the names of its parts. A weight whose parts do not fit each other, and every scheme that is not
known, is listed with its reason and never analysed as integers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from layerscope.numerics.lazy_rows import rows_of
from layerscope.sources.layouts.torch_names import TensorInfo
from layerscope.sources.quantization import schemes
from layerscope.sources.quantization.schemes import Config, Fetch, Mismatch, Parts, Weight

STATE = ".weight.quant_state.bitsandbytes__"
CODES = ("int8", "uint8", "int16", "uint16", "int32", "uint32")  # what codes are kept in; indices are int64
FOREIGN = {  # what gives away a scheme that is not decoded
    ".codebooks": "AQLM", ".q_weight": "EXL2", ".W_q": "HQQ", ".weight._data": "quanto", ".Qidxs": "QuIP#",
    ".bitmask": "compressed-tensors' sparse", ".meta": "marlin 2:4", ".qweight_type": "GGUF", ".trellis": "EXL3",
    ".indices": "VPTQ", ".weight_packed": "compressed-tensors", ".B": "marlin", ".qweight": "a packed scheme",
}  # fmt: skip


def decoded(tensors: list[TensorInfo], fetch: Fetch, config: Config) -> tuple[list[TensorInfo], Fetch]:
    """The tensors with every known weight in the place of its codes, and what fetches both kinds."""
    if not any(_may_be_codes(tensor) for tensor in tensors):
        return tensors, fetch
    settings = _settings(config)
    made: dict[str, Weight] = {}
    replaced: dict[str, list[TensorInfo]] = {}
    part_of: dict[str, str] = {}
    foreign: dict[str, str] = {}
    for parts in _grouped(tensors, fetch, settings):
        name, codes, build = _scheme(parts)
        if build is None:
            if codes:
                others = (info for info in parts.infos.values() if len(info.shape) > 1 and not _plain(info))
                foreign |= {info.name: codes for info in others}
            continue
        holder = parts.infos[codes].name
        try:
            weight = build(parts)
            made[name] = weight
            info = TensorInfo(name, weight.shape, "float32", how=weight.how, axes=weight.axes)
        except Mismatch as why:
            info = TensorInfo(name, parts.shape(codes), parts.infos[codes].dtype, fault=f"quantised, but {why}")
        replaced.setdefault(holder, []).append(info)
        used = [other for key, other in parts.infos.items() if key != codes and key not in ("bias", "weight.bias")]
        part_of |= {other.name: name for other in used}

    found: list[TensorInfo] = []
    for tensor in tensors:
        if tensor.name in replaced:
            found += replaced[tensor.name]
        elif tensor.name in part_of:
            found.append(replace(tensor, part_of=part_of[tensor.name]))
        elif tensor.name in foreign:
            found.append(replace(tensor, fault=foreign[tensor.name]))
        else:
            found.append(tensor)

    def both(name: str) -> Any:
        weight = made.get(name)
        if weight is None:
            return fetch(name)
        flat = (math.prod(weight.shape[:-1]), weight.shape[-1])
        rows = rows_of(weight.shape if len(weight.shape) <= 3 else flat, np.float32, weight.make)
        return rows if len(weight.shape) <= 3 else np.asarray(rows).reshape(weight.shape)

    return found, both


def _may_be_codes(info: TensorInfo) -> bool:
    return (info.dtype in CODES and len(info.shape) > 1) or info.dtype.startswith("float8") or STATE in info.name


def _plain(info: TensorInfo) -> bool:
    """A weight in its own right, whatever lies beside it."""
    return info.name.endswith(".weight") and info.dtype in ("float16", "bfloat16", "float32", "float64")


def _settings(config: Config) -> Config:
    for key in ("quantization_config", "compression_config", "quantization"):
        value = config.get(key)
        if isinstance(value, Mapping):
            return value
    return {}


SUFFIXES = (
    "qweight", "qzeros", "scales", "g_idx", "biases", "SCB", "weight_format", "weight", "weight_scale_inv",
    "weight_scale", "weight_scale_2", "weight_global_scale", "weight_zero_point", "weight_packed", "weight_shape",
    "weight_g_idx", "weight_offset", "scale", "qscale_weight", "qscale_act", "input_scale", "input_global_scale",
    "weight.absmax", "weight.quant_map", "weight.nested_absmax", "weight.nested_quant_map",
)  # fmt: skip


def _grouped(tensors: list[TensorInfo], fetch: Fetch, config: Config) -> Iterator[Parts]:
    """Tensors that belong to one module, the module's name taken off."""
    groups: dict[str, dict[str, TensorInfo]] = {}
    known = sorted(SUFFIXES, key=len, reverse=True)
    names = {tensor.name for tensor in tensors}
    for tensor in tensors:
        name = tensor.name
        stem, part = name.rpartition(".")[0], name.rpartition(".")[2]
        if STATE in name:
            stem, _, part = name.partition(STATE)
            part = f"state.{part}"
        elif name.endswith(("_blocks", "_scales")) and {f"{name[:-7]}_blocks", f"{name[:-7]}_scales"} <= names:
            stem, part = name[:-7], name[-6:]
        elif name.endswith(("_scale_inv", "_scale")) and name.rpartition("_scale")[0] in names:
            whole, _, _ = name.rpartition("_scale")  # a bare parameter and its scale: experts.gate_up_proj_scale
            if not whole.endswith(".weight"):
                stem, part = whole, "weight" + name.removeprefix(whole)
        elif f"{name}_scale" in names or f"{name}_scale_inv" in names:
            if not name.endswith(".weight") and name != "weight":
                stem, part = name, "weight"
        else:
            ending = next((s for s in known if name.endswith(f".{s}")), "")
            if ending:
                stem, part = name[: -len(ending) - 1], ending
        groups.setdefault(stem, {})[part] = tensor
    for stem, infos in groups.items():
        if len(infos) > 1 or any("int" in info.dtype and len(info.shape) > 1 for info in infos.values()):
            yield Parts(stem, infos, fetch, config)


def _scheme(parts: Parts) -> tuple[str, str, Callable[[Parts], Weight] | None]:
    """(name of the weight, the part that holds its codes, what makes it); no maker and a reason where none does."""
    have, dtypes = parts.infos.keys(), {part: info.dtype for part, info in parts.infos.items()}
    weight = f"{parts.stem}.weight" if parts.stem else "weight"
    if any(part.startswith("state.") for part in have) and {"weight", "weight.absmax", "weight.quant_map"} <= have:
        return weight, "weight", schemes.bitsandbytes_4bit
    if {"weight", "SCB"} <= have and dtypes["weight"] == "int8":
        return weight, "weight", schemes.bitsandbytes_8bit
    if {"qweight", "qzeros", "scales"} <= have:
        return weight, "qweight", schemes.gptq if schemes.is_gptq(parts) else schemes.awq
    if {"blocks", "scales"} <= have and dtypes["blocks"] == "uint8":
        return parts.stem, "blocks", schemes.mxfp4
    if {"weight_packed", "weight_scale"} <= have and dtypes["weight_packed"] == "int32":
        return weight, "weight_packed", schemes.packed
    if {"weight_packed", "weight_scale"} <= have and dtypes["weight_packed"] == "uint8":
        return weight, "weight_packed", schemes.fp4
    if {"weight", "scales", "biases"} <= have and dtypes["weight"] == "uint32":
        return weight, "weight", schemes.mlx
    scale = next((part for part in schemes.SCALES if part in have), "")
    if "weight" in have and scale and dtypes["weight"] == "uint8" and "weight_scale_2" in have:
        return weight, "weight", schemes.fp4
    if "weight" in have and scale and (dtypes["weight"].startswith("float8") or dtypes["weight"] == "int8"):
        bare = parts.infos["weight"].name == parts.stem
        return parts.stem if bare else weight, "weight", schemes.scaled
    narrow = dtypes.get("weight", "").startswith("float8")
    if narrow and any("scale" in part for part in have - {"weight"}):
        return "", "quantised as float8 with scales of an unknown kind, not decoded", None
    codes = [info for info in parts.infos.values() if info.dtype in CODES and len(info.shape) > 1]
    method = _foreign(parts, codes[0]) if codes else ""
    return "", f"quantised with {method}, not decoded" if method else "", None


def _foreign(parts: Parts, codes: TensorInfo) -> str:
    """The scheme of codes that are not decoded, as far as a configuration or their names tell it."""
    method = parts.config.get("quant_method") or parts.config.get("format")
    if isinstance(method, str):
        return method[:40]
    return next((name for part, name in FOREIGN.items() if codes.name.endswith(part) or part[1:] in parts.infos), "")
