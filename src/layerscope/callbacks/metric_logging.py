"""Numbers of a check, passed to the framework's own logging."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

from layerscope.errors import LayerscopeWarning


def log_metrics(write: Callable[..., Any], metrics: Mapping[str, float], **kwargs: Any) -> None:
    """Give numbers to a tracker; where it raises, a warning says so, once for each reason."""
    try:
        write(dict(metrics), **kwargs)
    except Exception as error:  # whatever a tracker raises: it is no reason to lose a run
        logger = getattr(getattr(write, "__self__", write), "__class__", type(write)).__name__
        reason = str(error).splitlines()[0][:160] if str(error) else ""
        warnings.warn(f"{logger} takes no numbers: {type(error).__name__}: {reason}", LayerscopeWarning, stacklevel=3)
