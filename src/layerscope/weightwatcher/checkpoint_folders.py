"""Folders of ``pytorch_model*bin``, one data frame for all of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerscope.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd


def run_on_each_bin(watcher: Any, folder: str | Path, method: str, options: dict[str, Any]) -> pd.DataFrame:
    import pandas as pd

    files = sorted(Path(folder).glob("pytorch_model*bin"))
    if not files:
        raise UsageError(f"{folder}: no pytorch_model*bin in it")
    frames = []
    for file in files:
        frame = getattr(watcher(model=file), method)(**options)
        frames.append(frame.assign(model_name=Path(folder).name, model_filename=file.name))
    return pd.concat(frames, ignore_index=True)
