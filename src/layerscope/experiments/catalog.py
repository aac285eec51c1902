"""The published experiments by name."""

from __future__ import annotations

import importlib
from typing import Any

from layerscope.errors import UnknownName

NAMES = {  # name → module
    "overtrained-layer": "overtrained_layer",
    "enough-data": "enough_data",
    "rand-distance": "rand_distance",
    "conditioning": "conditioning",
    "mountains": "mountains",
}


def load(name: str) -> Any:
    """The module of an experiment.

    :raises UnknownName: there is none.
    """
    if name not in NAMES:
        raise UnknownName("experiment", name, NAMES)
    return importlib.import_module(f"layerscope.experiments.{NAMES[name]}")
