"""Describe a target that no source reads, from its name and first bytes, and suggest what to pass instead."""

from __future__ import annotations

import itertools
import shlex
import tarfile
import zlib
from pathlib import Path

from layerscope.sources.storage.extents import whole_file
from layerscope.sources.storage.paths import is_folder
from layerscope.sources.storage.zip_archive import zip_names
from layerscope.text import plural

READABLE_FORMATS = (
    "safetensors, torch (.pt .pth .bin .ckpt .jit .pt2, DCP), GGUF, Keras (.keras .h5), ONNX, TensorFlow, TFLite, "
    "Flax, Orbax, .npz, LoRA, diffusers and Hugging Face folders"
)
DESCRIPTION_BY_SUFFIX = {  # end of a name → description and advice
    ".mlpackage": "a Core ML model, which is not supported; pass the model that it was converted from",
    ".mlmodel": "a Core ML model, which is not supported; pass the model that it was converted from",
    "saved_model.pb": "the graph of a SavedModel; pass its folder",
    "manifest.ocdbt": "part of an Orbax checkpoint; pass its folder",
    "_METADATA": "part of an Orbax checkpoint; pass its folder",
    "model_index.json": "the index of a diffusers pipeline; pass its folder",
    "config.json": "a model configuration; pass its folder",
    ".distcp": "a shard of a distributed checkpoint; pass its folder",
    ".mar": "a TorchServe archive, which is not supported; pass the model file inside it",
    ".engine": "a TensorRT engine, which is not supported; pass the model that it was built from",
    ".pb": "a frozen TensorFlow graph, which is not supported; pass the SavedModel or the checkpoint",
    ".pkl": "a pickle, but not a torch checkpoint; save the arrays as .npz or safetensors",
}
DESCRIPTION_BY_PREFIX = {  # first bytes → description and advice
    b"version https://git-lfs": "a Git LFS pointer, not the file itself; run: git lfs pull",
    b"<!DOCTYPE": "a web page, not a model; the download failed, try it again",
    b"<html": "a web page, not a model; the download failed, try it again",
    b"\xef\n": "possibly a piece of a split file; join the pieces with cat",
}
MODEL_SUFFIXES = (
    ".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".gguf", ".onnx", ".h5", ".keras", ".npz", ".tflite", ".msgpack",
)  # fmt: skip
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
TAR_COMPRESSIONS = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ")
MAX_TAR_MEMBERS = 1000
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")


def describe_target(path: Path) -> str:
    """Return a short description of the target with advice, or "" if it is unknown."""
    name = path.name
    if is_folder(path):
        return _describe_folder(path)
    head = whole_file(path).read(0, 64)
    for start, what in DESCRIPTION_BY_PREFIX.items():
        if head.startswith(start):
            return what
    if ".data-0000" in name:
        return f"the data file of a TensorFlow checkpoint; pass {name.partition('.data-')[0]}"
    if ".part" in name:
        return "a piece of a split file; join the pieces with cat"
    archive = _describe_archive(path, head)
    return archive or next((what for end, what in DESCRIPTION_BY_SUFFIX.items() if name.endswith(end)), "")


def _describe_archive(path: Path, head: bytes) -> str:
    """Describe a zip or tar by the first model in it, and give the command that unpacks that one; "" for others."""
    if head.startswith(b"PK"):
        names, command = list(zip_names(path)), "unzip"
    elif head.startswith(TAR_COMPRESSIONS) or path.name.endswith(TAR_SUFFIXES):
        names, command = _tar_names(path), "tar -xf"
    else:
        return ""
    models = sorted(name for name in names if name.endswith(MODEL_SUFFIXES))
    kind = "an archive"
    if "policy.pth" in names and "data" in names:
        kind, models = "an archive of Stable-Baselines3", ["policy.pth"]
    if not models:
        return f"{kind} without a model in a known format" if names else ""
    count = f"{plural(len(models), 'model file')}"
    quoted = shlex.quote(models[0][:200])
    return f"{kind} with {count}; unpack it with: {command} {shlex.quote(path.name)} {quoted}, and pass {quoted}"


def _tar_names(path: Path) -> list[str]:
    """Names of the first members of a tar archive, compressed or not; [] if it is none."""
    try:
        with tarfile.open(path, "r:*") as archive:
            return [member.name for member in itertools.islice(archive, MAX_TAR_MEMBERS)]
    except (tarfile.TarError, OSError, EOFError, ValueError, zlib.error):
        return []


def describe_placeholder(path: Path) -> str:
    """Describe a placeholder in place of a model file (a Git LFS pointer or a web page), or return ""."""
    head = whole_file(path).read(0, 64)
    return next(
        (what for start, what in DESCRIPTION_BY_PREFIX.items() if len(start) > 2 and head.startswith(start)), ""
    )


def _describe_folder(path: Path) -> str:
    if path.name.endswith((".mlpackage", ".mlmodelc")):
        return DESCRIPTION_BY_SUFFIX[".mlpackage"]
    entries = sorted(entry.name for entry in path.iterdir())
    if any(name.endswith("variables.index") for name in entries):
        return f"the variables of a SavedModel; pass {path.parent} or {path / 'variables.index'}"
    checkpoints = [name for name in entries if name.startswith("checkpoint-") and name[11:].isdigit()]
    if checkpoints:
        newest = max(checkpoints, key=lambda name: int(name[11:]))
        count = plural(len(checkpoints), "checkpoint")
        return f"a training run with {count}; pass one of them, e.g. the newest: {path / newest}"
    if any(name.endswith("_optim_states.pt") for name in entries) or "zero_to_fp32.py" in entries:
        return (
            "a DeepSpeed ZeRO checkpoint, whose weights are split over files; put them together first: "
            f"python zero_to_fp32.py {shlex.quote(str(path))} model"
        )
    if any(name in TOKENIZER_FILES for name in entries):
        return "a tokenizer without weights; pass the folder that holds the model"
    return ""
