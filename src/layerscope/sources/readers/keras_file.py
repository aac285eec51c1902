"""Keras models saved as .keras, .weights.h5 or legacy .h5, read with h5py; neither Keras nor Lambda layers are run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerscope.errors import Unreadable
from layerscope.sources.layouts.keras_flax_kernels import Variable
from layerscope.sources.layouts.keras_layers import (
    RECURRENT_KINDS,
    VARIABLE_NAMES,
    LayerConfig,
    kind_of_group,
    layer_configs,
)
from layerscope.sources.readers.state_dict import Tensors, source_from_variables
from layerscope.sources.storage.extents import whole_file
from layerscope.sources.storage.hdf5_process import Dataset, list_contents, read_array
from layerscope.sources.storage.json_text import parse_json
from layerscope.sources.storage.paths import is_file
from layerscope.sources.storage.zip_archive import Archive, zip_names
from layerscope.sources.targets import make_spec

if TYPE_CHECKING:
    from layerscope.array_types import Array

PORTABLE = True
MAGIC = b"\x89HDF\r\n\x1a\n"
WEIGHTS_MEMBER, CONFIG_MEMBER = "model.weights.h5", "config.json"
MAX_CONFIG_BYTES = 16 << 20

ConfigByPath = Mapping[tuple[str, ...], LayerConfig]


def accepts(target: Any) -> bool:
    """Accept an HDF5 file, or a zip with the members of a .keras file."""
    if not is_file(target):
        return False
    if target.suffix in (".keras", ".h5", ".hdf5"):
        return True
    return WEIGHTS_MEMBER in zip_names(target) or whole_file(target).read(0, 8) == MAGIC


def open(target: Path) -> Tensors:
    """Read the names and shapes of the variables."""
    extent, config = whole_file(target), None
    if zip_names(target):
        archive = Archive(extent)
        extent = archive.stored_extent(WEIGHTS_MEMBER)
        if CONFIG_MEMBER in archive.members:
            config = _parse_config(target, archive.read(CONFIG_MEMBER, MAX_CONFIG_BYTES))
    if extent.read(0, 8) != MAGIC:
        raise Unreadable(
            f"{target}: not a Keras file, or truncated: neither a .keras zip nor HDF5; save or download it again"
        )
    file_contents = list_contents(extent)
    if not file_contents.legacy and not any("/vars/" in dataset.path for dataset in file_contents.datasets):
        raise Unreadable(
            f"{target}: an HDF5 file without Keras layers; pass a .keras, .weights.h5 or .h5 file saved by Keras"
        )
    configs = layer_configs(_parse_config(target, file_contents.config) if file_contents.config is not None else config)
    rows = (_variables_of_keras2 if file_contents.legacy else _variables_of_keras3)(file_contents.datasets, configs)
    datasets = {dataset.path: dataset for dataset in file_contents.datasets}
    paths: dict[str, str] = {}
    variables = []
    for variable, path in rows:
        name = variable.name if variable.name not in paths else path
        paths[name] = path
        variables.append(Variable(**{**vars(variable), "name": name}))
    if not variables:
        raise Unreadable(f"{target}: the Keras file contains no weights; build the model before saving it")

    def fetch(name: str) -> Array:
        return read_array(extent, datasets[paths[name]])

    return source_from_variables(make_spec(target, "keras_file", portable=True), variables, fetch)


def _parse_config(target: Path, raw: bytes | str) -> Any:
    try:
        return parse_json(raw)
    except (ValueError, RecursionError):
        raise Unreadable(f"{target}: the model's configuration is not JSON; save the model again") from None


def _variables_of_keras3(datasets: list[Dataset], configs: ConfigByPath) -> list[tuple[Variable, str]]:
    """List the variables of Keras 3: …/vars/0, …/vars/1 below a group named after the layer's class."""
    layers: dict[str, list[Dataset]] = {}
    for dataset in datasets:
        layers.setdefault(dataset.path.rpartition("/")[0], []).append(dataset)
    rows = []
    for folder, members in layers.items():
        group = folder.removesuffix("/vars").rpartition("/")[2]
        names = members[0].names[:-1]
        config = _find_layer_config(configs, names)
        kind = (
            config.kind if config and config.kind else kind_of_group(group) or kind_of_group(names[-1] if names else "")
        )
        if not kind and {"_dense", "_cell"} & {group[-6:], group[-5:]}:
            kind = "einsum" if group.endswith("_dense") else ""
        members.sort(key=lambda d: (len(d.names[-1]), d.names[-1]))
        gates = kind if kind in RECURRENT_KINDS else ""
        labels = VARIABLE_NAMES.get(kind) or _guess_labels(members)
        is_quantized = "int" in members[0].dtype and kind in VARIABLE_NAMES
        for i, dataset in enumerate(members):
            label = labels[i] if i < len(labels) and dataset.names[-1].isdigit() else dataset.names[-1]
            if label == "kernel" and len(dataset.shape) < 2:
                label = "bias"
            name = "/".join((*names, label))
            variable = Variable(
                name,
                dataset.shape,
                dataset.dtype,
                kind,
                config.groups if config else 0,
                config.equation if config else "",
                gates if label in ("kernel", "recurrent_kernel") else "",
                dataset.fault or ("quantized by Keras, not decoded" if is_quantized and len(dataset.shape) > 1 else ""),
            )
            rows.append((_find_position(configs, names), variable, dataset.path))
    rows.sort(key=lambda item: item[0])
    return [(variable, path) for _, variable, path in rows]


def _guess_labels(members: list[Dataset]) -> tuple[str, ...]:
    """Guess the variable names of a layer of unknown class: a kernel first, then a 1-D bias."""
    axis_counts = [len(d.shape) for d in members]
    return ("kernel", "bias") if axis_counts in ([2, 1], [3, 1], [4, 1], [5, 1], [2], [4], [5]) else ()


def _find_layer_config(configs: ConfigByPath, names: tuple[str, ...]) -> LayerConfig | None:
    """Find the configuration of a layer by the longest suffix of its path that has one."""
    for start in range(len(names)):
        if names[start:] in configs:
            return configs[names[start:]]
    return None


def _find_position(configs: ConfigByPath, names: tuple[str, ...]) -> int:
    """The position in the configuration of a layer, or of the layer that contains it."""
    subpaths = (names[start:stop] for stop in range(len(names), 0, -1) for start in range(stop))
    return next((configs[names].position for names in subpaths if names in configs), len(configs))


def _variables_of_keras2(datasets: list[Dataset], configs: ConfigByPath) -> list[tuple[Variable, str]]:
    """List the variables of Keras 2: layer/layer/kernel:0."""
    shapes = {dataset.path: dataset.shape for dataset in datasets}
    rows = []
    for dataset in datasets:
        first, *inner_names = dataset.names
        names = tuple(inner_names[inner_names.index(first) :]) if first in inner_names else (first, *inner_names)
        label = names[-1].partition(":")[0]
        owner = names[:-1]
        config = _find_layer_config(configs, owner) or _find_layer_config(configs, owner[:1])
        kind = config.kind if config else ""
        kind = kind or next((k for name in reversed(owner) if (k := kind_of_group(name))), "")
        gates = kind if kind in RECURRENT_KINDS else ""
        folder, _, last = dataset.path.rpartition("/")
        recurrent = shapes.get(f"{folder}/{last.replace('kernel', 'recurrent_kernel')}", ())
        if not gates and len(recurrent) == 2 and recurrent[0]:
            gates = {4: "lstm", 3: "gru", 1: "rnn"}.get(recurrent[1] // recurrent[0], "")
        variable_gates = gates if label in ("kernel", "recurrent_kernel") else ""
        groups, equation = (config.groups, config.equation) if config else (0, "")
        name = "/".join((*owner, label))
        row = Variable(name, dataset.shape, dataset.dtype, kind, groups, equation, variable_gates, dataset.fault)
        rows.append((row, dataset.path))
    return rows
