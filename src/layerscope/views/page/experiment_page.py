"""The page of an experiment: what reproduced, its tables beside the published numbers, its plots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from layerscope.text import printable
from layerscope.views.experiment import cell
from layerscope.views.page.page_parts import Cell, Column, Row, Section
from layerscope.views.plots.marks import plain

HELD = {True: "holds", False: "does not hold here"}


def page(found: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(what the template shows, lines of data) of an Outcome, which lives in a room above."""
    from importlib.metadata import version

    held = [claim for claim in found.claims if claim.holds]
    missed = [claim for claim in found.claims if not claim.holds]
    sentences = [f"{len(held)} of {len(found.claims)} claims of the published experiment hold on these data."]
    sentences += [f"Not reproduced: {_listed(missed)}."] if missed else []
    sentences += [f"Reproduced: {_listed(held)}."] if held else []
    columns = [Column("figure", "Which of its figures.", left=True), Column("claim", "What it shows.", left=True),
               Column("here", "What was measured.", left=True), Column("holds", "Does it hold?")]  # fmt: skip
    rows = [
        Row(at, [Cell(printable(c.figure, 60), opens=True), Cell(printable(c.says, 200)),
                 Cell(printable(c.measured, 400)), Cell(HELD[c.holds], float(c.holds))], [])
        for at, c in enumerate(found.claims)
    ]  # fmt: skip
    context = {
        "what": "experiment",
        "title": printable(found.name, 80),
        "facts": [("data", printable(found.data, 200)), ("seed", str(found.seed)), ("took", f"{found.seconds:.0f} s")],
        "gravity": "warn" if missed else "",
        "sentences": sentences,
        "certainty": ["One run: layerscope experiment NAME --seeds 5 says how often each claim holds."],
        "sections": [Section("The published plots, with these numbers", "pictures", tall=330)]
        if found.pictures
        else [],
        "summary": [[printable(c, 60) for c in each.columns] for each in found.tables[:1]]
        + [[cell(value) for value in row] for each in found.tables[:1] for row in each.rows],
        "columns": columns,
        "rows": rows,
        "caption": "What the published figures show, and whether it holds here.",
        "no_rows": "Nothing is claimed.",
        "search": "claim …",
        "filters": [],
        "findings": [],
        "skipped": [],
        "command": f"layerscope experiment {printable(found.name, 80)} --seed {found.seed}",
        "made": [("made by", f"layerscope {version('layerscope')}")],
        "settings": [],
        "version": version("layerscope"),
    }
    head = {
        "metrics": {}, "reasons": [], "at": {}, "unpictured": "Its plots are above.",
        "charts": {"pictures": [plain(picture) for picture in found.pictures]},
    }  # fmt: skip
    return context, [head]


def _listed(claims: Sequence[Any]) -> str:
    return "; ".join(printable(claim.says, 120) for claim in claims)
