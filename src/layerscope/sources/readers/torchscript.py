"""TorchScript archives of torch.jit.save (.jit, .pt): only the weights are read; the code is never compiled or run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerscope.errors import Unreadable
from layerscope.sources.readers.state_dict import StateDict
from layerscope.sources.readers.torch_zip import TensorZip
from layerscope.sources.storage.extents import whole_file
from layerscope.sources.storage.paths import is_file
from layerscope.sources.storage.pickle_objects import Tensor
from layerscope.sources.storage.pickle_reader import walk_tensors
from layerscope.sources.storage.zip_archive import zip_names
from layerscope.sources.targets import make_spec

if TYPE_CHECKING:
    from layerscope.array_types import Array

PORTABLE = True
MAX_MODULE_DEPTH = 64  # levels of modules in modules


def accepts(target: Any) -> bool:
    """Accept a zip with a data.pkl and a constants.pkl."""
    if not is_file(target):
        return False
    names = {name.partition("/")[2] for name in zip_names(target)}
    return {"data.pkl", "constants.pkl"} <= names


def open(target: Path) -> StateDict:
    """Read the names and shapes of the tensors; a tensor is named by its path, as in a state dict."""
    archive = TensorZip(whole_file(target))
    tensor_by_name: dict[str, Tensor] = {}
    for name, tensor in walk_tensors(archive.content, MAX_MODULE_DEPTH):
        if tensor_by_name.setdefault(name, tensor) is not tensor:
            raise Unreadable(f"{target}: two tensors are called {name[:80]!r}; names must be unique")
    if not tensor_by_name:
        raise Unreadable(f"{target}: the TorchScript archive contains no tensors; save a module with parameters")

    def fetch(name: str) -> Array:
        return archive.read(tensor_by_name[name])

    tensors = [archive.describe(name, tensor) for name, tensor in tensor_by_name.items()]
    return StateDict(make_spec(target, "torchscript", portable=True), tensors, fetch)
