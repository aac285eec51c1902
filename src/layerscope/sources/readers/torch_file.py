"""Torch checkpoints (.pt .pth .bin .th .ckpt), read without torch; code in them is never run.

A checkpoint may be a state dict, flat or nested as training code stores it, a Lightning checkpoint, or a whole pickled
module. The classes of a pickled module are never instantiated: only its tensors are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerscope.errors import Unreadable
from layerscope.records.layers import LayerRef
from layerscope.sources.inventory import Reason, is_optimizer_table
from layerscope.sources.layouts.torch_names import GROUPABLE, TensorInfo
from layerscope.sources.readers.state_dict import StateDict, check_index
from layerscope.sources.readers.torch_zip import open_checkpoint
from layerscope.sources.storage.extents import whole_file
from layerscope.sources.storage.paths import is_file, size_of
from layerscope.sources.storage.pickle_objects import StandIn, Tensor
from layerscope.sources.storage.pickle_reader import walk_tensors
from layerscope.sources.storage.pickled_arrays import as_tensor
from layerscope.sources.storage.zip_archive import zip_names
from layerscope.sources.targets import make_spec

if TYPE_CHECKING:
    from layerscope.array_types import Array

PORTABLE = True
SUFFIXES = (".pt", ".pth", ".bin", ".th", ".ckpt")
MODEL_KEYS = ("state_dict", "model_state_dict", "model_state", "model", "module", "net", "weights", "params", "ema")
SECOND_COPY = "a second copy of the model, by its structure; analyze it alone with --select {}"
MAX_NESTING_DEPTH = 4  # levels of nesting searched for tensors
MAX_MODULE_PATH_CHARS = 4000  # characters in the path of a module
MAX_MODULE_DEPTH = 64  # levels of modules in modules


def accepts(target: Any) -> bool:
    """Accept a zip with a data.pkl, a pickle, or a file with a torch suffix, but not TorchScript (constants.pkl)."""
    if not is_file(target):
        return False
    if not zip_names(target):
        return is_pickle(target) or target.suffix in SUFFIXES
    return is_torch_zip(target)


def open(target: Path) -> StateDict:
    """Read the names and shapes of the tensors."""
    return open_files(target, [target], None)


def open_files(
    target: Path, files: list[Path], config: dict[str, Any] | None, listed: Mapping[str, Path] | None = None
) -> StateDict:
    """Open several files as one source.

    :param listed: the file of each tensor as an index states it, checked against the files.
    """
    tensors: list[TensorInfo] = []
    modules: dict[str, StandIn] = {}
    checkpoint_and_tensor: dict[str, tuple[Any, Tensor]] = {}
    places: dict[str, Path] = {}
    for file in files:
        checkpoint = _open_checkpoint_file(file)
        modules |= collect_modules(_find_model(file, checkpoint.content)[0])
        for name, tensor, reason in named_tensors(file, checkpoint.content):
            if name in checkpoint_and_tensor:
                raise Unreadable(f"{target}: two tensors are called {name!r}; names must be unique")
            checkpoint_and_tensor[name], places[name] = (checkpoint, tensor), file
            info = checkpoint.describe(name, tensor)
            tensors.append(replace(info, not_weight=reason) if reason else info)

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
    """Whether the file is a zip with a data.pkl but not TorchScript."""
    names = {name.partition("/")[2] or name for name in zip_names(path)}
    return "data.pkl" in names and "constants.pkl" not in names


def is_pickle(path: Path) -> bool:
    """Whether the first bytes are those of a pickle of protocol 2 to 5."""
    head = whole_file(path).read(0, 2)
    return len(head) == 2 and head[0] == 0x80 and 2 <= head[1] <= 5


def named_tensors(path: Path, content: Any) -> Iterator[tuple[str, Tensor, Reason | None]]:
    """Yield (name, tensor, what it is if no weight) for the model in a checkpoint, then for the tables beside it.

    The state dict may be nested, or the only item of a list. The names of the other tables begin with their key; a
    table with the same names and shapes as the model is a second copy of it.

    :raises Unreadable: there are no tensors.
    """
    content, others = _find_model(path, content)
    depth = MAX_MODULE_DEPTH if isinstance(content, StandIn) else MAX_NESTING_DEPTH
    model = dict(walk_tensors(content, depth))
    yield from ((name, tensor, None) for name, tensor in model.items())
    shapes = {name: tensor.shape for name, tensor in model.items()}
    for key, table in others.items():
        tensors = {name: tensor for name, tensor in walk_tensors({key: table}, depth) if name not in model}
        is_copy = {name.removeprefix(f"{key}."): tensor.shape for name, tensor in tensors.items()} == shapes
        reason = ("copy", SECOND_COPY.format(key[:60])) if is_copy else None
        yield from ((name, tensor, reason) for name, tensor in tensors.items())


def collect_modules(content: Any) -> dict[str, StandIn]:
    """Map the path of each module in a pickled model to the module; a shared module is listed once."""
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
    """Add the groups, transposition and attention heads of a pickled module to a row."""
    state = module.state if module is not None else {}
    buffers = state.get("_buffers")
    if isinstance(buffers, Mapping) and ref.tensor.rpartition(".")[2] in buffers and not ref.skipped:
        return replace(ref, kind="buffer", axes="", part=None, skipped="a buffer: not learned")
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


def _find_model(path: Path, content: Any) -> tuple[Any, dict[str, Any]]:
    """Return the table of the model's tensors, and the tables beside it by key."""
    found = f"no dict within {MAX_NESTING_DEPTH} levels of nesting"
    others: dict[str, Any] = {}
    for _ in range(MAX_NESTING_DEPTH):
        if isinstance(content, list | tuple):
            if len(content) != 1:
                content = dict(enumerate(content))
            else:
                content = content[0]
                continue
        if isinstance(content, Mapping) and is_optimizer_table(content):
            raise Unreadable(f"{path}: the state of an optimizer, not a model; pass the checkpoint of the model")
        if isinstance(content, StandIn) and any(walk_tensors(content, MAX_MODULE_DEPTH)):
            return content, others
        if not isinstance(content, Mapping):
            break
        if any((tensor := as_tensor(value)) is not None and len(tensor.shape) > 1 for value in content.values()):
            return content, others
        nested_keys = [
            key for key in MODEL_KEYS if isinstance(content.get(key), Mapping | list | tuple | StandIn) and content[key]
        ]
        if not nested_keys:
            # a flat dict of vectors is a model; numbers (an accuracy, a step) are not
            if any(walk_tensors(content, MAX_NESTING_DEPTH)):
                return content, others
            keys = [str(key) for key in content][:6]
            found = f"found the keys {', '.join(key[:40] for key in keys)!r}" if content else "found an empty dict"
            break
        tables = {key: value for key, value in content.items() if isinstance(value, Mapping | list | tuple | StandIn)}
        others |= {key: table for key, table in tables.items() if isinstance(key, str) and key != nested_keys[0]}
        content = content[nested_keys[0]]
    tensor = as_tensor(content)
    if tensor is not None:
        return {"tensor": tensor}, others
    raise Unreadable(
        f"{path}: no tensors found ({found}); "
        f"expected a state dict, at the top or under one of the keys {', '.join(MODEL_KEYS)}"
    )


def _open_checkpoint_file(path: Path) -> Any:
    if size_of(path) == 0:
        raise Unreadable(f"{path}: the file is empty; expected a torch checkpoint")
    if not is_torch_zip(path) and not is_pickle(path):
        raise Unreadable(
            f"{path}: not a torch checkpoint, or truncated: neither a zip with a data.pkl nor a pickle; "
            "save or download it again"
        )
    return open_checkpoint(whole_file(path))
