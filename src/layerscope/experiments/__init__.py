"""Published experiments, each run again by one function, with what it shows and what reproduced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Claim:
    """One thing that a published figure shows, and what was measured of it here."""

    figure: str
    says: str  # what the figure shows
    measured: str
    holds: bool


@dataclass(frozen=True)
class Outcome:
    """What an experiment found."""

    name: str
    data: str  # which, and how many examples
    seed: int
    claims: tuple[Claim, ...]
    numbers: Mapping[str, float]  # by name, for tables over seeds
    seconds: float

    def __repr__(self) -> str:
        head = f"{self.name} on {self.data}, seed {self.seed}: {sum(c.holds for c in self.claims)} of "
        lines = [f"{head}{len(self.claims)} claims hold ({self.seconds:.0f} s)"]
        lines += [f"  {'+' if c.holds else '–'} {c.figure}: {c.says}: {c.measured}" for c in self.claims]
        return "\n".join(lines)
