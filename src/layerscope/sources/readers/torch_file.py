"""Torch checkpoints (.pt .pth .bin .th .ckpt): read, never executed, and without torch.

State dicts, bare or nested as training code nests them, Lightning's checkpoints, and whole pickled modules, whose
classes are never made: only the tensors in them are looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerscope.errors import Unreadable
from layerscope.records.layers import LayerRef
from layerscope.sources.layouts.torch_names import GROUPABLE, TensorInfo
from layerscope.sources.readers.state_dict import StateDict, check_index
from layerscope.sources.readers.torch_zip import open_checkpoint
from layerscope.sources.storage.extents import whole_file
from layerscope.sources.storage.paths import is_file, size_of
from layerscope.sources.storage.pickle_reader import StandIn, Tensor, walk_tensors
from layerscope.sources.storage.zip_archive import zip_names
from layerscope.sources.targets import make_spec

if TYPE_CHECKING:
    from layerscope.array_types import Array

PORTABLE = True
SUFFIXES = (".pt", ".pth", ".bin", ".th", ".ckpt")
MODEL_KEYS = ("state_dict", "model_state_dict", "model_state", "model", "module", "net", "weights", "params", "ema")
MAX_NESTING_DEPTH = 4  # levels of nesting searched for tensors
MAX_MODULE_PATH_CHARS = 4000  # letters of a module's path
MAX_MODULE_DEPTH = 64  # the same of modules in modules


def accepts(target: Any) -> bool:
    """A zip with a data.pkl, a pickle, or a file whose name says it is one; no TorchScript, which has constants."""
    if not is_file(target):
        return False
    if not zip_names(target):
        return is_pickle(target) or target.suffix in SUFFIXES
    return is_torch_zip(target)


def open(target: Path) -> StateDict:
    """Read names and shapes."""
    return open_files(target, [target], None)


def open_files(
    target: Path, files: list[Path], config: dict[str, Any] | None, listed: Mapping[str, Path] | None = None
) -> StateDict:
    """One source over several files; ``listed`` is what an index says of them."""
    tensors: list[TensorInfo] = []
    modules: dict[str, StandIn] = {}
    checkpoint_and_tensor: dict[str, tuple[Any, Tensor]] = {}
    places: dict[str, Path] = {}
    for file in files:
        checkpoint = _open_checkpoint_file(file)
        modules |= collect_modules(_find_model(file, checkpoint.content))
        for name, tensor in named_tensors(file, checkpoint.content):
            if name in checkpoint_and_tensor:
                raise Unreadable(f"{target}: two tensors are called {name!r}")
            checkpoint_and_tensor[name], places[name] = (checkpoint, tensor), file
            tensors.append(checkpoint.describe(name, tensor))

    check_index(target, listed or {}, places)

    def fetch(name: str) -> Array:
        checkpoint, tensor = checkpoint_and_tensor[name]
        array: Array = checkpoint.read(tensor)
        return array

    source = StateDict(make_spec(target, "torch_file", portable=True), tensors, fetch, config)
    if modules:
        source.replace_rows(lambda ref: _apply_module_state(ref, modules.get(ref.tensor.rpartition(".")[0])))
    return source


def is_torch_zip(path: Path) -> bool:
    """Is it a zip that holds a data.pkl and no TorchScript?"""
    names = {name.partition("/")[2] or name for name in zip_names(path)}
    return "data.pkl" in names and "constants.pkl" not in names


def is_pickle(path: Path) -> bool:
    """Do its first bytes open a pickle of protocol 2 or later?"""
    head = whole_file(path).read(0, 2)
    return len(head) == 2 and head[0] == 0x80 and 2 <= head[1] <= 5


def named_tensors(path: Path, content: Any) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of the model in a checkpoint; a state dict may be nested or stand in a list of one.

    :raises Unreadable: no tensors, or several models, which are named.
    """
    model = _find_model(path, content)
    yield from walk_tensors(model, MAX_MODULE_DEPTH if isinstance(model, StandIn) else MAX_NESTING_DEPTH)


def collect_modules(content: Any) -> dict[str, StandIn]:
    """The modules of a pickled model by their paths; one that is shared under the first."""
    module_by_path: dict[str, StandIn] = {}
    visited: set[int] = set()
    pending = [("", content)]
    while pending:
        path, module = pending.pop()
        children = module.state.get("_modules") if isinstance(module, StandIn) else None
        if not isinstance(children, Mapping) or id(module) in visited or len(path) > MAX_MODULE_PATH_CHARS:
            continue
        visited.add(id(module))
        module_by_path[path.removesuffix(".")] = module
        pending += [(f"{path}{name}.", child) for name, child in children.items() if isinstance(name, str)]
    return module_by_path


def _apply_module_state(ref: LayerRef, module: StandIn | None) -> LayerRef:
    """A row with the groups, the direction and the heads that a pickled module states."""
    state = module.state if module is not None else {}
    groups, heads = state.get("groups"), state.get("num_heads")
    if ref.kind in GROUPABLE and isinstance(groups, int) and len(ref.axes) > 2:
        axes = "io" + ref.axes[2:] if state.get("transposed") is True else ref.axes
        if groups > 1 and ref.shape[0] % groups == 0:
            flipped = axes.startswith("io")
            how = f"{groups} groups" + (", transposed" if flipped else "")
            return replace(ref, groups=groups, flipped=flipped, axes="oi" + axes[2:], how=how)
        return replace(ref, axes=axes, how="")
    if ref.kind == "attention" and isinstance(heads, int) and heads > 0 and ref.shape[0] % heads == 0:
        return replace(ref, heads=heads)
    return ref


def _find_model(path: Path, content: Any) -> Any:
    content_description = "the file"
    for _ in range(MAX_NESTING_DEPTH):
        if isinstance(content, list | tuple) and len(content) == 1:
            content = content[0]
            continue
        if isinstance(content, StandIn) and any(walk_tensors(content, MAX_MODULE_DEPTH)):
            return content
        if not isinstance(content, Mapping):
            break
        if any(isinstance(value, Tensor) and len(value.shape) > 1 for value in content.values()):
            return content
        nested_keys = [
            key for key in MODEL_KEYS if isinstance(content.get(key), Mapping | list | tuple | StandIn) and content[key]
        ]
        if not nested_keys:
            # numbers beside the model (an accuracy, a step) are no model; a flat dict of vectors is one
            if any(walk_tensors(content, MAX_NESTING_DEPTH)):
                return content
            keys = [key for key in content if isinstance(key, str)][:6]
            content_description = f"keys {', '.join(key[:40] for key in keys)!r}" if content else "an empty table"
            break
        content = content[nested_keys[0]]
    if isinstance(content, Tensor):
        return {"tensor": content}
    raise Unreadable(
        f"{path}: no tensors found ({content_description}); "
        f"expected a state dict, bare or under one of {', '.join(MODEL_KEYS)}"
    )


def _open_checkpoint_file(path: Path) -> Any:
    if size_of(path) == 0:
        raise Unreadable(f"{path}: an empty file")
    if not is_torch_zip(path) and not is_pickle(path):
        raise Unreadable(f"{path}: not a torch checkpoint: neither a zip with a data.pkl nor a pickle (truncated?)")
    return open_checkpoint(whole_file(path))
