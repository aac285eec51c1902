"""TensorFlow SavedModels and checkpoints, read without TensorFlow: variables are memory-mapped, no graph is run."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerscope.errors import Unreadable
from layerscope.sources.inventory import (
    TENSORFLOW_OPTIMIZER_ATTRIBUTE,
    TENSORFLOW_OPTIMIZER_NAME,
    TENSORFLOW_OPTIMIZER_PREFIXES,
)
from layerscope.sources.layouts.keras_flax_kernels import Variable
from layerscope.sources.layouts.keras_layers import RECURRENT_KINDS, kind_of_group
from layerscope.sources.readers.state_dict import Tensors, source_from_variables
from layerscope.sources.readers.tensorflow_bundle import Bundle, Entry, read_index
from layerscope.sources.storage.dtypes import as_dtype
from layerscope.sources.storage.extents import whole_file
from layerscope.sources.storage.paths import is_file, is_folder, path_inside, size_of
from layerscope.sources.storage.protobuf_wire import as_message, as_text, read_varint
from layerscope.sources.targets import make_spec

if TYPE_CHECKING:
    from layerscope.array_types import Array

PORTABLE = True
OBJECT_GRAPH_KEY = "_CHECKPOINTABLE_OBJECT_GRAPH"
VALUE_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
LATEST_CHECKPOINT = re.compile(r'\s*model_checkpoint_path:\s*"([^"\\]+)"')
EXPORTED_PREFIX = "_all_variables/"  # Keras lists all variables here a second time
MAX_OBJECT_GRAPH_BYTES = 64 << 20


def accepts(target: Any) -> bool:
    """Accept a SavedModel's folder, a checkpoint's .index file, or a folder with a ``checkpoint`` file."""
    if is_file(target):
        return target.name.endswith(".index") and whole_file(target).read(max(0, size_of(target) - 8)) != b""
    return is_folder(target) and any((target / name).is_file() for name in ("saved_model.pb", "checkpoint"))


def open(target: Path) -> Tensors:
    """Read the table of variables."""
    index = _find_index(target)
    bundle = read_index(whole_file(index))
    prefix = index.name.removesuffix(".index")
    files = [
        path_inside(index.parent, f"{prefix}.data-{i:05d}-of-{bundle.shards:05d}") for i in range(bundle.shards)
    ]  # fmt: skip
    names, entries, copy_faults = _read_variable_names(bundle, files), {}, {}  # type: dict[str, str], dict[str, Entry], dict[str, str]
    for key in sorted(bundle.entries, key=_natural_sort_key):
        name = names.get(key, key.removesuffix(VALUE_SUFFIX))
        if key == OBJECT_GRAPH_KEY or _is_optimizer_state(key, name):
            continue
        entry, first = bundle.entries[key], entries.get(name)
        if first is not None:
            if key.startswith(EXPORTED_PREFIX) and (first.shape, first.dtype) == (entry.shape, entry.dtype):
                copy_faults[key.removesuffix(VALUE_SUFFIX)] = f"a copy of {name}"
            name = key.removesuffix(VALUE_SUFFIX)
        entries[name] = entry
    if not entries:
        raise Unreadable(
            f"{target}: the checkpoint contains no variables of a model (are its weights constants of the graph?); "
            "save the model with its variables"
        )
    for name, entry in entries.items():
        _check_stored(files, name, entry)

    def fetch(name: str) -> Array:
        entry = entries[name]
        return whole_file(files[entry.shard]).array(as_dtype(entry.dtype), entry.offset, entry.shape)

    shapes = {name: entry.shape for name, entry in entries.items()}
    variables = [_describe_variable(name, entry, shapes, copy_faults.get(name, "")) for name, entry in entries.items()]
    return source_from_variables(make_spec(target, "tensorflow", portable=True), variables, fetch)


def _is_optimizer_state(key: str, name: str) -> bool:
    return (
        TENSORFLOW_OPTIMIZER_ATTRIBUTE in key
        or key.startswith(TENSORFLOW_OPTIMIZER_PREFIXES)
        or TENSORFLOW_OPTIMIZER_NAME.match(name[:500]) is not None
    )


def _find_index(target: Path) -> Path:
    """Find the .index file of the target."""
    if target.is_file():
        return target
    if (target / "saved_model.pb").is_file():
        index = target / "variables" / "variables.index"
        if not index.is_file():
            raise Unreadable(
                f"{target}: the SavedModel contains no variables: its weights are constants of the graph, which are "
                "not read; save the model with its variables"
            )
        return path_inside(target, "variables/variables.index", below=True)
    match = LATEST_CHECKPOINT.match(
        whole_file(path_inside(target, "checkpoint")).read(0, 1 << 16).decode("utf-8", "replace")
    )
    if match is None:
        raise Unreadable(
            f"{target / 'checkpoint'}: it states no model_checkpoint_path; pass the .index file of a checkpoint"
        )
    index = path_inside(target, match[1].replace("\\", "/").rpartition("/")[2] + ".index")
    if not index.is_file():
        raise Unreadable(
            f"{target}: the latest checkpoint {index.name} is missing; pass the .index file of another checkpoint"
        )
    return index


def _natural_sort_key(key: str) -> tuple[bool, list[tuple[int, str]]]:
    """Sort key: numbers in a name compare as numbers; the variables that Keras lists a second time sort last."""
    words = re.split(r"(\d{1,9})", key)
    return key.startswith(EXPORTED_PREFIX), [(int(word), "") if i % 2 else (0, word) for i, word in enumerate(words)]


def _check_stored(files: list[Path], name: str, entry: Entry) -> None:
    """Check that the values of a variable are stored.

    :raises Unreadable: a file is missing or too short, or the sizes contradict each other.
    """
    if entry.shard >= len(files):
        raise Unreadable(
            f"{files[0]}: {name[:80]!r} is in shard {entry.shard}, but the last shard is {len(files) - 1}; "
            "save the checkpoint again"
        )
    file = files[entry.shard]
    if not file.is_file():
        raise Unreadable(f"{file}: the data file is missing; put it beside the .index file")
    if entry.sliced or not _is_numeric(entry.dtype):
        return
    expected_bytes = math.prod(entry.shape) * as_dtype(entry.dtype).itemsize
    if entry.size != expected_bytes or entry.offset + expected_bytes > size_of(file):
        raise Unreadable(
            f"{file}: truncated or damaged: {name[:80]!r} needs {expected_bytes:,} bytes, the index states "
            f"{entry.size:,} from byte {entry.offset:,}, the file has {size_of(file):,}; save or download it again"
        )


def _is_numeric(dtype: str) -> bool:
    return dtype != "string" and not dtype.startswith("type") and "int4" not in dtype


def _describe_variable(name: str, entry: Entry, shapes: dict[str, tuple[int, ...]], copy_fault: str) -> Variable:
    plain_name = name.removesuffix(":0")
    owner, _, label = plain_name.rpartition("/")
    words = owner.split("/")
    kind = next((k for word in reversed(words) if (k := kind_of_group(word))), "")
    if "depthwise" in words[-1] or label in ("depthwise_weights", "depthwise_kernel"):
        kind = "depthwise"
    elif "transpose" in words[-1]:
        kind = "conv_transpose"
    if label == "pointwise_kernel":
        kind = "conv"
    gates = kind if kind in RECURRENT_KINDS else ""
    recurrent = shapes.get(f"{owner}/recurrent_kernel", ())
    if not gates and len(recurrent) == 2 and recurrent[0]:
        gates = {4: "lstm", 3: "gru", 1: "rnn"}.get(recurrent[1] // recurrent[0], "")
    variable_gates = gates if label in ("kernel", "recurrent_kernel") and recurrent else ""
    fault = "stored in slices, not decoded" if entry.sliced else copy_fault
    return Variable(name, entry.shape, entry.dtype, kind, gates=variable_gates, fault=fault)


def _read_variable_names(bundle: Bundle, files: list[Path]) -> dict[str, str]:
    """Map checkpoint keys to the variables' names in the program, as the object graph states them.

    The object graph is optional: without it, or if it is damaged, the keys serve as names.
    """
    entry = bundle.entries.get(OBJECT_GRAPH_KEY)
    if (
        entry is None
        or entry.size > MAX_OBJECT_GRAPH_BYTES
        or entry.shard >= len(files)
        or not files[entry.shard].is_file()
    ):
        return {}
    raw = whole_file(files[entry.shard]).read(entry.offset, entry.size)
    name_by_key: dict[str, str] = {}
    try:
        length, at = read_varint(raw, 0)  # a string tensor: the length, a checksum, the bytes
        for field, node in as_message(raw[at + 4 : at + 4 + length]):
            for inner, attribute in as_message(node) if field == 1 else ():
                if inner == 2:
                    values = dict(as_message(attribute))
                    name, key = as_text(values.get(2, b"")), as_text(values.get(3, b""))
                    if name and key:
                        name_by_key[key] = name
    except ValueError:
        return {}
    return name_by_key
