"""What a target that no source reads is, as far as its name and first bytes tell, and what to give instead."""

from __future__ import annotations

from pathlib import Path

from layerscope.sources.storage.extents import whole_file
from layerscope.sources.storage.paths import is_folder

READABLE_FORMATS = (
    "safetensors, torch (.pt .pth .bin .ckpt .jit .pt2, DCP), GGUF, Keras (.keras .h5), ONNX, TensorFlow, TFLite, "
    "Flax, Orbax, .npz, LoRA, diffusers and Hugging Face folders"
)
DESCRIPTION_BY_SUFFIX = {  # end of a name → what it is, what to do
    ".mlpackage": "Core ML, which is not read; give the model that it was converted from",
    ".mlmodel": "Core ML, which is not read; give the model that it was converted from",
    "saved_model.pb": "the graph of a SavedModel; give its folder",
    "manifest.ocdbt": "a part of an Orbax checkpoint; give its folder",
    "_METADATA": "a part of an Orbax checkpoint; give its folder",
    "model_index.json": "the index of a diffusers pipeline; give its folder",
    "config.json": "a configuration; give its folder",
    ".distcp": "a shard of a distributed checkpoint; give its folder",
    ".mar": "a TorchServe archive, which is not read; give the weights in it",
    ".engine": "a TensorRT engine, which is not read; give the model that it was built from",
    ".pb": "a frozen graph of TensorFlow, which is not read; give the SavedModel or the checkpoint",
    ".pkl": "a pickle that is no torch checkpoint; save the arrays as .npz or safetensors",
}
DESCRIPTION_BY_PREFIX = {  # first bytes → what it is
    b"version https://git-lfs": "a Git LFS pointer instead of the file; run: git lfs pull",
    b"<!DOCTYPE": "a web page, not a model; the download failed",
    b"<html": "a web page, not a model; the download failed",
    b"\xef\n": "a piece of a split file? join the pieces with cat",
}
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")


def describe_target(path: Path) -> str:
    """What the target is, in a few words, or ""."""
    name = path.name
    if is_folder(path):
        return _describe_folder(path)
    head = whole_file(path).read(0, 64)
    for start, what in DESCRIPTION_BY_PREFIX.items():
        if head.startswith(start):
            return what
    if ".data-0000" in name:
        return f"the numbers of a TensorFlow checkpoint; give {name.partition('.data-')[0]}"
    if ".part" in name:
        return "a piece of a split file; join the pieces with cat"
    return next((what for end, what in DESCRIPTION_BY_SUFFIX.items() if name.endswith(end)), "")


def describe_placeholder(path: Path) -> str:
    """What stands in the place of a model's file, or "": a Git LFS pointer, a web page."""
    head = whole_file(path).read(0, 64)
    return next(
        (what for start, what in DESCRIPTION_BY_PREFIX.items() if len(start) > 2 and head.startswith(start)), ""
    )


def _describe_folder(path: Path) -> str:
    if path.name.endswith((".mlpackage", ".mlmodelc")):
        return DESCRIPTION_BY_SUFFIX[".mlpackage"]
    entries = sorted(entry.name for entry in path.iterdir())
    if any(name.endswith("variables.index") for name in entries):
        return f"the variables of a SavedModel; give {path.parent} or {path / 'variables.index'}"
    checkpoints = [name for name in entries if name.startswith("checkpoint-") and name[11:].isdigit()]
    if checkpoints:
        newest = max(checkpoints, key=lambda name: int(name[11:]))
        return f"{len(checkpoints)} checkpoints of a run; give one of them, the newest is {path / newest}"
    if any(name in TOKENIZER_FILES for name in entries):
        return "a tokenizer without weights"
    return ""
