"""The decorator that registers a function as a fit family."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from layerscope import registry


def family(name: str, *, ref: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function as the fit family ``name``; ``ref`` cites its source."""
    return registry.mark("fits", name, ref=ref)
