"""Read HDF5 files in a child process.

libhdf5 trusts the file: a damaged one can make it loop, allocate memory without end, or crash. Therefore a child
process lists the arrays and their positions, and this process maps the numbers. Arrays that are compressed or stored in
chunks are also read by a child.
"""

from __future__ import annotations

import io
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerscope.sources.inventory import KERAS_OPTIMIZER_GROUPS

if TYPE_CHECKING:
    from layerscope.array_types import Array
    from layerscope.sources.storage.extents import Extent

# For local and remote files, plus one second per 10 MB.
LOCAL_TIMEOUT_SECONDS, REMOTE_TIMEOUT_SECONDS = 10, 120
# Run with -m, so that no file next to the module shadows its imports.
CHILD_MODULE = "layerscope.sources.storage.hdf5_process"
CHILD_MEMORY_BYTES = 3 << 30  # limit on address space, to which twice the file size is added
MAX_DATASETS = 1 << 18
MAX_GROUP_DEPTH = 64  # levels of nested groups
ALWAYS_ALLOWED_CHUNK_BYTES = 1 << 24
LINK_REASON = "is a link to another location, and links are not followed; store all weights in the file itself"
MAX_DEFLATE_RATIO = 1032  # maximum compression ratio of deflate


@dataclass(frozen=True)
class Dataset:
    """One array of the file, with the names of its enclosing layers."""

    path: str
    names: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str  # numpy-style name
    offset: int | None  # byte position in the file; None if stored in pieces
    fault: str  # why it is not read, or ""


@dataclass(frozen=True)
class Contents:
    """The contents of a Keras file."""

    datasets: list[Dataset]
    legacy: bool  # in the format of Keras 2
    config: str | None  # the model's configuration as JSON, if the file has one


def list_contents(extent: Extent) -> Contents:
    """List the arrays of a file, in the order of its layers.

    :raises MissingExtra: h5py is not installed.
    :raises Refused: the file contains links to other locations.
    :raises Unreadable: the file is damaged, or exceeds the reader's limits.
    """
    from layerscope.errors import Refused, Unreadable
    from layerscope.sources.storage.json_text import parse_json

    answer = parse_json(_ask_child(extent, "list"))
    if "refused" in answer:
        raise Refused(f"{extent.path}: {answer['refused']}")
    if "unreadable" in answer:
        raise Unreadable(f"{extent.path}: damaged or truncated HDF5: {answer['unreadable']}")
    datasets = [
        Dataset(d["path"], tuple(d["names"]), tuple(d["shape"]), d["dtype"], d["offset"], d["fault"])
        for d in answer["datasets"]
    ]
    return Contents(datasets, answer["legacy"], answer["config"])


def read_array(extent: Extent, dataset: Dataset) -> Array:
    """Return the values of one array."""
    import numpy as np

    from layerscope.errors import Unreadable
    from layerscope.sources.storage.dtypes import as_dtype

    if dataset.fault:
        raise Unreadable(f"{extent.path}: {dataset.path}: {dataset.fault}")
    dtype = as_dtype(dataset.dtype)
    if dataset.offset is not None:
        return extent.array(dtype, dataset.offset, dataset.shape)
    raw = _ask_child(extent, "read", dataset.path)
    if len(raw) != math.prod(dataset.shape) * dtype.itemsize:
        raise Unreadable(f"{extent.path}: {dataset.path} is damaged: its size does not match its shape")
    return np.frombuffer(raw, dtype).reshape(dataset.shape)


def _ask_child(extent: Extent, *question: str) -> bytes:
    """Return the child's answer; a crash, a timeout or excessive use of memory means that the file is damaged."""
    import importlib.util

    from layerscope.errors import MissingExtra, Unreadable

    try:
        has_h5py = importlib.util.find_spec("h5py") is not None
    except ValueError:  # sys.modules has an h5py without a spec
        has_h5py = False
    if not has_h5py:
        raise MissingExtra("reading a Keras file", "keras")
    home = str(Path(__file__).resolve().parents[3])  # -m puts the working folder first on the child's path
    paths = os.pathsep.join([home, *(os.path.abspath(path) for path in sys.path if path)])
    target = os.path.abspath(extent.path) if isinstance(extent.path, Path) else str(extent.path)
    command = [sys.executable, "-m", CHILD_MODULE, target, str(extent.start), str(extent.length), *question]
    timeout = (LOCAL_TIMEOUT_SECONDS if isinstance(extent.path, Path) else REMOTE_TIMEOUT_SECONDS) + extent.length / 1e7
    try:
        process = subprocess.run(
            command,
            cwd=home,
            capture_output=True,
            timeout=timeout,
            check=False,
            env={**os.environ, "PYTHONPATH": paths},
        )
    except subprocess.TimeoutExpired:
        raise Unreadable(f"{extent.path}: damaged HDF5: reading it takes longer than {timeout:.0f} seconds") from None
    if process.returncode:
        exit_description = (
            f"signal {-process.returncode}" if process.returncode < 0 else f"exit code {process.returncode}"
        )
        raise Unreadable(f"{extent.path}: damaged HDF5: the HDF5 library fails to read it ({exit_description})")
    return process.stdout


# The rest of this module runs in the child.


def main(path: str, start: str, length: str, what: str, name: str = "") -> None:
    """Answer one question about a file on standard output."""
    _limit_memory(int(length))
    import h5py
    import numpy as np

    from layerscope.sources.storage.extents import Extent
    from layerscope.sources.storage.store_paths import store_path

    place: Any = Path(path)
    if "://" in path:
        place = store_path(path)
    out = sys.stdout.buffer
    with Extent(place, int(start), int(length)).open() as file:
        if what == "list":
            try:
                with h5py.File(file, "r") as root:
                    answer = _list_file(h5py, root)
            except _OutsideLink as link:
                answer = {"refused": str(link)}
            except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
                answer = {"unreadable": " ".join(str(error).split())[:200]}
            out.write(json.dumps(answer).encode("utf-8"))
            return
        with h5py.File(file, "r") as root:
            out.write(np.ascontiguousarray(root[name][()]).tobytes())


class _OutsideLink(Exception):
    """The file contains a link to another location."""


def _limit_memory(length: int) -> None:
    try:
        import resource
    except ImportError:  # not on this system
        return
    resource.setrlimit(resource.RLIMIT_AS, (CHILD_MEMORY_BYTES + 2 * length,) * 2)


def _list_file(h5py: Any, root: Any) -> dict[str, Any]:
    for name in ("model_weights", "layers", "vars"):
        if name in root and not isinstance(root.get(name, getlink=True), h5py.HardLink):
            raise _OutsideLink(f"{name!r} {LINK_REASON}")
    legacy = "layer_names" in root.attrs or "layer_names0" in root.attrs or "model_weights" in root
    config = root.attrs.get("model_config")
    datasets = list(_walk_datasets(h5py, root.get("model_weights", root), legacy))
    return {"datasets": datasets, "legacy": legacy, "config": _to_text(config) if config is not None else None}


def _walk_datasets(h5py: Any, top: Any, legacy: bool) -> Iterator[dict[str, Any]]:
    visited: set[Any] = set()
    pending: list[tuple[Any, tuple[str, ...], int]] = [(top, (), 0)]
    dataset_count = 0
    while pending:
        group, names, depth = pending.pop()
        key = h5py.h5o.get_info(group.id).addr
        if key in visited or depth > MAX_GROUP_DEPTH:
            continue
        visited.add(key)
        subgroups = []
        for child in _ordered_children(group, legacy, depth):
            if not isinstance(group.get(child, getlink=True), h5py.HardLink):
                raise _OutsideLink(f"{child[:80]!r} {LINK_REASON}")
            if depth == 0 and child in KERAS_OPTIMIZER_GROUPS:
                continue
            item = group[child]
            if isinstance(item, h5py.Dataset):
                address = h5py.h5o.get_info(item.id).addr
                if address in visited:
                    continue
                visited.add(address)
                dataset_count += 1
                if dataset_count > MAX_DATASETS:
                    raise ValueError(f"more than {MAX_DATASETS:,} arrays")
                yield _describe_dataset(item, (*names, child))
            elif isinstance(item, h5py.Group):
                subgroups.append((item, (*names, *_name_parts(item, child, legacy)), depth + 1))
        pending += reversed(subgroups)


def _describe_dataset(dataset: Any, names: tuple[str, ...]) -> dict[str, Any]:
    is_bfloat16 = dataset.dtype.kind == "V" and dataset.dtype.itemsize == 2  # HDF5 has no bfloat16
    is_big_endian = dataset.dtype.byteorder == ">"
    offset = dataset.id.get_offset() if dataset.chunks is None and not is_big_endian else None
    return {
        "path": dataset.name,
        "names": list(names),
        "shape": [int(size) for size in dataset.shape or ()],
        "dtype": "bfloat16" if is_bfloat16 else str(dataset.dtype.name),
        "offset": offset if dataset.nbytes else None,
        "fault": "big-endian numbers, not supported" if is_big_endian else _find_fault(dataset),
    }


def _ordered_children(group: Any, legacy: bool, depth: int) -> list[str]:
    """Return the names in a group, in the order of the layers if the file stores one."""
    import numpy as np

    names = list(group)
    if not legacy or depth:
        return names
    layer_names: list[str] = []
    for key in sorted(group.attrs):
        if key.startswith("layer_names"):
            layer_names += [_to_text(name) for name in np.asarray(group.attrs[key]).ravel()]
    position_by_name = {name: i for i, name in enumerate(layer_names)}
    return sorted(names, key=lambda name: (position_by_name.get(name, len(position_by_name)), name))


def _name_parts(group: Any, child: str, legacy: bool) -> tuple[str, ...]:
    """Return what a group adds to a layer's name: the name that the user chose, the group's own, or nothing."""
    if not legacy and child in ("layers", "vars"):
        return ()
    import h5py

    has_variables = not legacy and "vars" in group and isinstance(group.get("vars", getlink=True), h5py.HardLink)
    variables = group["vars"] if has_variables else None
    return (_to_text(variables.attrs["name"]) if variables is not None and "name" in variables.attrs else child,)


def _to_text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _find_fault(dataset: Any) -> str:
    if dataset.external or dataset.is_virtual:
        return "stored in other files, which are not opened"
    max_chunk_bytes = max(4 * dataset.nbytes, ALWAYS_ALLOWED_CHUNK_BYTES)
    if dataset.chunks and math.prod(dataset.chunks) * dataset.dtype.itemsize > max_chunk_bytes:
        return f"its chunks {dataset.chunks} are larger than the array"
    if dataset.nbytes > MAX_DEFLATE_RATIO * max(dataset.id.get_storage_size(), 1):
        return f"{dataset.nbytes:,} bytes, but the file stores only {dataset.id.get_storage_size():,}"
    return ""


if __name__ == "__main__":
    if isinstance(sys.stdout, io.TextIOWrapper):
        main(*sys.argv[1:])
