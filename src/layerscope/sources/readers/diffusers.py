"""A diffusers pipeline: a folder of several models, each with a report of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

from layerscope.errors import Unreadable
from layerscope.sources.readers import huggingface
from layerscope.sources.storage.json_text import read_json
from layerscope.sources.storage.paths import is_folder, path_inside

PORTABLE = True
INDEX_FILE = "model_index.json"
MAX_INDEX_BYTES = 1 << 20  # bytes of index


def accepts(target: Any) -> bool:
    """A folder with a model_index.json."""
    return is_folder(target) and (target / INDEX_FILE).is_file()


def models(target: Path) -> dict[str, Path]:
    """The models of the pipeline by name: those of its parts that have weights.

    :raises Unreadable: an index that is none, or no model at all.
    """
    file = path_inside(target, INDEX_FILE)
    try:
        index = read_json(file, MAX_INDEX_BYTES)
    except (ValueError, RecursionError):
        index = None
    if not isinstance(index, dict):
        raise Unreadable(f"{file}: is no table of models")
    names = [name for name, value in index.items() if isinstance(value, list) and not name.startswith("_")]
    folder_by_name = {name: path_inside(target, name) for name in names}
    folder_by_name = {
        name: folder for name, folder in folder_by_name.items() if folder.is_dir() and huggingface.accepts(folder)
    }
    if not folder_by_name:
        raise Unreadable(f"{target}: a pipeline without models: {', '.join(names)[:200]}")
    return folder_by_name


def open(target: Path) -> NoReturn:
    """Not one model.

    :raises Unreadable: always; it names the models.
    """
    names = list(models(target))
    raise Unreadable(
        f"{target}: a pipeline of {len(names)} models: {', '.join(names)}; analyze_each takes all of them, "
        f"analyze one: {target}/{names[0]}"
    )
