"""Orbax checkpoints of JAX models: a folder, read with tensorstore one array at a time; neither JAX nor Orbax."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.errors import MissingExtra, Refused, Unreadable
from layerscope.sources.layouts.torch_names import TensorInfo
from layerscope.sources.readers.state_dict import Tensors, of_flax
from layerscope.sources.storage.json_text import parsed
from layerscope.sources.storage.paths import inside, is_folder, size_of
from layerscope.sources.targets import spec

if TYPE_CHECKING:
    from layerscope.array_types import Array

PORTABLE = True
METADATA = "_METADATA"
LONGEST = 256 << 20  # bytes of metadata
WHOLE = {"fill_missing_data_reads": False}  # what is not there is no zero
ITEMS = ("default", "params", "state", "model", "train_state")
SKIPPED = ("opt_state",)
STEP = re.compile(r"(\w*_)?\d+$", re.ASCII)


def accepts(target: Any) -> bool:
    """A folder with Orbax's metadata, or one of steps and items that have it."""
    return isinstance(target, Path) and is_folder(target) and _folder(target) is not None


def open(target: Path) -> Tensors:
    """Read names, and shapes and dtypes of the arrays."""
    folder = _folder(target)
    assert folder is not None
    names = _names(folder)
    ocdbt = (folder / "manifest.ocdbt").is_file()
    stores = _open_all(folder, names, ocdbt)
    infos = [TensorInfo(name, tuple(store.shape), store.dtype.name) for name, store in stores.items()]
    if not infos:
        raise Unreadable(f"{target}: an Orbax checkpoint without arrays")

    def fetch(name: str) -> Array:
        return np.asarray(stores[name].read().result())

    return of_flax(spec(target, "orbax", portable=True), infos, fetch)


def _folder(target: Path) -> Path | None:
    """Where the arrays lie: here, in an item of this step, or in the last step."""
    try:
        below = sorted(entry for entry in target.iterdir() if entry.is_dir())
    except OSError:
        return None
    steps = sorted((e for e in below if STEP.match(e.name)), key=lambda e: int(re.split(r"_", e.name)[-1]))
    tried = [target, *(target / item for item in ITEMS)]
    if steps:
        tried += [steps[-1], *(steps[-1] / item for item in ITEMS)]
    return next((folder for folder in tried if (folder / METADATA).is_file()), None)


def _names(folder: Path) -> dict[str, str]:
    """Name of each array → the key under which it is stored.

    :raises Unreadable: metadata that are none.
    """
    file = inside(folder, METADATA)
    if size_of(file) > LONGEST:
        raise Unreadable(f"{file}: {size_of(file):,} bytes are more than any checkpoint's metadata")
    try:
        tree = parsed(file, LONGEST)["tree_metadata"]
        found = {}
        for entry in tree.values():
            keys = [str(step["key"]) for step in entry["key_metadata"]]
            if entry["value_metadata"].get("value_type") not in ("jax.Array", "np.ndarray") or keys[0] in SKIPPED:
                continue
            name = ".".join(keys)
            if name in found:
                raise ValueError("two arrays of one name")
            found[name] = name
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        raise Unreadable(f"{file}: is not the metadata of an Orbax checkpoint") from None
    return found


def _open_all(folder: Path, names: dict[str, str], ocdbt: bool) -> dict[str, Any]:
    try:
        import tensorstore
    except ImportError:
        raise MissingExtra("an Orbax checkpoint", "orbax") from None
    home = folder.resolve()
    for place in home.rglob("*"):
        if place.is_symlink() and home not in place.resolve().parents:
            raise Refused(f"{place}: links out of its folder")
    base = f"{home.as_uri()}/"
    context = tensorstore.Context({"cache_pool": {"total_bytes_limit": 1 << 24}})
    opening = {}
    for name, key in names.items():
        if any(part in ("", ".", "..") for part in re.split(r"[/\\]", key)):
            raise Unreadable(f"{folder}: an array called {key[:80]!r}")
        plain = {"driver": "file", "path": f"{home}/{key}/"}
        store = {"driver": "ocdbt", "base": base, "path": f"{key}/"} if ocdbt else plain
        opening[name] = (
            tensorstore.open({"driver": "zarr", "kvstore": store, **WHOLE}, open=True, context=context),
            store,
        )
    return {name: _opened(tensorstore, folder, name, *pair, context) for name, pair in opening.items()}


def _opened(tensorstore: Any, folder: Path, name: str, future: Any, store: Any, context: Any) -> Any:
    try:
        return future.result()
    except ValueError:
        try:
            return tensorstore.open({"driver": "zarr3", "kvstore": store, **WHOLE}, open=True, context=context).result()
        except ValueError as error:
            text = " ".join(str(error).split())
            raise Unreadable(f"{folder}: {name[:80]!r} cannot be read: {text[:200]}") from None
