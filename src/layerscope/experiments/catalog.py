"""Names of the published experiments and the modules that run them."""

from __future__ import annotations

import importlib
from typing import Any

from layerscope.errors import UnknownName

NAMES = {  # name on the command line → module
    "overtrained-layer": "overtrained_layer",
    "enough-data": "enough_data",
    "rand-distance": "rand_distance",
    "conditioning": "conditioning",
    "mountains": "mountains",
}


def load(name: str) -> Any:
    """Import and return the module of an experiment.

    :raises UnknownName: no experiment has this name.
    """
    if name not in NAMES:
        raise UnknownName("experiment", name, NAMES)
    return importlib.import_module(f"layerscope.experiments.{NAMES[name]}")
