"""Which arguments of WeightWatcher are refused, and which exclude each other."""

from __future__ import annotations

from typing import Any

from layerscope.errors import UsageError
from layerscope.weightwatcher.names import (
    ACCURATE_SVD,
    FAST_SVD,
    FITS,
    POWERLAW_PACKAGE,
    WW_POWERLAW,
)

ARRANGEMENTS = ("intra", "stacked", "peft")  # analyses of the whole model
CHOICES = {"fit": FITS, "svd_method": (FAST_SVD, ACCURATE_SVD), "pl_package": (WW_POWERLAW, POWERLAW_PACKAGE)}
EXCLUSIVE = (  # arguments of which at most one may be given, and what the error adds about the last of them
    ((*ARRANGEMENTS, "pool=False"), ""),
    (("layers", *ARRANGEMENTS), ": {} is about the whole model"),
    (("base_model", *ARRANGEMENTS), ""),
)


def refuse_unsupported(**arguments: tuple[Any, Any, str]) -> None:
    for name, (value, default, why) in arguments.items():
        if value is not default and value != default:
            raise UsageError(f"{name} = {value!r} is not supported: {why}")
