"""Models of sentence-transformers: the folders that modules.json lists belong to one model, e.g. 2_Dense."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from layerscope.errors import Unreadable
from layerscope.records.layers import LayerRef
from layerscope.records.sources import SourceSpec
from layerscope.sources.readers.state_dict import Tensors
from layerscope.sources.storage.json_text import read_json
from layerscope.sources.storage.paths import path_inside

if TYPE_CHECKING:
    from layerscope.array_types import Array

MODULES_FILE = "modules.json"
MAX_MODULES_BYTES = 1 << 20


def module_folders(folder: Path) -> list[str]:
    """The folders that modules.json lists, relative to the model's folder; "" is the folder itself.

    :raises Unreadable: modules.json is no list of modules with paths.
    :raises Refused: a path leads out of the folder.
    """
    if not (folder / MODULES_FILE).is_file():
        return []
    try:
        listed = [entry["path"] for entry in read_json(path_inside(folder, MODULES_FILE), MAX_MODULES_BYTES)]
    except (ValueError, KeyError, TypeError, RecursionError):
        listed = [None]
    if not all(isinstance(path, str) for path in listed):
        raise Unreadable(f"{folder / MODULES_FILE}: not a list of modules with paths; download it again")
    return [path for path in dict.fromkeys(listed) if not path or path_inside(folder, path).is_dir()]


def join_modules(spec: SourceSpec, sources: Mapping[str, Tensors]) -> Tensors:
    """One source from several, by folder; names of all but the first begin with their folder."""
    owners: dict[str, tuple[Tensors, str]] = {}
    refs: list[LayerRef] = []
    for place, (path, source) in enumerate(sources.items()):
        prefix = f"{path.strip('/').replace('/', '.')}." if place else ""
        for ref in source.layers():
            owners[prefix + ref.tensor] = source, ref.tensor
            refs.append(replace(ref, name=prefix + ref.name, tensor=prefix + ref.tensor, stored=-1))

    def fetch(name: str) -> Array:
        source, tensor = owners[name]
        return source.fetch(tensor)

    return Tensors(spec, refs, fetch)
