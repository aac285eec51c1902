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
from layerscope.sources.storage.extents import whole
from layerscope.sources.storage.paths import is_file, size_of
from layerscope.sources.storage.pickle_reader import StandIn, Tensor, walk
from layerscope.sources.storage.zip_archive import zip_names
from layerscope.sources.targets import spec

if TYPE_CHECKING:
    from layerscope.array_types import Array

PORTABLE = True
SUFFIXES = (".pt", ".pth", ".bin", ".th", ".ckpt")
NESTS = ("state_dict", "model_state_dict", "model_state", "model", "module", "net", "weights", "params", "ema")
DEEPEST = 4  # levels of nesting searched for tensors
LONGEST_PATH = 4000  # letters of a module's path
DEEPEST_MODULE = 64  # the same of modules in modules


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
    owner: dict[str, tuple[Any, Tensor]] = {}
    places: dict[str, Path] = {}
    for file in files:
        opened = _opened(file)
        modules |= modules_of(_model_of(file, opened.content))
        for name, tensor in named_tensors(file, opened.content):
            if name in owner:
                raise Unreadable(f"{target}: two tensors are called {name!r}")
            owner[name], places[name] = (opened, tensor), file
            tensors.append(opened.describe(name, tensor))

    check_index(target, listed or {}, places)

    def fetch(name: str) -> Array:
        opened, tensor = owner[name]
        array: Array = opened.read(tensor)
        return array

    source = StateDict(spec(target, "torch_file", portable=True), tensors, fetch, config)
    if modules:
        source.change(lambda ref: _as_its_module_says(ref, modules.get(ref.tensor.rpartition(".")[0])))
    return source


def is_torch_zip(path: Path) -> bool:
    """Is it a zip that holds a data.pkl and no TorchScript?"""
    names = {name.partition("/")[2] or name for name in zip_names(path)}
    return "data.pkl" in names and "constants.pkl" not in names


def is_pickle(path: Path) -> bool:
    """Do its first bytes open a pickle of protocol 2 or later?"""
    head = whole(path).read(0, 2)
    return len(head) == 2 and head[0] == 0x80 and 2 <= head[1] <= 5


def named_tensors(path: Path, content: Any) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of the model in a checkpoint; a state dict may be nested or stand in a list of one.

    :raises Unreadable: no tensors, or several models, which are named.
    """
    model = _model_of(path, content)
    yield from walk(model, DEEPEST_MODULE if isinstance(model, StandIn) else DEEPEST)


def modules_of(content: Any) -> dict[str, StandIn]:
    """The modules of a pickled model by their paths; one that is shared under the first."""
    found: dict[str, StandIn] = {}
    seen: set[int] = set()
    waiting = [("", content)]
    while waiting:
        path, module = waiting.pop()
        children = module.state.get("_modules") if isinstance(module, StandIn) else None
        if not isinstance(children, Mapping) or id(module) in seen or len(path) > LONGEST_PATH:
            continue
        seen.add(id(module))
        found[path.removesuffix(".")] = module
        waiting += [(f"{path}{name}.", child) for name, child in children.items() if isinstance(name, str)]
    return found


def _as_its_module_says(ref: LayerRef, module: StandIn | None) -> LayerRef:
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


def _model_of(path: Path, content: Any) -> Any:
    where = "the file"
    for _ in range(DEEPEST):
        if isinstance(content, list | tuple) and len(content) == 1:
            content = content[0]
            continue
        if isinstance(content, StandIn) and any(walk(content, DEEPEST_MODULE)):
            return content
        if not isinstance(content, Mapping):
            break
        if any(isinstance(value, Tensor) and len(value.shape) > 1 for value in content.values()):
            return content
        nests = [
            key for key in NESTS if isinstance(content.get(key), Mapping | list | tuple | StandIn) and content[key]
        ]
        if not nests:  # numbers beside the model (an accuracy, a step) are no model; a flat dict of vectors is one
            if any(walk(content, DEEPEST)):
                return content
            keys = [key for key in content if isinstance(key, str)][:6]
            where = f"keys {', '.join(key[:40] for key in keys)!r}" if content else "an empty table"
            break
        content = content[nests[0]]
    if isinstance(content, Tensor):
        return {"tensor": content}
    raise Unreadable(
        f"{path}: no tensors found ({where}); expected a state dict, bare or under one of {', '.join(NESTS)}"
    )


def _opened(path: Path) -> Any:
    if size_of(path) == 0:
        raise Unreadable(f"{path}: an empty file")
    if not is_torch_zip(path) and not is_pickle(path):
        raise Unreadable(f"{path}: not a torch checkpoint: neither a zip with a data.pkl nor a pickle (truncated?)")
    return open_checkpoint(whole(path))
