"""Describe a target that no source reads, from its name and first bytes, and suggest what to pass instead."""

from __future__ import annotations

from pathlib import Path

from layerscope.sources.storage.extents import whole_file
from layerscope.sources.storage.paths import is_folder
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
    return next((what for end, what in DESCRIPTION_BY_SUFFIX.items() if name.endswith(end)), "")


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
    if any(name in TOKENIZER_FILES for name in entries):
        return "a tokenizer without weights; pass the folder that holds the model"
    return ""
