"""Hugging Face folders, and hub ids in the local cache; transformers is not imported and nothing is downloaded.

``config.json`` determines the kinds of layers and the splits of fused tensors. safetensors files are preferred to
``.bin`` files of the same model.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from layerscope.errors import TargetNotFound, Unreadable, did_you_mean
from layerscope.sources.readers import (
    flax_msgpack,
    gguf,
    keras_file,
    lora,
    npz,
    onnx,
    safetensors,
    tensor_parallel,
    tflite,
    torch_file,
)
from layerscope.sources.readers.module_list import join_modules, module_folders
from layerscope.sources.readers.state_dict import Tensors
from layerscope.sources.storage.json_text import read_json
from layerscope.sources.storage.paths import is_folder, path_inside
from layerscope.sources.targets import HUB_ID

PORTABLE = True
SHARD_FILE_NAME = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.safetensors|\.bin)$")
READER_BY_SUFFIX: dict[str, Any] = {  # for folders without safetensors and torch files; first match
    ".gguf": gguf,
    ".npz": npz,
    ".keras": keras_file,
    ".weights.h5": keras_file,
    ".h5": keras_file,
    ".msgpack": flax_msgpack,
    ".onnx": onnx,
    ".tflite": tflite,
}
MAX_CONFIG_BYTES = 16 << 20
VARIANT_FILE_NAME = re.compile(r"(?P<stem>[^.]+)\.[^.]+(?P<ending>(-\d{5}-of-\d{5})?\.(safetensors|bin))$")
SIDE_FILES = ("training_args.bin", "optimizer.bin", "scheduler.bin", "rng_state.pth", "optimizer.pt", "scheduler.pt")


def accepts(target: Any) -> bool:
    """Accept a folder with weights in it, or a string in the form of a hub id."""
    if isinstance(target, str):
        return HUB_ID.fullmatch(target) is not None
    return (
        is_folder(target)
        and not lora.is_adapter(target)
        and not tensor_parallel.accepts(target)
        and bool(_list_weight_files(target) or _list_other_files(target) or _modules_with_weights(target))
    )


def open(target: Path | str) -> Tensors:
    """Read the headers of the only model in the folder, with the modules that modules.json lists."""
    folder = find_snapshot(target) if isinstance(target, str) else target
    paths = _modules_with_weights(folder)
    if paths == [""] or not paths:
        return _open_folder(target, folder)
    sources = {path: _open_folder(folder / path, folder / path) for path in paths}
    spec = replace(next(iter(sources.values())).spec, target=target, note=f"{len(sources)} modules")
    return join_modules(spec, sources)


def _modules_with_weights(folder: Path) -> list[str]:
    """The folders of modules.json that hold weights."""
    return [p for p in module_folders(folder) if _list_weight_files(folder / p) or _list_other_files(folder / p)]


def _open_folder(target: Path | str, folder: Path) -> Tensors:
    if _list_weight_files(folder):
        files, module, listed = _select_model_files(folder)
        source: Tensors = module.open_files(folder, files, _read_config(folder), listed)
        note = files[0].name if len(files) == 1 else f"{len(files)} files"
    else:
        (suffix, names), *_ = _list_other_files(folder).items()
        if len(names) > 1 and not gguf.SPLIT_FILE_NAME.match(names[0]):
            raise _several_models_error(folder, names)
        source = READER_BY_SUFFIX[suffix].open(path_inside(folder, names[0]))
        note = names[0]
    source.spec = replace(source.spec, target=target, format="huggingface", portable=True, note=note)
    return source


def find_snapshot(hub_id: str) -> Path:
    """Find the snapshot of a hub id in the local cache.

    :raises TargetNotFound: it is not cached; the message names the cache and the command that downloads it.
    """
    name, _, revision = hub_id.partition("@")
    cache = _hub_cache()
    folder = cache / f"models--{name.replace('/', '--')}"
    if not folder.is_dir():
        cached_ids = [entry.name.removeprefix("models--").replace("--", "/") for entry in cache.glob("models--*")]
        raise TargetNotFound(
            f"{hub_id}: no such file, and not in the local hub cache {cache}{did_you_mean(name, cached_ids)} "
            f"Download it first: hf download {name}"
        )
    reference = folder / "refs" / (revision or "main")
    if ".." not in revision and reference.is_file():
        revision = reference.read_text("utf-8").strip()
    snapshots = folder / "snapshots"
    if revision and re.fullmatch(r"[\w-]+", revision) and (snapshots / revision).is_dir():
        return snapshots / revision
    revisions = sorted(entry.name for entry in snapshots.glob("*"))
    raise TargetNotFound(f"{hub_id}: the local hub cache has no such revision; known: {', '.join(revisions) or 'none'}")


def _hub_cache() -> Path:
    if "HF_HUB_CACHE" in os.environ:
        return Path(os.environ["HF_HUB_CACHE"])
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface"
    return Path(home).expanduser() / "hub"


def _list_weight_files(folder: Path) -> list[str]:
    names = {entry.name for entry in folder.iterdir() if entry.is_file()}
    return [
        name
        for name in sorted(names)
        if name.endswith((".safetensors", safetensors.INDEX_SUFFIX, ".bin.index.json", *torch_file.SUFFIXES))
        and name not in SIDE_FILES
        and not _is_variant(name, names)
    ]


def _is_variant(name: str, names: set[str]) -> bool:
    """Whether the file is a copy in another precision: model.fp16.safetensors beside model.safetensors."""
    match = VARIANT_FILE_NAME.match(name)
    return match is not None and match["stem"] + match["ending"] in names


def _list_other_files(folder: Path) -> dict[str, list[str]]:
    """List files of other formats by suffix, in the order of :data:`READER_BY_SUFFIX`."""
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    names_by_suffix = {suffix: [name for name in names if name.endswith(suffix)] for suffix in READER_BY_SUFFIX}
    return {suffix: matching for suffix, matching in names_by_suffix.items() if matching}


def _read_config(folder: Path) -> dict[str, Any] | None:
    path = folder / "config.json"
    if not path.is_file():
        return None
    try:
        config = read_json(path_inside(folder, "config.json"), MAX_CONFIG_BYTES)
    except (ValueError, RecursionError):
        raise Unreadable(f"{path}: the file is not JSON; save or download it again") from None
    if not isinstance(config, dict):
        raise Unreadable(f"{path}: the file is not a JSON object of settings; save or download it again")
    text = config.get("text_config")
    return {**text, **config} if isinstance(text, dict) else config


def _select_model_files(folder: Path) -> tuple[list[Path], Any, dict[str, Path]]:
    """Select the files of the folder's only model, safetensors first.

    :returns: the files, the module that reads them, and the file of each tensor as an index states it.
    """
    names = _list_weight_files(folder)
    for suffixes, module in (
        ((".safetensors", safetensors.INDEX_SUFFIX), safetensors),
        ((".bin", ".bin.index.json"), torch_file),
    ):
        matching = [name for name in names if name.endswith(suffixes)]
        indices = [name for name in matching if name.endswith(".index.json")]
        if len(indices) == 1:
            listed = safetensors.read_shard_index(folder / indices[0])
            return sorted(set(listed.values())), module, listed
        files = [name for name in matching if not name.endswith(".index.json")]
        if files and not indices:
            return _require_one_model(folder, files), module, {}
        if indices:
            raise _several_models_error(folder, indices)
    return _require_one_model(folder, names), torch_file, {}


def _require_one_model(folder: Path, files: list[str]) -> list[Path]:
    shard = SHARD_FILE_NAME.match(files[0])
    if len(files) == 1 and (shard is None or int(shard["count"]) == 1):
        return [path_inside(folder, files[0])]
    shards = [SHARD_FILE_NAME.match(name) for name in files]
    matches = [s for s in shards if s is not None]
    if len(matches) == len(files) and len({(s["stem"], s["count"]) for s in matches}) == 1:
        count = int(matches[0]["count"])
        if len(files) != count:
            raise Unreadable(f"{folder}: found {len(files)} of {count} shards; download the missing ones")
        return [path_inside(folder, name) for name in files]
    raise _several_models_error(folder, files)


def _several_models_error(folder: Path, names: list[str]) -> Unreadable:
    more = " …" if len(names) > 6 else ""
    return Unreadable(
        f"{folder}: holds {len(names)} models: {', '.join(names[:6])}{more}; pass one of them, e.g. {folder / names[0]}"
    )
