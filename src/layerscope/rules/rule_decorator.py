"""The decorator that makes a function a verdict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from layerscope import registry
from layerscope.errors import UnknownName
from layerscope.records.findings import SEVERITIES


def rule(
    code: str, title: str, *, severity: str, needs: Sequence[str], ref: str, over: str = "layer", own: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a function the verdict ``code``.

    ``needs`` names the metrics without which it cannot be judged; ``ref`` cites where the claim comes from. ``own``: it
    speaks about the weights of a model itself, not about what changed in them or an adapter adds.
    """
    if severity not in SEVERITIES:
        raise UnknownName("severity", severity, SEVERITIES)
    return registry.mark(
        "rules", code, title=title, severity=severity, metrics=tuple(needs), ref=ref, over=over, own=own
    )
