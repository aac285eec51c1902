"""A diffusers pipeline: a folder of several models, each with a report of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

from layerscope.errors import Unreadable
from layerscope.sources.readers import huggingface
from layerscope.sources.storage.json_text import parsed
from layerscope.sources.storage.paths import inside, is_folder

PORTABLE = True
INDEX = "model_index.json"
LONGEST = 1 << 20  # bytes of index


def accepts(target: Any) -> bool:
    """A folder with a model_index.json."""
    return is_folder(target) and (target / INDEX).is_file()


def models(target: Path) -> dict[str, Path]:
    """The models of the pipeline by name: those of its parts that have weights.

    :raises Unreadable: an index that is none, or no model at all.
    """
    file = inside(target, INDEX)
    try:
        index = parsed(file, LONGEST)
    except (ValueError, RecursionError):
        index = None
    if not isinstance(index, dict):
        raise Unreadable(f"{file}: is no table of models")
    names = [name for name, value in index.items() if isinstance(value, list) and not name.startswith("_")]
    found = {name: inside(target, name) for name in names}
    found = {name: folder for name, folder in found.items() if folder.is_dir() and huggingface.accepts(folder)}
    if not found:
        raise Unreadable(f"{target}: a pipeline without models: {', '.join(names)[:200]}")
    return found


def open(target: Path) -> NoReturn:
    """Not one model.

    :raises Unreadable: always; it names the models.
    """
    names = list(models(target))
    raise Unreadable(
        f"{target}: a pipeline of {len(names)} models: {', '.join(names)}; analyze_each takes all of them, "
        f"analyze one: {target}/{names[0]}"
    )
