"""Run a method on every ``pytorch_model*bin`` file of a folder and join the data frames."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerscope.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd


def run_on_each_bin(watcher: Any, folder: str | Path, method: str, options: dict[str, Any]) -> pd.DataFrame:
    """Call a method of WeightWatcher on each file; rows get the columns model_name and model_filename.

    :raises UsageError: the folder has no such file.
    """
    import pandas as pd

    files = sorted(Path(folder).glob("pytorch_model*bin"))
    if not files:
        raise UsageError(f"{folder} has no pytorch_model*bin file; give the folder that contains them")
    frames = []
    for file in files:
        frame = getattr(watcher(model=file), method)(**options)
        frames.append(frame.assign(model_name=Path(folder).name, model_filename=file.name))
    return pd.concat(frames, ignore_index=True)
