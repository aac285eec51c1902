"""Passes the numbers of a check to the logging of a framework."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

from layerscope.errors import LayerscopeWarning


def log_metrics(write: Callable[..., Any], metrics: Mapping[str, float], **kwargs: Any) -> None:
    """Log numbers to a tracker; if it raises an exception, warn with the reason."""
    try:
        write(dict(metrics), **kwargs)
    except Exception as error:  # a failing tracker must not end the training
        logger = getattr(getattr(write, "__self__", write), "__class__", type(write)).__name__
        reason = str(error).splitlines()[0][:160] if str(error) else ""
        message = f"{logger} rejected the metrics of layerscope: {type(error).__name__}: {reason}"
        warnings.warn(message, LayerscopeWarning, stacklevel=3)
