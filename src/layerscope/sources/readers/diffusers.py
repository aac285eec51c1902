"""Diffusers pipelines: folders of several models, each analyzed in a report of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

from layerscope.errors import Unreadable
from layerscope.sources.readers import huggingface
from layerscope.sources.storage.json_text import read_json
from layerscope.sources.storage.paths import is_folder, path_inside

PORTABLE = True
INDEX_FILE = "model_index.json"
MAX_INDEX_BYTES = 1 << 20


def accepts(target: Any) -> bool:
    """Accept a folder with a model_index.json."""
    return is_folder(target) and (target / INDEX_FILE).is_file()


def models(target: Path) -> dict[str, Path]:
    """Map the name of each model in the pipeline to its folder; components without weights are left out.

    :raises Unreadable: the index is damaged, or no component has weights.
    """
    file = path_inside(target, INDEX_FILE)
    try:
        index = read_json(file, MAX_INDEX_BYTES)
    except (ValueError, RecursionError):
        index = None
    if not isinstance(index, dict):
        raise Unreadable(f"{file}: not a JSON object of pipeline components; download it again")
    names = [name for name, value in index.items() if isinstance(value, list) and not name.startswith("_")]
    folder_by_name = {name: path_inside(target, name) for name in names}
    folder_by_name = {
        name: folder for name, folder in folder_by_name.items() if folder.is_dir() and huggingface.accepts(folder)
    }
    if not folder_by_name:
        raise Unreadable(
            f"{target}: a pipeline without weights; components listed: {', '.join(names)[:200] or 'none'}; "
            "download the weights of at least one component"
        )
    return folder_by_name


def open(target: Path) -> NoReturn:
    """Refuse to open the pipeline as one model.

    :raises Unreadable: always; the message names the models.
    """
    names = list(models(target))
    raise Unreadable(
        f"{target}: a pipeline of {len(names)} models: {', '.join(names)}; "
        f"analyze one of them, e.g. {target}/{names[0]}, or all of them with analyze_each"
    )
