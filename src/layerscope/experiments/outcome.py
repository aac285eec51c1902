"""What an experiment found, beside what was published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Claim:
    """One thing that a published figure shows, and what was measured of it here."""

    figure: str
    says: str  # what the figure shows
    measured: str
    holds: bool


@dataclass(frozen=True)
class Table:
    """Numbers beside those that were published; None where there is none."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


@dataclass(frozen=True)
class Outcome:
    """What an experiment found."""

    name: str
    data: str  # which, and how many examples
    seed: int
    claims: tuple[Claim, ...]
    numbers: Mapping[str, float]  # by name, for tables over seeds
    seconds: float
    tables: tuple[Table, ...] = ()
    pictures: tuple[Any, ...] = field(default=(), repr=False)  # Picture of the published plots

    def plot(self, ax: Any = None) -> Any:
        """The published plots with these numbers, as a matplotlib figure."""
        from layerscope.views.plots.drawing import draw_pictures

        return draw_pictures(list(self.pictures) if ax is None else list(self.pictures)[:1], ax)

    def html(self, path: Any) -> None:
        """Write it as one HTML page."""
        from layerscope.views.page.writing import write_page

        write_page(self, path)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types, without the pictures."""
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
    """(figure, claim, in how many runs it holds) over several seeds."""
    claims = [(claim.figure, claim.says) for claim in outcomes[0].claims]
    holds_by_claim = [{(c.figure, c.says): c.holds for c in outcome.claims} for outcome in outcomes]
    return [(*claim, sum(holds.get(claim, False) for holds in holds_by_claim)) for claim in claims]
