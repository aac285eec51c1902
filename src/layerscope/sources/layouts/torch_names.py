"""From names, shapes and dtypes of a state dict to layers: PyTorch's naming, and what config.json adds.

Sizes never decide what an axis means. Two-dimensional tensors are (out, in), convolutions (out, in, positions), as
PyTorch stores them; gates and fused projections are split where a name (``weight_ih_l0``, ``in_proj_weight``) or a
Hugging Face ``model_type`` states the split.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from layerscope.records.layers import LayerRef, Part
from layerscope.sources.layouts.experts import experts, is_experts, renamed
from layerscope.sources.layouts.fused_projections import fused_parts, turned, with_heads

FLOATS = re.compile(r"(b?float(16|32|64)|float8_\w+)$")
EMBEDDING = re.compile(r"(\w*_)?(embed|embd|emb|embeddings?|embed_tokens|embed_positions|wte|wpe|shared|pos_embed\w*)$")
RECURRENT = re.compile(r"(?P<stem>.*)weight_(?P<which>ih|hh|hr)(?P<level>(_l\d+)?(_reverse)?)$")
INGREDIENT = re.compile(r"(^|\.)parametrizations\.\w+\.original\d?$")
NORM = re.compile(r"(.*norm\w*|bn\d*|ln_\w+|ln\d*)$", re.IGNORECASE)
LATENT = re.compile(r"\.attn_[kv]_b\.")  # llama.cpp: a matrix per head
CONVOLVED = re.compile(r"(weight|kernel|buffer|conv\d*|conv\w{0,20})$", re.IGNORECASE)  # what three axes need to be one
LONGEST_WORD = 200  # letters
GATES = {4: ("lstm", "ifgo"), 3: ("gru", "rzn"), 1: ("rnn", "")}
GROUPABLE = ("conv1d", "conv2d", "conv3d")
CONV = {3: ("conv1d", "oiw"), 4: ("conv2d", "oihw"), 5: ("conv3d", "oidhw")}


@dataclass(frozen=True)
class TensorInfo:
    """One stored tensor as its header describes it."""

    name: str
    shape: tuple[int, ...]
    dtype: str  # numpy-style name
    storage: Hashable = None  # equal for tensors that are the same memory; None: its own
    fault: str = ""  # why it can never be read as numbers
    how: str = ""  # how it is read, for people
    axes: str = ""  # of experts, where how it is stored says so
    part_of: str = ""  # the tensor that it is an ingredient of


def layers_of(
    tensors: Iterable[TensorInfo],
    config: Mapping[str, Any] | None = None,
    beside: Mapping[str, tuple[int, ...]] | None = None,
) -> list[LayerRef]:
    """One LayerRef per matrix, and one per tensor that is none, in stored order; tied tensors once.

    ``beside`` are shapes of other tensors of the model, for what is told by its neighbours.
    """
    known = list(tensors)
    shapes = {**(beside or {}), **{t.name: t.shape for t in known}}
    first: dict[Hashable, str] = {}
    aliases: dict[str, list[str]] = {}
    refs: list[LayerRef] = []
    for tensor in known:
        owner = first.setdefault(tensor.storage, tensor.name) if tensor.storage is not None else tensor.name
        if owner != tensor.name:
            aliases.setdefault(owner, []).append(tensor.name)
            refs.append(_skip(tensor, "tied", f"same as {owner}"))
        else:
            refs.extend(renamed(with_heads(ref, config or {})) for ref in _layers(tensor, shapes, config or {}))
    return number(replace(ref, aliases=tuple(aliases.get(ref.tensor, ()))) for ref in refs)


def number(refs: Iterable[LayerRef]) -> list[LayerRef]:
    """The same refs with their positions as index and names that are unique."""
    made: list[LayerRef] = []
    seen: dict[str, int] = {}
    for i, ref in enumerate(refs):
        name = ref.name
        while name in seen:  # a tensor may be called what a part of another is called
            seen[ref.name] = again = seen.get(ref.name, 1) + 1
            name = f"{ref.name}#{again}"
        seen[name] = 1
        made.append(replace(ref, index=i, name=name))
    return made


def split_ref(ref: LayerRef, parts: Iterable[tuple[str, Part]], how: str) -> list[LayerRef]:
    """One ref per named part of a tensor."""
    made = []
    for label, part in parts:
        shape = list(ref.shape)
        shape[part.axis] = part.count(shape[part.axis])
        made.append(replace(ref, name=f"{ref.name}[{label}]", shape=tuple(shape), part=part, how=both(ref.how, how)))
    return made


def both(*hows: str) -> str:
    """Several words on how a tensor is read, as one."""
    return ", ".join(filter(None, hows))


def matches(pattern: re.Pattern[str], word: str) -> bool:
    """Does a word of a name match? Words longer than any model's are not looked at: matching them is quadratic."""
    return len(word) <= LONGEST_WORD and pattern.match(word) is not None


def equal_parts(labels: str | Iterable[str], axis: int, size: int) -> list[tuple[str, Part]]:
    """Contiguous equal parts of an axis, in order."""
    names = list(labels)
    length = size // len(names)
    return [(name, Part(axis, i * length, length, size)) for i, name in enumerate(names)]


def why_not(shape: tuple[int, ...], dtype: str) -> tuple[str, str] | None:
    """(kind, reason) of a tensor that can be no matrix whatever it is called, else None."""
    if math.prod(shape) == 0:
        return "empty", "no entries"
    if len(shape) == 0:
        return "scalar", "a single number"
    if not FLOATS.match(dtype):
        if len(shape) > 1 and ("int" in dtype or dtype.startswith("float")):
            return "integer", f"{dtype} data: indices or quantised codes, not decoded"
        return "buffer", f"{dtype} data, not weights"
    return None


def _layers(tensor: TensorInfo, shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, Any]) -> list[LayerRef]:
    name, shape = tensor.name, tensor.shape
    if tensor.part_of:
        return [_skip(tensor, "ingredient", f"an ingredient of {tensor.part_of}")]
    unfit = (
        (("quantised" if "quantised" in tensor.fault else "tensor", tensor.fault) if tensor.fault else None)
        or why_not(shape, tensor.dtype)
        or _vector(name, shape)
    )
    if unfit:
        return [_skip(tensor, *unfit)]
    if INGREDIENT.search(name) or (name.endswith(("_g", "_v")) and {f"{name[:-1]}g", f"{name[:-1]}v"} <= shapes.keys()):
        return [_skip(tensor, "ingredient", "an ingredient of a parametrised weight; analyse the live model")]
    recurrent = RECURRENT.match(name) if len(shape) == 2 else None
    if recurrent:
        return _gates(tensor, recurrent, shapes)
    if is_experts(name, shape):
        whole = LayerRef(0, name, shape, tensor.axes, tensor.dtype, "experts", tensor=name, how=tensor.how)
        return experts(whole, shapes, config)
    kind, axes = _kind_and_axes(name, shape)
    if not axes:
        why = "more axes than a layer has" if len(shape) > 3 else "no layer that is known"
        return [_skip(tensor, kind, f"{len(shape)}-D: {why}")]
    how = "as one group: the file names no groups" if kind in GROUPABLE and shape[1] < shape[0] else ""
    axes = tensor.axes or axes
    ref = LayerRef(0, name, shape, axes, tensor.dtype, kind, tensor=name, how=both(tensor.how, how))
    if name.endswith("in_proj_weight") and len(shape) == 2 and shape[0] == 3 * shape[1]:
        return split_ref(replace(ref, kind="attention"), equal_parts("qkv", 0, shape[0]), "split q, k, v")
    return _fused(ref, config)


def _fused(ref: LayerRef, config: Mapping[str, Any]) -> list[LayerRef]:
    fused = fused_parts(ref.name, ref.shape, config)
    if ref.axes == "io" and (fused is None or fused.axes == "oi"):  # a quantised weight lies across
        fused = turned(fused_parts(ref.name, ref.shape[::-1], config))
    if fused is None:
        return [ref]
    if fused.axes == "io" and ref.axes != "io":
        ref = replace(ref, how=both(ref.how, "stored (in, out)"))
    ref = replace(ref, axes=fused.axes)
    if not fused.parts:
        return [ref]
    how = "split " + ", ".join(label for label, _ in fused.parts)
    return split_ref(ref, fused.parts, how)


def _vector(name: str, shape: tuple[int, ...]) -> tuple[str, str] | None:
    owner, _, last = name.rpartition(".")
    if len(shape) > 1:
        return ("bias", "a bias") if last == "bias" or last.endswith("_bias") else None
    if last.startswith(("running_", "moving_")):
        return "buffer", "statistics"
    if matches(NORM, owner.rpartition(".")[2]) or last in ("gamma", "beta"):
        return "norm", "1-D"
    if "bias" in last:
        return "bias", "1-D"
    return "vector", "1-D"


def _kind_and_axes(name: str, shape: tuple[int, ...]) -> tuple[str, str]:
    owner = name.removesuffix(".weight").removesuffix(".embedding").rpartition(".")[2]
    embedding = matches(EMBEDDING, owner)
    if len(shape) == 2:
        return ("embedding" if embedding else "dense"), "oi"
    if len(shape) == 3 and (embedding or shape[0] == 1) and not name.endswith(".weight"):
        return "embedding", "eoi"
    if len(shape) == 3 and LATENT.search(name):
        return "attention", "eoi"
    if len(shape) == 3 and not CONVOLVED.search(name):
        return "tensor", ""
    return CONV.get(len(shape), ("tensor", ""))


def _gates(tensor: TensorInfo, match: re.Match[str], shapes: Mapping[str, tuple[int, ...]]) -> list[LayerRef]:
    """Gates of a torch LSTM, GRU or RNN: weight_hh is (gates·hidden, hidden), or (…, projection) beside a weight_hr."""
    stem, level = match["stem"], match["level"]
    hh, hr = shapes.get(f"{stem}weight_hh{level}"), shapes.get(f"{stem}weight_hr{level}")
    hh = hh if hh and len(hh) == 2 else None
    hr = hr if hr and len(hr) == 2 else None
    hidden = (hr or hh or (0, 0))[1]
    count = hh[0] // hidden if hh and hidden and hh[0] % hidden == 0 else 0
    kind, labels = GATES.get(count, ("dense", ""))
    ref = LayerRef(0, tensor.name, tensor.shape, "oi", tensor.dtype, kind, tensor=tensor.name, how=tensor.how)
    if match["which"] == "hr" or not labels or tensor.shape[0] % count:
        return [ref]
    return split_ref(ref, equal_parts(labels, 0, tensor.shape[0]), f"split gates {', '.join(labels)}")


def _skip(tensor: TensorInfo, kind: str, reason: str) -> LayerRef:
    return LayerRef(0, tensor.name, tensor.shape, "", tensor.dtype, kind, tensor=tensor.name, skipped=reason)
