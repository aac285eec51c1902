"""Derive layers from the names, shapes and dtypes of a state dict: PyTorch's naming, and facts from config.json.

Sizes never decide what an axis means. Two-dimensional tensors are (out, in), convolutions (out, in, positions), as
PyTorch stores them; gates and fused projections are split where a name (``weight_ih_l0``, ``in_proj_weight``) or a
Hugging Face ``model_type`` states the split.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from layerscope.records.layers import LayerRef, Part, with_fields
from layerscope.sources.layouts import transposed_projections
from layerscope.sources.layouts.experts import expert_rows, is_experts, rename_mixtral_expert
from layerscope.sources.layouts.fused_projections import fused_parts, swap_axes, with_heads

FLOATS = re.compile(r"(b?float(16|32|64)|float8_\w+)$")
EMBEDDING = re.compile(r"(\w*_)?(embed|embd|emb|embeddings?|embed_tokens|embed_positions|wte|wpe|shared|pos_embed\w*)$")
RECURRENT = re.compile(r"(?P<stem>.*)weight_(?P<which>ih|hh|hr)(?P<level>(_l\d+)?(_reverse)?)$")
INGREDIENT = re.compile(r"(^|\.)parametrizations\.\w+\.original\d?$")
NORM = re.compile(r"(.*norm\w*|bn\d*|ln_\w+|ln\d*)$", re.IGNORECASE)
LATENT_ATTENTION = re.compile(r"\.attn_[kv]_b\.")  # llama.cpp: a matrix per head
CONVOLUTION_NAME = re.compile(
    r"(weight|kernel|buffer|conv\d*|conv\w{0,20})$", re.IGNORECASE
)  # what three axes need to be one
MAX_WORD_CHARS = 200  # longer words are not matched: matching them is quadratic
GATES = {4: ("lstm", "ifgo"), 3: ("gru", "rzn"), 1: ("rnn", "")}
ZERO_PLACEHOLDER = (
    "no entries: DeepSpeed ZeRO-3 leaves such placeholders; put the weights together with zero_to_fp32.py"
)
GROUPABLE = ("conv1d", "conv2d", "conv3d")
CONV = {3: ("conv1d", "oiw"), 4: ("conv2d", "oihw"), 5: ("conv3d", "oidhw")}

Shapes = Mapping[str, tuple[int, ...]]
Config = Mapping[str, Any]


@dataclass(frozen=True)
class TensorInfo:
    """One stored tensor as its header describes it."""

    name: str
    shape: tuple[int, ...]
    dtype: str  # numpy-style name
    storage: Hashable = None  # equal for tensors that share memory; None: not shared
    fault: str = ""  # why it can never be read as numbers
    how: str = ""  # how it is read, for people
    axes: str = ""  # of experts, where how it is stored says so
    part_of: str = ""  # the tensor that it is an ingredient of
    not_weight: tuple[str, str] | None = None  # (kind, reason) of what the inventory knows to be no weight
    rank: int = 0  # of a low-rank product that is read as its (rank, rank) core
    derived: str = ""  # what it is if not a weight of the model: "lora"


def layers_of(
    tensors: Iterable[TensorInfo],
    config: Config | None = None,
    beside: Shapes | None = None,
) -> list[LayerRef]:
    """One LayerRef per matrix, and one per tensor that holds none, in stored order and not numbered; tied tensors once.

    ``beside`` are shapes of other tensors of the model, for tensors whose meaning depends on their neighbors.
    """
    infos = list(tensors)
    shapes = {**(beside or {}), **{info.name: info.shape for info in infos}}
    first_names: dict[Hashable, str] = {}
    aliases: dict[str, list[str]] = {}
    refs: list[LayerRef] = []
    for tensor in infos:
        owner = first_names.setdefault(tensor.storage, tensor.name) if tensor.storage is not None else tensor.name
        if owner != tensor.name:
            aliases.setdefault(owner, []).append(tensor.name)
            refs.append(_skip(tensor, "tied", f"same as {owner}"))
        else:
            refs.extend(
                rename_mixtral_expert(with_heads(ref, config or {}))
                for ref in _rows_of_tensor(tensor, shapes, config or {})
            )
    if not aliases:
        return refs
    return [with_fields(ref, aliases=tuple(aliases.get(ref.tensor, ()))) for ref in refs]


def number_layers(refs: Iterable[LayerRef]) -> list[LayerRef]:
    """Number the refs in the order given and make their names unique."""
    numbered: list[LayerRef] = []
    name_counts: dict[str, int] = {}
    for i, ref in enumerate(refs):
        name = ref.name
        while name in name_counts:  # a tensor may be called what a part of another is called
            name_counts[ref.name] = count = name_counts.get(ref.name, 1) + 1
            name = f"{ref.name}#{count}"
        name_counts[name] = 1
        numbered.append(with_fields(ref, index=i, name=name, stored=ref.stored if ref.stored >= 0 else i))
    return numbered


def split_ref(ref: LayerRef, parts: Iterable[tuple[str, Part]], how: str) -> list[LayerRef]:
    """One ref per named part of a tensor."""
    refs = []
    for label, part in parts:
        shape = list(ref.shape)
        shape[part.axis] = part.count(shape[part.axis])
        refs.append(
            replace(
                ref, name=f"{ref.name}[{label}]", shape=tuple(shape), part=part, how=join_descriptions(ref.how, how)
            )
        )
    return refs


def join_descriptions(*hows: str) -> str:
    """Join several descriptions of how a tensor is read; empty ones are left out."""
    return ", ".join(filter(None, hows))


def matches(pattern: re.Pattern[str], word: str) -> bool:
    """Does a word of a name match the pattern? Words longer than ``MAX_WORD_CHARS`` never do."""
    return len(word) <= MAX_WORD_CHARS and pattern.match(word) is not None


def equal_parts(labels: str | Iterable[str], axis: int, size: int) -> list[tuple[str, Part]]:
    """Contiguous equal parts of an axis, in order."""
    names = list(labels)
    length = size // len(names)
    return [(name, Part(axis, i * length, length, size)) for i, name in enumerate(names)]


def skip_reason(shape: tuple[int, ...], dtype: str) -> tuple[str, str] | None:
    """(kind, reason) for a tensor that cannot be a matrix whatever its name, else None."""
    if math.prod(shape) == 0:
        return "empty", "no entries"
    if len(shape) == 0:
        return "scalar", "a single number"
    if not FLOATS.match(dtype):
        if len(shape) > 1 and ("int" in dtype or dtype.startswith("float")):
            return "integer", f"{dtype} data: indices or quantized codes, not decoded"
        return "buffer", f"{dtype} data, not weights"
    return None


def _rows_of_tensor(tensor: TensorInfo, shapes: Shapes, config: Config) -> list[LayerRef]:
    """The rows of one tensor, by the first rule that applies to it."""
    for rule in RULES:
        rows = rule(tensor, shapes, config)
        if rows is not None:
            return rows
    return _split_fused(_matrix_ref(tensor), config)


def _skip_part_of_another(tensor: TensorInfo, shapes: Shapes, config: Config) -> list[LayerRef] | None:
    return [_skip(tensor, "ingredient", f"part of {tensor.part_of}")] if tensor.part_of else None


def _skip_not_weight(tensor: TensorInfo, shapes: Shapes, config: Config) -> list[LayerRef] | None:
    return [_skip(tensor, *tensor.not_weight)] if tensor.not_weight else None


def _skip_unreadable(tensor: TensorInfo, shapes: Shapes, config: Config) -> list[LayerRef] | None:
    kind = "quantized" if "quantized" in tensor.fault else "tensor"
    return [_skip(tensor, kind, tensor.fault)] if tensor.fault else None


def _skip_no_matrix(tensor: TensorInfo, shapes: Shapes, config: Config) -> list[LayerRef] | None:
    if tensor.shape == (0,) and tensor.name.endswith("weight"):
        return [_skip(tensor, "empty", ZERO_PLACEHOLDER)]
    skip = skip_reason(tensor.shape, tensor.dtype) or _vector_kind(tensor.name, tensor.shape)
    return [_skip(tensor, *skip)] if skip else None


def _skip_parametrization(tensor: TensorInfo, shapes: Shapes, config: Config) -> list[LayerRef] | None:
    name = tensor.name
    weight_norm = name.endswith(("_g", "_v")) and {f"{name[:-1]}g", f"{name[:-1]}v"} <= shapes.keys()
    if weight_norm or INGREDIENT.search(name):
        return [_skip(tensor, "ingredient", "part of a parametrized weight; analyze the live model instead")]
    return None


def _split_recurrent(tensor: TensorInfo, shapes: Shapes, config: Config) -> list[LayerRef] | None:
    match = RECURRENT.match(tensor.name) if len(tensor.shape) == 2 else None
    return _split_gates(tensor, match, shapes) if match else None


def _split_experts(tensor: TensorInfo, shapes: Shapes, config: Config) -> list[LayerRef] | None:
    name, shape = tensor.name, tensor.shape
    if not is_experts(name, shape):
        return None
    stack = LayerRef(0, name, shape, tensor.axes, tensor.dtype, "experts", tensor=name, how=tensor.how)
    return expert_rows(stack, shapes, config)


def _skip_unknown_axes(tensor: TensorInfo, shapes: Shapes, config: Config) -> list[LayerRef] | None:
    kind, axes = _kind_and_axes(tensor.name, tensor.shape)
    if axes:
        return None
    count = len(tensor.shape)
    reason = "more axes than a known layer has" if count > 3 else "not a known kind of layer"
    return [_skip(tensor, kind, f"{count}-D: {reason}")]


def _split_in_proj(tensor: TensorInfo, shapes: Shapes, config: Config) -> list[LayerRef] | None:
    shape = tensor.shape
    if not tensor.name.endswith("in_proj_weight") or len(shape) != 2 or shape[0] != 3 * shape[1]:
        return None
    ref = replace(_matrix_ref(tensor), kind="attention")
    return split_ref(ref, equal_parts("qkv", 0, shape[0]), "split q, k, v")


Rule = Callable[[TensorInfo, Shapes, Config], list[LayerRef] | None]
RULES: tuple[Rule, ...] = (  # the first that does not return None decides; each may rely on those before it
    _skip_part_of_another,
    _skip_unreadable,
    _skip_not_weight,
    _skip_no_matrix,
    _skip_parametrization,
    _split_recurrent,
    _split_experts,
    _skip_unknown_axes,
    _split_in_proj,
)


def _matrix_ref(tensor: TensorInfo) -> LayerRef:
    """The whole tensor as one row, with the axes that its name and its number of axes give it."""
    kind, axes = _kind_and_axes(tensor.name, tensor.shape)
    ungrouped = kind in GROUPABLE and tensor.shape[1] < tensor.shape[0]
    how = join_descriptions(tensor.how, "read as one group, because the file does not name groups" if ungrouped else "")
    return LayerRef(
        0, tensor.name, tensor.shape, tensor.axes or axes, tensor.dtype, "lora" if tensor.derived == "lora" else kind,
        tensor=tensor.name, how=how, rank=tensor.rank, derived=tensor.derived,
    )  # fmt: skip


def _split_fused(ref: LayerRef, config: Config) -> list[LayerRef]:
    """A row per projection of a fused tensor, or the whole as one."""
    fused = fused_parts(ref.name, ref.shape, config)
    if ref.axes == "io" and (fused is None or fused.axes == "oi"):  # decoders of quantized weights give (in, out)
        fused = swap_axes(fused_parts(ref.name, ref.shape[::-1], config))
    if fused is None:
        return [ref]
    if fused.axes == "io" and ref.axes != "io":
        ref = replace(ref, how=join_descriptions(ref.how, transposed_projections.DESCRIPTION))
    ref = replace(ref, axes=fused.axes)
    if not fused.parts:
        return [ref]
    how = "split " + ", ".join(label for label, _ in fused.parts)
    return split_ref(ref, fused.parts, how)


def _vector_kind(name: str, shape: tuple[int, ...]) -> tuple[str, str] | None:
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
    if len(shape) == 3 and LATENT_ATTENTION.search(name):
        return "attention", "eoi"
    if len(shape) == 3 and not CONVOLUTION_NAME.search(name):
        return "tensor", ""
    return CONV.get(len(shape), ("tensor", ""))


def _split_gates(tensor: TensorInfo, match: re.Match[str], shapes: Shapes) -> list[LayerRef]:
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
