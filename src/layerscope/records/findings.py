"""Findings: the verdicts of rules as records."""

from __future__ import annotations

from dataclasses import dataclass

from layerscope.records.layers import Value

SEVERITIES = ("info", "warn", "error")


@dataclass(frozen=True)
class Finding:
    """A verdict about one layer, or about the whole model if ``layer`` is None."""

    code: str
    severity: str  # info, warn, error
    layer: str | None
    value: Value | None  # the measured value
    limit: Value | None  # the limit that it was compared with
    message: str  # what was observed, what it usually means and what to do next
    title: str = ""

    @property
    def where(self) -> str:
        """The name of the layer, or "the whole model"."""
        return "the whole model" if self.layer is None else self.layer

    @property
    def observation(self) -> str:
        """The first sentence of the message, without its period: what was observed."""
        return self.message.partition(". ")[0].rstrip(".")


@dataclass(frozen=True)
class Verdict:
    """The result of a rule that fires."""

    message: str  # what was observed, what it usually means and what to do next
    value: Value  # the measured value
    limit: Value  # the limit that it was compared with
