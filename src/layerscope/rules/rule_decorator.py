"""The decorator that registers a function as a rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from layerscope import registry
from layerscope.errors import UnknownName
from layerscope.records.findings import SEVERITIES


def rule(
    code: str,
    title: str,
    *,
    severity: str,
    needs: Sequence[str],
    ref: str,
    over: str = "layer",
    own: bool = False,
    shape: bool = False,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function as the rule ``code``.

    ``needs`` lists the metrics that the rule requires, and ``ref`` cites the source of its claim. ``over`` is "layer",
    "model", "run", "diff", "merge", "quantization", "comparison" or "landscape". Set ``own`` if the rule applies to a
    model's own weights only, not to weight updates or adapters. Set ``shape`` if it is about the shape of the spectrum:
    it is then withdrawn from a layer whose canonical form does not get it.
    """
    if severity not in SEVERITIES:
        raise UnknownName("severity", severity, SEVERITIES)
    return registry.mark(
        "rules", code, title=title, severity=severity, metrics=tuple(needs), ref=ref, over=over, own=own, shape=shape
    )
