"""Keras models saved as .keras, .weights.h5 or legacy .h5, read with h5py: no Keras, and no Lambda is ever run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.errors import MissingExtra, Refused, Unreadable
from layerscope.sources import spec
from layerscope.sources._files import Archive, Extent, is_file, parse, whole, zip_names
from layerscope.sources._keras import GATED, VARIABLES, LayerConfig, kind_of_group, layer_configs
from layerscope.sources._kernels import Variable
from layerscope.sources._state_dict import Tensors, of_variables

if TYPE_CHECKING:
    from layerscope.types import Array

PORTABLE = True
MAGIC = b"\x89HDF\r\n\x1a\n"
WEIGHTS, CONFIG = "model.weights.h5", "config.json"
LONGEST_CONFIG = 16 << 20  # bytes
MOST_DATASETS = 1 << 18
DEEPEST = 64  # groups in groups
SMALL_CHUNK = 1 << 24  # bytes
HEAP = b"GCOL\x01\x00\x00\x00"  # opens a collection of strings
SCANNED = 256 << 20  # bytes from each end of a file that are looked through for them
SQUEEZED = 1032  # largest ratio that deflate reaches
SKIPPED = ("optimizer", "optimizer_weights")

Configs = Mapping[tuple[str, ...], LayerConfig]


def accepts(target: Any) -> bool:
    """An HDF5 file, or a zip with the members of a .keras file."""
    if not is_file(target):
        return False
    if target.suffix in (".keras", ".h5", ".hdf5"):
        return True
    return WEIGHTS in zip_names(target) or whole(target).read(0, 8) == MAGIC


def open(target: Path) -> Tensors:
    """Read names and shapes."""
    _package()
    extent, config = whole(target), None
    if zip_names(target):
        archive = Archive(extent)
        extent = archive.stored(WEIGHTS)
        if CONFIG in archive.members:
            config = _json(target, archive.read(CONFIG, LONGEST_CONFIG))
    if extent.read(0, 8) != MAGIC:
        raise Unreadable(f"{target}: neither a .keras zip nor an HDF5 file (truncated?)")
    _check_heaps(target, extent)
    datasets, legacy, config = _contents(target, extent, config)
    configs = layer_configs(config)
    rows = _legacy(datasets, configs) if legacy else _saved(datasets, configs)
    paths: dict[str, str] = {}
    variables = []
    for variable, path in rows:
        name = variable.name if variable.name not in paths else path
        paths[name] = path
        variables.append(Variable(**{**vars(variable), "name": name}))
    if not variables:
        raise Unreadable(f"{target}: an HDF5 file without a Keras model's weights")

    def fetch(name: str) -> Array:
        return _read(extent, paths[name])

    return of_variables(spec(target, "keras_file", portable=True), variables, fetch)


def _check_heaps(target: Path, extent: Extent) -> None:
    """Every collection of strings is filled by its objects: libhdf5 would look for their end for ever.

    :raises Unreadable: one is not.
    """
    most = SCANNED if isinstance(extent.path, Path) else 1 << 22
    pieces = [(0, most), (max(most, extent.length - most), most)] if extent.length > most else [(0, extent.length)]
    for start, count in pieces:
        raw = extent.read(start, count)
        at = raw.find(HEAP)
        while at >= 0:
            size = int.from_bytes(raw[at + 8 : at + 16], "little")
            inner, stop = at + 16, at + size
            while inner + 16 <= min(stop, len(raw)):
                length = int.from_bytes(raw[inner + 8 : inner + 16], "little")
                free = raw[inner : inner + 2] == b"\0\0"  # the rest of the collection, all of it
                step = length if free else 16 + -(-length // 8) * 8
                if step < 16 or inner + step > stop or (free and inner + step != stop):
                    raise Unreadable(f"{target}: damaged HDF5: a collection of strings that has no end")
                inner += step
            at = raw.find(HEAP, at + 8)


class Dataset:
    """One array of the file, and the names of the layers that lead to it."""

    def __init__(self, path: str, dataset: Any, names: tuple[str, ...]) -> None:
        self.path, self.names = path, names
        self.shape = tuple(dataset.shape or ())
        self.dtype = _dtype(dataset)
        self.fault = _fault(dataset)


def _package() -> Any:
    try:
        import h5py
    except ImportError:
        raise MissingExtra("a Keras file", "keras") from None
    return h5py


def _json(target: Path, raw: bytes | str) -> Any:
    try:
        return parse(raw)
    except (ValueError, RecursionError):
        raise Unreadable(f"{target}: its configuration is not JSON") from None


def _contents(target: Path, extent: Extent, config: Any) -> tuple[list[Dataset], bool, Any]:
    """(arrays in order, is the file of Keras 2's form?, the configuration)."""
    h5py = _package()
    try:
        with extent.open() as file, h5py.File(file, "r") as root:
            legacy = "layer_names" in root.attrs or "layer_names0" in root.attrs or "model_weights" in root
            if isinstance(root.attrs.get("model_config"), str | bytes):
                config = _json(target, root.attrs["model_config"])
            top = root.get("model_weights", root)
            found = list(_datasets(h5py, target, top, legacy))
            if not legacy and not any("/vars/" in dataset.path for dataset in found):
                raise Unreadable(f"{target}: an HDF5 file, but not one of Keras: it has no layers")
            return found, legacy, config
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise Unreadable(f"{target}: damaged or truncated HDF5: {' '.join(str(error).split())[:200]}") from None


def _datasets(h5py: Any, target: Path, top: Any, legacy: bool) -> Iterator[Dataset]:
    seen: set[Any] = set()
    waiting: list[tuple[Any, tuple[str, ...], int]] = [(top, (), 0)]
    found = 0
    while waiting:
        group, names, depth = waiting.pop()
        key = h5py.h5o.get_info(group.id).addr
        if key in seen or depth > DEEPEST:
            continue
        seen.add(key)
        below = []
        for child in _children(group, legacy, depth):
            link = group.get(child, getlink=True)
            if not isinstance(link, h5py.HardLink):
                raise Refused(f"{target}: {child[:80]!r} is a link to elsewhere, which is not followed")
            if depth == 0 and child in SKIPPED:
                continue
            item = group[child]
            if isinstance(item, h5py.Dataset):
                address = h5py.h5o.get_info(item.id).addr
                if address in seen:
                    continue
                seen.add(address)
                found += 1
                if found > MOST_DATASETS:
                    raise Unreadable(f"{target}: more than {MOST_DATASETS:,} arrays")
                yield Dataset(item.name, item, (*names, child))
            elif isinstance(item, h5py.Group):
                below.append((item, (*names, *_name(item, child, legacy)), depth + 1))
        waiting += reversed(below)


def _children(group: Any, legacy: bool, depth: int) -> list[str]:
    """Names in a group, in the order of the layers where the file keeps one."""
    names = list(group)
    if not legacy or depth:
        return names
    listed: list[str] = []
    for key in sorted(group.attrs):
        if key.startswith("layer_names"):
            listed += [_text(name) for name in np.asarray(group.attrs[key]).ravel()]
    order = {name: i for i, name in enumerate(listed)}
    return sorted(names, key=lambda name: (order.get(name, len(order)), name))


def _name(group: Any, child: str, legacy: bool) -> tuple[str, ...]:
    """What a group adds to a name: the user's name of the layer, its own, or nothing."""
    if not legacy and child in ("layers", "vars"):
        return ()
    inner = group.get("vars") if not legacy and "vars" in group else None
    return (_text(inner.attrs["name"]) if inner is not None and "name" in inner.attrs else child,)


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _dtype(dataset: Any) -> str:
    if (
        dataset.dtype.kind == "V"
        and dataset.dtype.itemsize == 2
        and _text(dataset.attrs.get("dtype", "")) == "bfloat16"
    ):
        return "bfloat16"
    return str(dataset.dtype.name)


def _fault(dataset: Any) -> str:
    if dataset.external or dataset.is_virtual:
        return "its data lie in other files, which are not opened"
    if dataset.chunks and math.prod(dataset.chunks) * dataset.dtype.itemsize > max(4 * dataset.nbytes, SMALL_CHUNK):
        return f"its chunks {dataset.chunks} are larger than itself"
    if dataset.nbytes > SQUEEZED * max(dataset.id.get_storage_size(), 1):
        return f"{dataset.nbytes:,} bytes of which the file holds {dataset.id.get_storage_size():,}"
    return ""


def _read(extent: Extent, path: str) -> Array:
    with extent.open() as file, _package().File(file, "r") as root:
        dataset = root[path]
        if _fault(dataset):
            raise Unreadable(f"{extent.path}: {path}: {_fault(dataset)}")
        array = np.asarray(dataset[()])
        if _dtype(dataset) == "bfloat16":
            import ml_dtypes

            array = array.view(ml_dtypes.bfloat16)
        return array


def _saved(datasets: list[Dataset], configs: Configs) -> list[tuple[Variable, str]]:
    """Keras 3: …/vars/0, …/vars/1 below a group that is named after the layer's class."""
    layers: dict[str, list[Dataset]] = {}
    for dataset in datasets:
        layers.setdefault(dataset.path.rpartition("/")[0], []).append(dataset)
    rows = []
    for folder, members in layers.items():
        group = folder.removesuffix("/vars").rpartition("/")[2]
        names = members[0].names[:-1]
        config = _config(configs, names)
        kind = (
            config.kind if config and config.kind else kind_of_group(group) or kind_of_group(names[-1] if names else "")
        )
        if not kind and {"_dense", "_cell"} & {group[-6:], group[-5:]}:
            kind = "einsum" if group.endswith("_dense") else ""
        members.sort(key=lambda d: (len(d.names[-1]), d.names[-1]))
        gates = kind if kind in GATED else ""
        labels = VARIABLES.get(kind) or _guessed(members)
        quantised = "int" in members[0].dtype and kind in VARIABLES
        for i, dataset in enumerate(members):
            label = labels[i] if i < len(labels) and dataset.names[-1].isdigit() else dataset.names[-1]
            if label == "kernel" and len(dataset.shape) < 2:
                label = "bias"
            name = "/".join((*names, label))
            row = Variable(
                name,
                dataset.shape,
                dataset.dtype,
                kind,
                config.groups if config else 0,
                config.equation if config else "",
                gates if label in ("kernel", "recurrent_kernel") else "",
                dataset.fault or ("quantised by Keras, not decoded" if quantised and len(dataset.shape) > 1 else ""),
            )
            rows.append((_position(configs, names), row, dataset.path))
    rows.sort(key=lambda item: item[0])
    return [(row, path) for _, row, path in rows]


def _guessed(members: list[Dataset]) -> tuple[str, ...]:
    """Names of the variables of a layer of unknown class: the first is a kernel, a second of one axis its bias."""
    axes = [len(d.shape) for d in members]
    return ("kernel", "bias") if axes in ([2, 1], [3, 1], [4, 1], [5, 1], [2], [4], [5]) else ()


def _config(configs: Configs, names: tuple[str, ...]) -> LayerConfig | None:
    """What the configuration says of the layer that these names lead to: the longest end of them that it knows."""
    for start in range(len(names)):
        if names[start:] in configs:
            return configs[names[start:]]
    return None


def _position(configs: Configs, names: tuple[str, ...]) -> int:
    """Where the configuration has the layer, or the one that it is part of."""
    stretches = (names[start:stop] for stop in range(len(names), 0, -1) for start in range(stop))
    return next((configs[names].position for names in stretches if names in configs), len(configs))


def _legacy(datasets: list[Dataset], configs: Configs) -> list[tuple[Variable, str]]:
    """Keras 2: layer/layer/kernel:0."""
    shapes = {dataset.path: dataset.shape for dataset in datasets}
    rows = []
    for dataset in datasets:
        first, *rest = dataset.names
        names = tuple(rest[rest.index(first) :]) if first in rest else (first, *rest)
        label = names[-1].partition(":")[0]
        owner = names[:-1]
        config = _config(configs, owner) or _config(configs, owner[:1])
        kind = config.kind if config else ""
        kind = kind or next((k for name in reversed(owner) if (k := kind_of_group(name))), "")
        gates = kind if kind in GATED else ""
        folder, _, last = dataset.path.rpartition("/")
        recurrent = shapes.get(f"{folder}/{last.replace('kernel', 'recurrent_kernel')}", ())
        if not gates and len(recurrent) == 2 and recurrent[0]:
            gates = {4: "lstm", 3: "gru", 1: "rnn"}.get(recurrent[1] // recurrent[0], "")
        gated = gates if label in ("kernel", "recurrent_kernel") else ""
        groups, equation = (config.groups, config.equation) if config else (0, "")
        name = "/".join((*owner, label))
        row = Variable(name, dataset.shape, dataset.dtype, kind, groups, equation, gated, dataset.fault)
        rows.append((row, dataset.path))
    return rows
