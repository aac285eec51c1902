"""Checkpoints of tensor-parallel training: consolidated.NN and mp_rank_NN files, put together as one model.

Layers that are parallel over their outputs (queries, keys, values, the up projections) are split along the outputs,
those that are parallel over their inputs (the attention output, the down projection) along the inputs, embeddings
along one of both; norms and the biases of the latter are the same in all parts. Source: Shoeybi et al. 2019 (arXiv
1909.08053); the names are those of Llama's, Megatron's and GPT-NeoX's files.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.errors import Unreadable
from layerscope.sources.layouts.torch_names import TensorInfo
from layerscope.sources.readers import torch_file
from layerscope.sources.readers.state_dict import StateDict
from layerscope.sources.storage.paths import is_file, is_folder, path_inside
from layerscope.sources.targets import make_spec

if TYPE_CHECKING:
    from layerscope.array_types import Array

PORTABLE = True
PART_NAME = re.compile(
    r"(?P<stem>consolidated\.|mp_rank_)(?P<number>\d{2,3})(?P<rest>\.pth|\.pt|_model_states\.pt|\.safetensors)$"
)
OUTPUT_PARALLEL = re.compile(
    r"(wq|wk|wv|w1|w3|output|query_key_value|linear_qkv|dense_h_to_4h|linear_fc1|q_proj|k_proj|v_proj|gate_proj|up_proj|"
    r"query|key_value|lm_head|output_layer|final_linear)$"
)
INPUT_PARALLEL = re.compile(
    r"(wo|w2|attention\.dense|self_attention\.dense|dense_4h_to_h|linear_proj|linear_fc2|o_proj|down_proj)$"
)
EMBEDDING = re.compile(r"(tok_embeddings|word_embeddings|embed_tokens)$")
NORM = re.compile(r"(norm|layernorm|\bln_\w+|freqs|inv_freq)", re.IGNORECASE)


def accepts(target: Any) -> bool:
    """Accept a folder with consolidated.NN or mp_rank_NN files, or one such file of several."""
    if is_folder(target):
        return bool(part_files(target)) and not (target / "adapter_config.json").is_file()
    return is_file(target) and PART_NAME.match(target.name) is not None and len(part_files(target.parent)) > 1


def open(target: Path) -> StateDict:
    """Open all parts as one model."""
    if not target.is_dir():
        count = len(part_files(target.parent))
        raise Unreadable(
            f"{target}: one of {count} parts of a model; pass the folder {target.parent}, which has them all"
        )
    files = [path_inside(target, name) for name in part_files(target)]
    numbers = [int(match["number"]) for file in files if (match := PART_NAME.match(file.name))]
    if numbers != list(range(len(files))):
        raise Unreadable(f"{target}: found the parts {numbers} of a model; put all parts into the folder")
    if len(files) == 1:
        source = torch_file.open_files(target, files, None)
        source.spec = make_spec(target, "tensor_parallel", portable=True)
        return source
    return join_parts(target, [torch_file.open_files(file, [file], None) for file in files])


def part_files(folder: Path) -> list[str]:
    """Names of the parts in a folder, in order; [] unless all are of one kind."""
    matches = [match for entry in folder.iterdir() if (match := PART_NAME.match(entry.name)) and entry.is_file()]
    kinds = {(match["stem"], match["rest"]) for match in matches}
    return sorted(match.string for match in matches) if len(kinds) == 1 else []


def join_parts(target: Path, parts: Sequence[StateDict]) -> StateDict:
    """One model from its parts, each tensor joined along the axis that its name and shapes give.

    :raises Unreadable: the parts have different tensors.
    """
    tables = [{info.name: info for info in part.tensors} for part in parts]
    for table in tables[1:]:
        different = sorted(set(tables[0]) ^ set(table))
        if different:
            raise Unreadable(
                f"{target}: its parts do not have the same tensors; {different[0][:80]} is in some of them"
            )
    width = _width(tables[0])
    infos, joins = [], {}
    for name, info in tables[0].items():
        shapes = [table[name].shape for table in tables]
        axis, fault = _axis(name, shapes, width)
        joins[name] = axis
        shape = info.shape if axis is None else _joined_shape(shapes, axis)
        how = "" if axis is None else f"{len(parts)} parts, joined along the {'outputs' if axis == 0 else 'inputs'}"
        infos.append(TensorInfo(name, shape, info.dtype, fault=info.fault or fault, how=how))

    def fetch(name: str) -> Array:
        axis = joins[name]
        if axis is None:
            return parts[0].fetch(name)
        return np.concatenate([np.asarray(part.fetch(name)) for part in parts], axis)

    return StateDict(make_spec(target, "tensor_parallel", portable=True), infos, fetch)


def _width(table: dict[str, TensorInfo]) -> int:
    """Return the width of the residual stream: the length of a norm, which is not split; 0 without a norm."""
    lengths = [info.shape[0] for name, info in table.items() if len(info.shape) == 1 and NORM.search(name)]
    return max(lengths, default=0)


def _axis(name: str, shapes: Sequence[tuple[int, ...]], width: int) -> tuple[int | None, str]:
    """(axis along which the parts of a tensor are joined, or None if all have the whole; why it is not known)."""
    stem = name.rpartition(".")[0]
    shape = shapes[0]
    if not shape or NORM.search(name):
        return None, ""
    if OUTPUT_PARALLEL.search(stem):
        return 0, ""
    if INPUT_PARALLEL.search(stem):
        return (1 if len(shape) > 1 else None), ""
    if EMBEDDING.search(stem) and len(shape) == 2:
        return (0 if shape[1] == width or not width else 1), ""
    if len(shape) == 1:
        return None, ""
    return None, "one part of a tensor; how it is split is not known from its name"


def _joined_shape(shapes: Sequence[tuple[int, ...]], axis: int) -> tuple[int, ...]:
    return tuple(sum(s[i] for s in shapes) if i == axis else n for i, n in enumerate(shapes[0]))
