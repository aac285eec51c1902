"""Check WeightWatcher's arguments: refuse unsupported ones, and list those that exclude each other."""

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

ARRANGEMENTS = ("intra", "stacked", "peft")  # these analyze the whole model instead of single layers
CHOICES = {"fit": FITS, "svd_method": (FAST_SVD, ACCURATE_SVD), "pl_package": (WW_POWERLAW, POWERLAW_PACKAGE)}
EXCLUSIVE = (  # (arguments that exclude each other, addition to the error message about the last one given)
    ((*ARRANGEMENTS, "pool=False"), ""),
    (("layers", *ARRANGEMENTS), ": {} always analyzes the whole model"),
    (("base_model", *ARRANGEMENTS), ""),
)


def refuse_unsupported(**arguments: tuple[Any, Any, str]) -> None:
    """Check that unsupported arguments have their default values.

    :param arguments: argument name → (value, default, reason or alternative for the error message).
    :raises UsageError: an argument differs from its default.
    """
    for name, (value, default, why) in arguments.items():
        if value is not default and value != default:
            raise UsageError(f"{name}={value!r} is not supported: {why}")
