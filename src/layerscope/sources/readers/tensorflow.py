"""TensorFlow SavedModels and checkpoints, without TensorFlow: variables are read where they lie, no graph is run."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerscope.errors import Unreadable
from layerscope.sources.layouts.keras_flax_kernels import Variable
from layerscope.sources.layouts.keras_layers import GATED, kind_of_group
from layerscope.sources.readers.state_dict import Tensors, of_variables
from layerscope.sources.readers.tensorflow_bundle import Bundle, Entry, read_index
from layerscope.sources.storage.dtypes import as_dtype
from layerscope.sources.storage.extents import whole
from layerscope.sources.storage.paths import inside, is_file, is_folder, size_of
from layerscope.sources.storage.protobuf_wire import message, text, varint
from layerscope.sources.targets import spec

if TYPE_CHECKING:
    from layerscope.array_types import Array

PORTABLE = True
OBJECTS = "_CHECKPOINTABLE_OBJECT_GRAPH"
VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
LATEST = re.compile(r'\s*model_checkpoint_path:\s*"([^"\\]+)"')
SLOTS = re.compile(
    r"(.*/)?(Adam|Adam_1|Momentum|RMSProp|RMSProp_1|ExponentialMovingAverage|Adagrad|Adadelta|Ftrl|Ftrl_1"
    r"|adam_[mv]|beta[12]_power|global_step|save_counter|_CHECKPOINTABLE_OBJECT_GRAPH)(:0)?$",
    re.DOTALL,
)
OPTIMISERS = ("optimizer/", "_optimizer/")
EXPORTED = "_all_variables/"  # a list of all variables beside the other lists of them
LONGEST_OBJECTS = 64 << 20  # bytes


def accepts(target: Any) -> bool:
    """A SavedModel's folder, a checkpoint's .index file, or a folder with a ``checkpoint`` file."""
    if is_file(target):
        return target.name.endswith(".index") and whole(target).read(max(0, size_of(target) - 8)) != b""
    return is_folder(target) and any((target / name).is_file() for name in ("saved_model.pb", "checkpoint"))


def open(target: Path) -> Tensors:
    """Read the table of variables."""
    index = _index(target)
    bundle = read_index(whole(index))
    prefix = index.name.removesuffix(".index")
    files = [
        inside(index.parent, f"{prefix}.data-{i:05d}-of-{bundle.shards:05d}") for i in range(bundle.shards)
    ]  # fmt: skip
    names, entries, copies = _names(bundle, files), {}, {}  # type: dict[str, str], dict[str, Entry], dict[str, str]
    for key in sorted(bundle.entries, key=_natural):
        name = names.get(key, key.removesuffix(VALUE))
        if key == OBJECTS or "/.OPTIMIZER" in key or key.startswith(OPTIMISERS) or SLOTS.match(name[:500]):
            continue
        entry, first = bundle.entries[key], entries.get(name)
        if first is not None:
            if key.startswith(EXPORTED) and (first.shape, first.dtype) == (entry.shape, entry.dtype):
                copies[key.removesuffix(VALUE)] = f"a copy of {name}"
            name = key.removesuffix(VALUE)
        entries[name] = entry
    if not entries:
        raise Unreadable(f"{target}: a checkpoint without variables (are its weights constants of the graph?)")
    for name, entry in entries.items():
        _check(files, name, entry)

    def fetch(name: str) -> Array:
        entry = entries[name]
        return whole(files[entry.shard]).array(as_dtype(entry.dtype), entry.offset, entry.shape)

    shapes = {name: entry.shape for name, entry in entries.items()}
    variables = [_variable(name, entry, shapes, copies.get(name, "")) for name, entry in entries.items()]
    return of_variables(spec(target, "tensorflow", portable=True), variables, fetch)


def _index(target: Path) -> Path:
    """The .index file that is meant."""
    if target.is_file():
        return target
    if (target / "saved_model.pb").is_file():
        found = target / "variables" / "variables.index"
        if not found.is_file():
            raise Unreadable(f"{target}: a SavedModel without variables: its weights are constants of the graph")
        return inside(target, "variables/variables.index", below=True)
    match = LATEST.match(whole(inside(target, "checkpoint")).read(0, 1 << 16).decode("utf-8", "replace"))
    if match is None:
        raise Unreadable(f"{target / 'checkpoint'}: names no model_checkpoint_path")
    found = inside(target, match[1].replace("\\", "/").rpartition("/")[2] + ".index")
    if not found.is_file():
        raise Unreadable(f"{target}: the latest checkpoint {found.name} is missing")
    return found


def _natural(key: str) -> tuple[bool, list[tuple[int, str]]]:
    """Numbers in the order of numbers; what Keras exports a second time last."""
    words = re.split(r"(\d{1,9})", key)
    return key.startswith(EXPORTED), [(int(word), "") if i % 2 else (0, word) for i, word in enumerate(words)]


def _check(files: list[Path], name: str, entry: Entry) -> None:
    """The numbers of a variable are there.

    :raises Unreadable: a missing or short file, or sizes that contradict each other.
    """
    if entry.shard >= len(files):
        raise Unreadable(f"{files[0]}: {name[:80]!r} is in shard {entry.shard} of {len(files)}")
    file = files[entry.shard]
    if not file.is_file():
        raise Unreadable(f"{file.name} is missing")
    if entry.sliced or not _plain(entry.dtype):
        return
    wanted = math.prod(entry.shape) * as_dtype(entry.dtype).itemsize
    if entry.size != wanted or entry.offset + wanted > size_of(file):
        raise Unreadable(f"{file}: {name[:80]!r}: {entry.size:,} bytes are not what its shape says, or truncated")


def _plain(dtype: str) -> bool:
    return dtype != "string" and not dtype.startswith("type") and "int4" not in dtype


def _variable(name: str, entry: Entry, shapes: dict[str, tuple[int, ...]], copy: str) -> Variable:
    plain = name.removesuffix(":0")
    owner, _, label = plain.rpartition("/")
    words = owner.split("/")
    kind = next((k for word in reversed(words) if (k := kind_of_group(word))), "")
    if "depthwise" in words[-1] or label in ("depthwise_weights", "depthwise_kernel"):
        kind = "depthwise"
    elif "transpose" in words[-1]:
        kind = "conv_transpose"
    if label == "pointwise_kernel":
        kind = "conv"
    gates = kind if kind in GATED else ""
    recurrent = shapes.get(f"{owner}/recurrent_kernel", ())
    if not gates and len(recurrent) == 2 and recurrent[0]:
        gates = {4: "lstm", 3: "gru", 1: "rnn"}.get(recurrent[1] // recurrent[0], "")
    gated = gates if label in ("kernel", "recurrent_kernel") and recurrent else ""
    fault = "stored in slices, not put together" if entry.sliced else copy
    return Variable(name, entry.shape, entry.dtype, kind, gates=gated, fault=fault)


def _names(bundle: Bundle, files: list[Path]) -> dict[str, str]:
    """Checkpoint key → the name that the variable had in the program, as the graph of objects says.

    That graph is an ornament: where it is damaged the keys serve as names.
    """
    entry = bundle.entries.get(OBJECTS)
    if entry is None or entry.size > LONGEST_OBJECTS or entry.shard >= len(files) or not files[entry.shard].is_file():
        return {}
    raw = whole(files[entry.shard]).read(entry.offset, entry.size)
    found: dict[str, str] = {}
    try:
        length, at = varint(raw, 0)  # a string tensor: the length, a checksum, the bytes
        for field, node in message(raw[at + 4 : at + 4 + length]):
            for inner, attribute in message(node) if field == 1 else ():
                if inner == 2:
                    values = dict(message(attribute))
                    name, key = text(values.get(2, b"")), text(values.get(3, b""))
                    if name and key:
                        found[key] = name
    except ValueError:
        return {}
    return found
