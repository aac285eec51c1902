"""Torch checkpoints (.pt .pth .bin .th .ckpt): read, never executed.

With torch (2.6 or newer) installed they are read by ``torch.load(weights_only=True, mmap=True)``; without it, zip
checkpoints by an unpickler that knows tensors and nothing else.
"""

from __future__ import annotations

import importlib.util
import io
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerscope.errors import MissingExtra, Refused, TargetError, Unreadable
from layerscope.sources import spec
from layerscope.sources._layout import TensorInfo
from layerscope.sources._pickle import LONGEST, check_pickle
from layerscope.sources._state_dict import StateDict
from layerscope.sources.safetensors import check_index

if TYPE_CHECKING:
    from layerscope.types import Array

PORTABLE = True
SUFFIXES = (".pt", ".pth", ".bin", ".th", ".ckpt")
NESTS = ("state_dict", "model_state_dict", "model_state", "model", "module", "net", "weights", "params", "ema")
LEGACY_PICKLES = 4  # magic number, protocol, system, and the checkpoint itself
DEEPEST = 4  # levels of nesting searched for tensors


def accepts(target: Any) -> bool:
    """A zip with a data.pkl, a pickle, or a file whose name says it is one."""
    if not isinstance(target, Path) or not target.is_file():
        return False
    return is_torch_zip(target) or is_pickle(target) or target.suffix in SUFFIXES


def open(target: Path) -> StateDict:
    """Read names and shapes."""
    return open_files(target, [target], None)


def open_files(
    target: Path, files: list[Path], config: dict[str, Any] | None, listed: Mapping[str, Path] | None = None
) -> StateDict:
    """One source over several files; ``listed`` is what an index says of them."""
    tensors: list[TensorInfo] = []
    owner: dict[str, tuple[Any, Any]] = {}
    places: dict[str, Path] = {}
    for file in files:
        reader = _reader(file)
        for name, tensor in named_tensors(file, reader.content, reader.is_tensor):
            if name in owner:
                raise Unreadable(f"{target}: two tensors are called {name!r}")
            owner[name], places[name] = (reader, tensor), file
            tensors.append(reader.describe(name, tensor))

    check_index(target, listed or {}, places)

    def fetch(name: str) -> Array:
        reader, tensor = owner[name]
        array: Array = reader.read(tensor)
        return array

    return StateDict(spec(target, "torch_file", portable=True), tensors, fetch, config)


def is_torch_zip(path: Path) -> bool:
    """Is it a zip that holds a data.pkl?"""
    try:
        if not zipfile.is_zipfile(path):
            return False
        with zipfile.ZipFile(path) as archive:
            return any(name == "data.pkl" or name.endswith("/data.pkl") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError):
        return False


def is_pickle(path: Path) -> bool:
    """Do its first bytes open a pickle of protocol 2 or later?"""
    with path.open("rb") as file:
        head = file.read(2)
    return len(head) == 2 and head[0] == 0x80 and 2 <= head[1] <= 5


def named_tensors(path: Path, content: Any, is_tensor: Any) -> Iterator[tuple[str, Any]]:
    """(name, tensor) of the model in a checkpoint; a state dict may be nested or stand in a list of one.

    :raises Unreadable: no tensors, or several models, which are named.
    """
    yield from _flatten(_model_of(path, content, is_tensor), is_tensor, "", 0)


def _model_of(path: Path, content: Any, is_tensor: Any) -> Mapping[str, Any]:
    where = "the file"
    for _ in range(DEEPEST):
        if isinstance(content, list | tuple) and len(content) == 1:
            content = content[0]
            continue
        if not isinstance(content, Mapping):
            break
        if any(is_tensor(value) and len(value.shape) > 1 for value in content.values()):
            return content
        nests = [key for key in NESTS if isinstance(content.get(key), Mapping | list | tuple) and content[key]]
        if not nests:  # numbers beside the model (an accuracy, a step) are no model; a flat dict of vectors is one
            if any(_flatten(content, is_tensor, "", 0)):
                return content
            where = f"keys {', '.join(map(str, list(content)[:6]))}" if content else "an empty table"
            break
        content = content[nests[0]]
    if is_tensor(content):
        return {"tensor": content}
    raise Unreadable(
        f"{path}: no tensors found ({where}); expected a state dict, bare or under one of {', '.join(NESTS)}"
    )


def _flatten(
    content: Any, is_tensor: Any, prefix: str, depth: int, above: tuple[int, ...] = ()
) -> Iterator[tuple[str, Any]]:
    if depth > DEEPEST or not isinstance(content, Mapping) or id(content) in above:
        return
    for key, value in content.items():
        name = f"{prefix}{key}"
        if is_tensor(value):
            yield name, value
        elif isinstance(value, Mapping) and not str(key).startswith("optim"):
            yield from _flatten(value, is_tensor, f"{name}.", depth + 1, (*above, id(content)))


def _reader(path: Path) -> Any:
    if path.stat().st_size == 0:
        raise Unreadable(f"{path}: an empty file")
    zipped = is_torch_zip(path)
    if not zipped and not is_pickle(path):
        raise Unreadable(f"{path}: not a torch checkpoint: neither a zip with a data.pkl nor a pickle (truncated?)")
    if importlib.util.find_spec("torch") is not None and _torch_is_safe():
        return _WithTorch(path, zipped)
    if not zipped:
        raise MissingExtra(f"{path}: a legacy (not zip) torch checkpoint", "torch")
    return _WithoutTorch(path)


def _torch_is_safe() -> bool:
    """torch.load(weights_only=True) could execute code before 2.6 (CVE-2025-32434)."""
    from importlib.metadata import version

    numbers = [int("".join(filter(str.isdigit, part)) or 0) for part in version("torch").split(".")[:2]]
    return numbers >= [2, 6]


class _WithoutTorch:
    def __init__(self, path: Path) -> None:
        from layerscope.sources._tensor_zip import TensorZip

        self.zip = TensorZip(path)
        self.content = self.zip.content

    def is_tensor(self, value: Any) -> bool:
        from layerscope.sources._tensor_zip import Tensor

        return isinstance(value, Tensor)

    def describe(self, name: str, tensor: Any) -> TensorInfo:
        fault = "expanded: it repeats the same numbers" if tensor.expanded else ""
        return TensorInfo(name, tensor.shape, tensor.dtype, (str(self.zip.path), *tensor.identity), fault)

    def read(self, tensor: Any) -> Array:
        return self.zip.read(tensor)


class _WithTorch:
    def __init__(self, path: Path, zipped: bool) -> None:
        import torch

        self.path = path
        try:
            _check_pickles(path, zipped)
        except (ValueError, OSError, KeyError, zipfile.BadZipFile) as error:
            raise Unreadable(f"{path}: damaged torch checkpoint: {error}") from None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what matters of them is in the error
                self.content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped or None)
        except Exception as error:
            raise _why(path, error) from None

    def is_tensor(self, value: Any) -> bool:
        import torch

        return isinstance(value, torch.Tensor)

    def describe(self, name: str, tensor: Any) -> TensorInfo:
        from layerscope.sources._torch_tensor import describe

        return describe(name, tensor)

    def read(self, tensor: Any) -> Array:
        from layerscope.sources._torch_tensor import to_numpy

        return to_numpy(tensor)


def _check_pickles(path: Path, zipped: bool) -> None:
    """Look at every pickle before torch reads it; a legacy file is four or more of them, one after the other."""
    if zipped:
        with zipfile.ZipFile(path) as archive:
            name = next(n for n in archive.namelist() if n == "data.pkl" or n.endswith("/data.pkl"))
            with archive.open(name) as member:
                check_pickle(io.BytesIO(member.read(LONGEST)))
        return
    with path.open("rb") as file:
        for _ in range(LEGACY_PICKLES):
            check_pickle(file)


def _why(path: Path, error: Exception) -> TargetError:
    text = " ".join(str(error).split())
    if "TorchScript" in text:
        return Unreadable(f"{path}: a TorchScript archive; save its state_dict")
    asked = re.search(r"GLOBAL:? ?([\w.]+)", text)
    if asked or "Can only" in text:
        wanted = asked[1] if asked else "more than tensors"
        return Refused(
            f"{path}: its pickle asks for {wanted}; only tensors are read, nothing is executed. "
            "Save model.state_dict(), or convert to safetensors"
        )
    text = text.rpartition("WeightsUnpickler error: ")[2].partition(" Check the documentation")[0]
    return Unreadable(f"{path}: damaged torch checkpoint: {text[:200]}")
