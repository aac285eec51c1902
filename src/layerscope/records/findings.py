"""Verdicts as records."""

from __future__ import annotations

from dataclasses import dataclass

from layerscope.records.layers import Value

SEVERITIES = ("info", "warn", "error")


@dataclass(frozen=True)
class Finding:
    """A verdict about one layer, or about the whole model when ``layer`` is None."""

    code: str
    severity: str  # info, warn, error
    layer: str | None
    value: Value | None  # what was measured
    limit: Value | None  # what it was held against
    message: str
    title: str = ""

    @property
    def where(self) -> str:
        """The layer's name, or what stands for all of them."""
        return "the whole model" if self.layer is None else self.layer


@dataclass(frozen=True)
class Verdict:
    """What a rule returns when it fires."""

    message: str
    value: Value  # what was measured
    limit: Value  # what it was held against
