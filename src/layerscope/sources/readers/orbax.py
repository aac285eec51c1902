"""Orbax checkpoints of JAX models: folders read with tensorstore, one array at a time, without JAX or Orbax."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.errors import MissingExtra, Refused, Unreadable
from layerscope.sources.inventory import JAX_OPTIMIZER_KEYS
from layerscope.sources.layouts.torch_names import TensorInfo
from layerscope.sources.readers.state_dict import Tensors, source_from_flax
from layerscope.sources.storage.json_text import read_json
from layerscope.sources.storage.paths import is_folder, path_inside, size_of
from layerscope.sources.targets import make_spec

if TYPE_CHECKING:
    from layerscope.array_types import Array

PORTABLE = True
METADATA_FILE = "_METADATA"
MAX_METADATA_BYTES = 256 << 20
REFUSE_MISSING_DATA = {"fill_missing_data_reads": False}  # a missing chunk is an error, not zeros
ITEM_FOLDERS = ("default", "params", "state", "model", "train_state")
STEP_FOLDER = re.compile(r"(\w*_)?\d+$", re.ASCII)


def accepts(target: Any) -> bool:
    """Accept a folder with Orbax metadata, or a folder of steps or items that contain it."""
    return isinstance(target, Path) and is_folder(target) and _find_array_folder(target) is not None


def open(target: Path) -> Tensors:
    """Read the names, shapes and dtypes of the arrays."""
    folder = _find_array_folder(target)
    assert folder is not None
    names = _read_array_names(folder)
    ocdbt = (folder / "manifest.ocdbt").is_file()
    stores = _open_arrays(folder, names, ocdbt)
    infos = [TensorInfo(name, tuple(store.shape), store.dtype.name) for name, store in stores.items()]
    if not infos:
        raise Unreadable(
            f"{target}: the Orbax checkpoint contains no model arrays (optimizer state is not analyzed); "
            "save the model's parameters in it"
        )

    def fetch(name: str) -> Array:
        return np.asarray(stores[name].read().result())

    return source_from_flax(make_spec(target, "orbax", portable=True), infos, fetch)


def _find_array_folder(target: Path) -> Path | None:
    """Find the folder with the arrays: the target itself, one of its items, or its last step."""
    try:
        subfolders = sorted(entry for entry in target.iterdir() if entry.is_dir())
    except OSError:
        return None
    steps = sorted((e for e in subfolders if STEP_FOLDER.match(e.name)), key=lambda e: int(re.split(r"_", e.name)[-1]))
    candidates = [target, *(target / item for item in ITEM_FOLDERS)]
    if steps:
        candidates += [steps[-1], *(steps[-1] / item for item in ITEM_FOLDERS)]
    return next((folder for folder in candidates if (folder / METADATA_FILE).is_file()), None)


def _read_array_names(folder: Path) -> dict[str, str]:
    """Map the name of each array to the key under which it is stored.

    :raises Unreadable: the metadata are damaged or in another format.
    """
    file = path_inside(folder, METADATA_FILE)
    if size_of(file) > MAX_METADATA_BYTES:
        raise Unreadable(f"{file}: the metadata have {size_of(file):,} bytes; at most {MAX_METADATA_BYTES:,} are read")
    try:
        tree = read_json(file, MAX_METADATA_BYTES)["tree_metadata"]
        key_by_name = {}
        for entry in tree.values():
            keys = [str(step["key"]) for step in entry["key_metadata"]]
            is_array = entry["value_metadata"].get("value_type") in ("jax.Array", "np.ndarray")
            if not is_array or keys[0] in JAX_OPTIMIZER_KEYS:
                continue
            name = ".".join(keys)
            if name in key_by_name:
                raise ValueError("two arrays have the same name")
            key_by_name[name] = name
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        raise Unreadable(
            f"{file}: not the metadata of an Orbax checkpoint, or damaged; pass a folder written by orbax.checkpoint"
        ) from None
    return key_by_name


def _open_arrays(folder: Path, names: dict[str, str], ocdbt: bool) -> dict[str, Any]:
    try:
        import tensorstore
    except ImportError:
        raise MissingExtra("an Orbax checkpoint", "orbax") from None
    home = folder.resolve()
    for path in home.rglob("*"):
        if path.is_symlink() and home not in path.resolve().parents:
            raise Refused(f"{path}: the link leads out of its folder; replace it with a copy of the file")
    base = f"{home.as_uri()}/"
    context = tensorstore.Context({"cache_pool": {"total_bytes_limit": 1 << 24}})
    pending = {}
    for name, key in names.items():
        if any(part in ("", ".", "..") for part in re.split(r"[/\\]", key)):
            raise Unreadable(f"{folder}: the array name {key[:80]!r} is not a valid path; save the checkpoint again")
        file_store = {"driver": "file", "path": f"{home}/{key}/"}
        store = {"driver": "ocdbt", "base": base, "path": f"{key}/"} if ocdbt else file_store
        pending[name] = (
            tensorstore.open({"driver": "zarr", "kvstore": store, **REFUSE_MISSING_DATA}, open=True, context=context),
            store,
        )
    return {name: _await_array(tensorstore, folder, name, *pair, context) for name, pair in pending.items()}


def _await_array(tensorstore: Any, folder: Path, name: str, future: Any, store: Any, context: Any) -> Any:
    try:
        return future.result()
    except ValueError:
        try:
            return tensorstore.open(
                {"driver": "zarr3", "kvstore": store, **REFUSE_MISSING_DATA}, open=True, context=context
            ).result()
        except ValueError as error:
            text = " ".join(str(error).split())
            raise Unreadable(f"{folder}: array {name[:80]!r} cannot be read: {text[:200]}") from None
