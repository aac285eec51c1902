"""Find the stored tensors that hold the codes, scales and zero points of one weight, and decode them.

Each scheme is recognized by the names and types of its parts. Weights with parts that do not fit together, and unknown
schemes, are listed with the reason and never analyzed as integers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from layerscope.numerics.lazy_rows import lazy_rows
from layerscope.sources.layouts.torch_names import TensorInfo
from layerscope.sources.quantization import schemes
from layerscope.sources.quantization.schemes import Config, Fetch, Mismatch, Parts, Weight

STATE_INFIX = ".weight.quant_state.bitsandbytes__"
CODE_DTYPES = ("int8", "uint8", "int16", "uint16", "int32", "uint32")  # dtypes of codes; indices are int64
UNDECODED_SCHEMES = {  # part name → a scheme that is not decoded
    ".codebooks": "AQLM", ".q_weight": "EXL2", ".W_q": "HQQ", ".weight._data": "quanto", ".Qidxs": "QuIP#",
    ".bitmask": "sparse compressed-tensors", ".meta": "marlin 2:4", ".qweight_type": "GGUF", ".trellis": "EXL3",
    ".indices": "VPTQ", ".weight_packed": "compressed-tensors", ".B": "marlin", ".qweight": "a packed scheme",
}  # fmt: skip


def decode_tensors(tensors: list[TensorInfo], fetch: Fetch, config: Config) -> tuple[list[TensorInfo], Fetch]:
    """Replace the codes of every known scheme by the decoded weight.

    :return: the tensors, and a function that fetches one of them by name.
    """
    if not any(_may_be_codes(tensor) for tensor in tensors):
        return tensors, fetch
    settings = _quantization_settings(config)
    weights: dict[str, Weight] = {}
    replaced: dict[str, list[TensorInfo]] = {}
    part_of: dict[str, str] = {}
    undecoded: dict[str, str] = {}
    for parts in _group_by_module(tensors, fetch, settings):
        scheme = next((scheme for scheme in SCHEMES if scheme.matches(parts)), None)
        if scheme is None:
            undecoded |= _undecoded_reasons(parts)
            continue
        name, codes = scheme.name(parts), parts.infos[scheme.codes]
        try:
            scheme.check_understood(parts)
            weight = scheme.decode(parts)
            weights[name] = weight
            info = TensorInfo(name, weight.shape, "float32", how=weight.how, axes=weight.axes)
        except Mismatch as mismatch:
            info = TensorInfo(name, codes.shape, codes.dtype, fault=f"quantized, but {mismatch}")
        replaced.setdefault(codes.name, []).append(info)
        ingredients = parts.infos.keys() - {scheme.codes, "bias", "weight.bias"}
        part_of |= {parts.infos[key].name: name for key in ingredients}

    undecoded |= _float8_with_scales(tensors, {*replaced, *part_of, *undecoded})
    decoded: list[TensorInfo] = []
    for tensor in tensors:
        if tensor.name in replaced:
            decoded += replaced[tensor.name]
        elif tensor.name in part_of:
            decoded.append(replace(tensor, part_of=part_of[tensor.name]))
        elif tensor.name in undecoded:
            decoded.append(replace(tensor, fault=undecoded[tensor.name]))
        else:
            decoded.append(tensor)

    def fetch_decoded(name: str) -> Any:
        weight = weights.get(name)
        if weight is None:
            return fetch(name)
        flat = (math.prod(weight.shape[:-1]), weight.shape[-1])
        rows = lazy_rows(weight.shape if len(weight.shape) <= 3 else flat, np.float32, weight.decode_rows)
        return rows if len(weight.shape) <= 3 else np.asarray(rows).reshape(weight.shape)

    return decoded, fetch_decoded


def _float8_with_scales(tensors: list[TensorInfo], settled: set[str]) -> dict[str, str]:
    """Name → why it is not read, of float8 tensors with a scale below their module, or named after it."""
    owners: dict[str, str] = {}  # name of a module or tensor → name of what may be its scale
    for info in tensors:
        parent, _, last = info.name.rpartition(".")
        if info.name not in settled and any(word in last.lower() for word in (*SCALING_WORDS, "amax")):
            words = parent.split(".")
            owners |= {".".join(words[: i + 1]): info.name for i in range(len(words))}
            owners[info.name.rpartition("_")[0]] = info.name
    reasons = {}
    for info in tensors:
        is_open = info.dtype.startswith("float8") and len(info.shape) > 1 and info.name not in settled
        module = info.name.rpartition(".")[0] if info.name.endswith(".weight") else info.name
        found = owners.get(info.name) or owners.get(module) if is_open and module else None
        if found and found.rpartition(".")[2] not in ACTIVATION_PARTS:
            reasons[info.name] = f"quantized as float8 with unknown scales ({found[:80]}), not decoded"
    return reasons


def _may_be_codes(info: TensorInfo) -> bool:
    return (
        (info.dtype in CODE_DTYPES and len(info.shape) > 1)
        or info.dtype.startswith("float8")
        or STATE_INFIX in info.name
    )


def _is_plain_weight(info: TensorInfo) -> bool:
    """Return whether this is a floating-point weight, regardless of the tensors stored next to it."""
    return info.name.endswith(".weight") and info.dtype in ("float16", "bfloat16", "float32", "float64")


def _quantization_settings(config: Config) -> Config:
    for key in ("quantization_config", "compression_config", "quantization"):
        value = config.get(key)
        if isinstance(value, Mapping):
            return value
    return {}


SUFFIXES = (
    "qweight", "qzeros", "scales", "g_idx", "biases", "SCB", "weight_format", "weight", "weight_scale_inv",
    "weight_scale", "weight_scale_2", "weight_global_scale", "weight_zero_point", "weight_packed", "weight_shape",
    "weight_g_idx", "weight_offset", "scale", "qscale_weight", "qscale_act", "input_scale", "input_global_scale",
    "weight.absmax", "weight.quant_map", "weight.nested_absmax", "weight.nested_quant_map", *schemes.FLOAT8_SCALES,
)  # fmt: skip
SCALING_WORDS = ("scal", "zero", "absmax", "qmap", "quant_map")  # in the name of a tensor that forms the weight
ACTIVATION_PARTS = frozenset((  # scales and zero points of activations, which do not form the weight
    "input_scale", "input_global_scale", "input_zero_point", "output_scale", "output_zero_point", "scale_input",
    "activation_scaling_factor", "qscale_act", "k_scale", "v_scale", "q_scale", "kv_cache_scaling_factor",
))  # fmt: skip


def _group_by_module(tensors: list[TensorInfo], fetch: Fetch, config: Config) -> Iterator[Parts]:
    """Yield the tensors of each module, by name within the module."""
    groups: dict[str, dict[str, TensorInfo]] = {}
    suffixes = sorted(SUFFIXES, key=len, reverse=True)
    names = {tensor.name for tensor in tensors}
    for tensor in tensors:
        name = tensor.name
        stem, part = name.rpartition(".")[0], name.rpartition(".")[2]
        if STATE_INFIX in name:
            stem, _, part = name.partition(STATE_INFIX)
            part = f"{schemes.STATE_PART}{part}"
        elif name.endswith(("_blocks", "_scales")) and {f"{name[:-7]}_blocks", f"{name[:-7]}_scales"} <= names:
            stem, part = name[:-7], name[-6:]
        elif name.endswith(("_scale_inv", "_scale")) and name.rpartition("_scale")[0] in names:
            parameter, _, _ = name.rpartition("_scale")  # a bare parameter and its scale: experts.gate_up_proj_scale
            if not parameter.endswith(".weight"):
                stem, part = parameter, "weight" + name.removeprefix(parameter)
        elif f"{name}_scale" in names or f"{name}_scale_inv" in names:
            if not name.endswith(".weight") and name != "weight":
                stem, part = name, "weight"
        else:
            ending = next((s for s in suffixes if name.endswith(f".{s}")), "")
            if ending:
                stem, part = name[: -len(ending) - 1], ending
        groups.setdefault(stem, {})[part] = tensor
    for stem, infos in groups.items():
        if len(infos) > 1 or any("int" in info.dtype and len(info.shape) > 1 for info in infos.values()):
            yield Parts(stem, infos, fetch, config)


def _weight_name(parts: Parts) -> str:
    return f"{parts.stem}.weight" if parts.stem else "weight"


def _module_name(parts: Parts) -> str:
    return parts.stem


def _parameter_name(parts: Parts) -> str:
    """Return the name of the weight; a bare parameter such as experts.gate_up_proj keeps its own name."""
    return parts.stem if parts.infos["weight"].name == parts.stem else _weight_name(parts)


@dataclass(frozen=True)
class Scheme:
    """A storage format of quantized weights, recognized by the names and types of its parts."""

    codes: str  # the part that holds the codes
    required: tuple[str, ...]  # other parts that must be present
    decode: Callable[[Parts], Weight]
    dtypes: tuple[str, ...] = ("*",)  # globs for the dtype of the codes
    any_of: tuple[str, ...] = ()  # globs; at least one must match a part
    optional: tuple[str, ...] = ()  # parts that change the weight and need not be there
    name: Callable[[Parts], str] = _weight_name  # returns the name of the weight

    def matches(self, parts: Parts) -> bool:
        """Return whether the parts have the names and types of this scheme."""
        names = parts.infos.keys()
        return (
            {self.codes, *self.required} <= names
            and (not self.any_of or any(fnmatchcase(name, glob) for name in names for glob in self.any_of))
            and any(fnmatchcase(parts.infos[self.codes].dtype, glob) for glob in self.dtypes)
        )

    def check_understood(self, parts: Parts) -> None:
        """Check that the scheme knows every part that may be a scale, a zero point or a code table.

        :raises Mismatch: a part is unknown; the weight read without it would be wrong.
        """
        known = (self.codes, *self.required, *self.any_of, *self.optional)
        unknown = [name for name in _scaling_parts(parts) if not any(fnmatchcase(name, glob) for glob in known)]
        if unknown:
            raise Mismatch(f"the meaning of {', '.join(sorted(unknown))[:80]} beside it is unknown")


def _scaling_parts(parts: Parts) -> list[str]:
    """The parts that may be scales, zero points or code tables of the weight, by their names."""
    return [
        name
        for name in parts.infos
        if name not in ACTIVATION_PARTS and any(word in name.lower() for word in SCALING_WORDS)
    ]


ZERO_POINT = ("weight_zero_point",)
SCHEMES = (  # the first matching scheme decodes
    Scheme(
        "weight", ("weight.absmax", "weight.quant_map"), schemes.bitsandbytes_4bit, any_of=(f"{schemes.STATE_PART}*",),
        optional=("weight.nested_absmax", "weight.nested_quant_map"),
    ),
    Scheme("weight", ("SCB",), schemes.bitsandbytes_8bit, ("int8",)),
    Scheme("qweight", ("qzeros", "scales"), schemes.gptq_or_awq),
    Scheme("blocks", ("scales",), schemes.mxfp4, ("uint8",), name=_module_name),
    Scheme("weight_packed", ("weight_scale",), schemes.compressed_tensors, ("int32",), optional=ZERO_POINT),
    Scheme("weight_packed", ("weight_scale",), schemes.fp4, ("uint8",), optional=("weight_global_scale",)),
    Scheme("weight", ("scales", "biases"), schemes.mlx, ("uint32",)),
    Scheme("weight", ("weight_scale_2",), schemes.fp4, ("uint8",), any_of=schemes.SCALES),
    Scheme(
        "weight", (), schemes.scaled, ("float8*", "int8"), any_of=schemes.SCALES, optional=ZERO_POINT,
        name=_parameter_name,
    ),
    Scheme("weight", (), schemes.scaled, ("float8*",), any_of=schemes.FLOAT8_SCALES),
)  # fmt: skip


def _undecoded_reasons(parts: Parts) -> dict[str, str]:
    """Name → why it is not decoded, of the codes of an unknown scheme and of the tensors that belong to them."""
    codes = [info for info in parts.infos.values() if _may_be_codes(info) and len(info.shape) > 1]
    scaling = _scaling_parts(parts)
    belonging = {info.name for info in [*codes, *(parts.infos[part] for part in scaling)]}
    method = _undecoded_scheme(parts, codes[0]) if codes and "int" in codes[0].dtype else ""
    if method:
        belonging |= {i.name for i in parts.infos.values() if len(i.shape) > 1 and not _is_plain_weight(i)}
        return dict.fromkeys(belonging, f"quantized with {method}, not decoded")
    if not codes or not scaling:
        return {}
    form = "as float8" if codes[0].dtype.startswith("float8") else f"as {codes[0].dtype}"
    reason = f"quantized {form} with unknown scales ({', '.join(sorted(scaling))[:80]}), not decoded"
    return dict.fromkeys(belonging, reason)


def _undecoded_scheme(parts: Parts, codes: TensorInfo) -> str:
    """Return the scheme of codes that are not decoded, from the configuration or the names of the parts."""
    method = parts.config.get("quant_method") or parts.config.get("format")
    if isinstance(method, str):
        return method[:40]
    return next(
        (name for part, name in UNDECODED_SCHEMES.items() if codes.name.endswith(part) or part[1:] in parts.infos), ""
    )
