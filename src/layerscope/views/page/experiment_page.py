"""Build the page of an experiment: reproduced claims, tables next to the published numbers, and plots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from layerscope.text import printable
from layerscope.views.experiment import format_cell
from layerscope.views.page.page_parts import Cell, Column, Row, Section
from layerscope.views.plots.marks import picture_to_json

HOLDS_TEXT = {True: "holds", False: "does not hold here"}


def build_page(outcome: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return (template context, data lines) for an experiment's Outcome.

    The type is not imported because the experiments package depends on the views, not the reverse.
    """
    from importlib.metadata import version

    confirmed = [claim for claim in outcome.claims if claim.holds]
    missed = [claim for claim in outcome.claims if not claim.holds]
    sentences = [f"{len(confirmed)} of {len(outcome.claims)} claims of the published experiment hold on these data."]
    sentences += [f"Not reproduced: {_join_claims(missed)}."] if missed else []
    sentences += [f"Reproduced: {_join_claims(confirmed)}."] if confirmed else []
    columns = [
        Column("figure", "Figure of the publication.", left=True),
        Column("claim", "Claim that the figure supports.", left=True),
        Column("here", "Value measured in this run.", left=True),
        Column("holds", "Whether the claim holds on these data."),
    ]
    rows = [
        Row(at, [Cell(printable(c.figure, 60), opens=True), Cell(printable(c.says, 200)),
                 Cell(printable(c.measured, 400)), Cell(HOLDS_TEXT[c.holds], float(c.holds))], [])
        for at, c in enumerate(outcome.claims)
    ]  # fmt: skip
    context = {
        "what": "experiment",
        "title": printable(outcome.name, 80),
        "facts": [
            ("data", printable(outcome.data, 200)),
            ("seed", str(outcome.seed)),
            ("run time", f"{outcome.seconds:.0f} s"),
        ],
        "gravity": "warn" if missed else "",
        "sentences": sentences,
        "certainty": [
            "This is a single run. Use layerscope experiment NAME --seeds 5 to see how often each claim holds."
        ],
        "sections": [Section("The published plots, redrawn with these results", "pictures", tall=330)]
        if outcome.pictures
        else [],
        "summary": [[printable(c, 60) for c in table.columns] for table in outcome.tables[:1]]
        + [[format_cell(value) for value in row] for table in outcome.tables[:1] for row in table.rows],
        "columns": columns,
        "rows": rows,
        "caption": "Claims of the published figures, and whether they hold in this run.",
        "no_rows": "The experiment makes no claims.",
        "search": "claim …",
        "filters": [],
        "findings": [],
        "skipped": [],
        "command": f"layerscope experiment {printable(outcome.name, 80)} --seed {outcome.seed}",
        "made": [("created by", f"layerscope {version('layerscope')}")],
        "settings": [],
        "version": version("layerscope"),
    }
    head = {
        "metrics": {}, "reasons": [], "at": {}, "unpictured": "See the plots above.",
        "charts": {"pictures": [picture_to_json(picture) for picture in outcome.pictures]},
    }  # fmt: skip
    return context, [head]


def _join_claims(claims: Sequence[Any]) -> str:
    return "; ".join(printable(claim.says, 120) for claim in claims)
