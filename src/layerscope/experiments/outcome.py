"""Records of an experiment's outcome: claims, tables and numbers beside the published ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Claim:
    """One claim of a published figure, with the values measured here and whether it holds."""

    figure: str
    says: str  # the claim as a sentence
    measured: str  # the values measured here
    holds: bool


@dataclass(frozen=True)
class Table:
    """Measured numbers beside the published ones; None where there is no number."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


@dataclass(frozen=True)
class Outcome:
    """The outcome of one run of an experiment."""

    name: str
    data: str  # name of the data and number of examples
    seed: int
    claims: tuple[Claim, ...]
    numbers: Mapping[str, float]  # by name, to summarize over seeds
    seconds: float
    tables: tuple[Table, ...] = ()
    pictures: tuple[Any, ...] = field(default=(), repr=False)  # Picture records of the published plots

    def plot(self, ax: Any = None) -> Any:
        """Draw the published plots with the numbers measured here; return the matplotlib figure.

        :param ax: axes to draw the first plot on; by default, a new figure with all plots.
        """
        from layerscope.views.plots.drawing import draw_pictures

        return draw_pictures(list(self.pictures) if ax is None else list(self.pictures)[:1], ax)

    def html(self, path: Any) -> None:
        """Write the outcome as one HTML page."""
        from layerscope.views.page.writing import write_page

        write_page(self, path)

    def to_dict(self) -> dict[str, Any]:
        """Return the outcome as plain JSON types, without the pictures."""
        return {
            "name": self.name, "data": self.data, "seed": self.seed, "seconds": self.seconds,
            "claims": [[c.figure, c.says, c.measured, c.holds] for c in self.claims], "numbers": dict(self.numbers),
            "tables": [{"title": t.title, "columns": list(t.columns), "rows": [list(r) for r in t.rows]}
                       for t in self.tables],
        }  # fmt: skip

    def __repr__(self) -> str:
        from layerscope.views.experiment import outcome_text

        return outcome_text(self)


def spread(outcomes: Sequence[Outcome]) -> list[tuple[str, str, int]]:
    """Return (figure, claim, number of outcomes in which it holds) for each claim."""
    claims = [(claim.figure, claim.says) for claim in outcomes[0].claims]
    holds_by_claim = [{(c.figure, c.says): c.holds for c in outcome.claims} for outcome in outcomes]
    return [(*claim, sum(holds.get(claim, False) for holds in holds_by_claim)) for claim in claims]
