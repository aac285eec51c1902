"""The page of a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from layerscope import registry
from layerscope.records.comparison import ComparedLayer, Comparison
from layerscope.records.findings import Finding
from layerscope.records.history import History
from layerscope.text import number, plural, printable
from layerscope.views import headline, table
from layerscope.views.comparison import alphas, distances_of
from layerscope.views.page import page_parts
from layerscope.views.page.page_parts import Cell, Column, Row, Section
from layerscope.views.plots.marks import Picture, Points, plain
from layerscope.views.plots.pictures import pictures
from layerscope.views.rerun_command import command_of

MOST_NAMED = 6  # models that are named in the heading and told one by one
MOST_ROWS = 4000  # of the table
MOST_PICTURED = 1500  # whose pictures the page carries
ORDER = ("", "thin", "warn", "error", "failed")  # of how the models stand: the worst colours the page
EACH = ("alpha_by_depth", "shape_scale")
LEARNING = ("factors_by_depth", "kappa_by_depth", "neurons_by_depth")  # where data ran through one of them


def page(comparison: Comparison, runs: Sequence[History] = ()) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(what the template shows, lines of data: the terms, then a line per pictured layer)."""
    letters, reports = comparison.letters, comparison.reports
    owned = [(letter, f) for letter, report in zip(letters, reports, strict=True) for f in report.findings]
    place = {
        (letter, report.rows[layer.rows[k]].name): i
        for i, layer in enumerate(comparison.layers[:MOST_ROWS])
        for k, (letter, report) in enumerate(zip(letters, reports, strict=True))
    }
    by_layer: dict[tuple[str, str | None], list[Finding]] = {}
    for letter, finding in owned:
        by_layer.setdefault((letter, finding.layer), []).append(finding)
    first = reports[0]
    context = {
        "what": "comparison",
        "title": _title(comparison),
        "facts": [
            *((x, printable(r.meta["target"], 1000)) for x, r in zip(letters, reports, strict=True)),
            ("matched", plural(len(comparison.layers), "layer")),
        ],
        "gravity": max((headline.standing(r) for r in reports), key=ORDER.index),
        "sentences": [headline.of_several(comparison), " ".join(printable(line, 600) for line in comparison.reading)],
        "certainty": [*(printable(line, 600) for line in comparison.warnings), *_each(comparison)],
        "sections": [
            *([page_parts.OVER_RUNS] if runs else []),
            Section("Side by side in pictures", "together"),
            Section("Each model by depth", "each"),
        ],
        "summary": table.medians(reports, letters),
        "columns": _columns(comparison),
        "rows": [_row(comparison, i, layer, by_layer) for i, layer in enumerate(comparison.layers[:MOST_ROWS])],
        "caption": _caption(comparison),
        "no_rows": "No layer of the same name is analysed in all of them.",
        "search": "name, verdict …",
        "filters": _filters(comparison, owned),
        "findings": page_parts.findings(
            owned, lambda letter, f: None if f.layer is None else place.get((letter, f.layer))
        ),
        "skipped": _unmatched(comparison),
        "command": command_of(comparison),
        "made": [
            *(row for x, r in zip(letters, reports, strict=True) for row in [(f"{x} made by", _made(r.meta))]),
            *page_parts.made(first)[1:],
        ],
        "settings": page_parts.all_settings(first),
        "version": printable(first.meta.get("layerscope", ""), 40),
    }
    pictured = comparison.layers[:MOST_PICTURED]
    lines = [_detail(comparison, layer, by_layer, runs) for layer in pictured]
    together = [name for name, plugin in registry.plugins("plots").items() if plugin.target.SCOPE == "models"]
    learned = LEARNING if any("conditioning" in report.meta for report in reports) else ()
    each = [(k, p) for name in (*learned, *EACH) for k, p in enumerate(pictures(name, comparison))]
    charts = {
        "run": page_parts.over_runs(runs),
        "together": [plain(picture) for name in together for picture in pictures(name, comparison)],
        "each": [plain(_placed(p, k, comparison)) for k, p in each if not p.empty or not learned],
    }
    head = {
        "metrics": {},
        "reasons": [],
        "at": {i: i + 1 for i in range(len(pictured))},
        "charts": charts,
        "unpictured": f"The page holds the pictures of {MOST_PICTURED:,} layers; this one is not among them.",
    }
    return context, [head, *lines]


def _each(comparison: Comparison) -> list[str]:
    """The first sentence about each model by itself."""
    every = list(zip(comparison.letters, comparison.reports, strict=True))
    told = [f"{letter} by itself: {headline.sentences(report)[0]}" for letter, report in every[:MOST_NAMED]]
    more = len(every) - MOST_NAMED
    return told if more <= 0 else [*told, f"… and {more} more: the report of each says how it stands."]


def _title(comparison: Comparison) -> str:
    if len(comparison.names) > MOST_NAMED:
        return f"{len(comparison.names)} models"
    return " · ".join(f"{x} {printable(n, 80)}" for x, n in zip(comparison.letters, comparison.names, strict=True))


def _made(meta: Any) -> str:
    return printable(
        f"layerscope {meta.get('layerscope', '?')}, numpy {meta.get('numpy', '?')}, {meta.get('started', '')}"
    )


def _columns(comparison: Comparison) -> list[Column]:
    letters = comparison.letters
    found = [
        Column("layer", "The name that the models share.", left=True),
        Column("verdict", "Codes of the findings in each model.", left=True),
    ]
    found += [Column(f"α {x}", f"Power-law exponent in {x}; ? marks one that carries no verdict.") for x in letters]
    found += [Column(f"α {x} − α {letters[0]}", "Difference of the exponents.") for x in letters[1:]]
    found += [Column(f"logλmax {x}", f"log₁₀ of the largest eigenvalue in {x}.") for x in letters]
    for x in letters[1:]:
        found += [
            Column(f"{head} {x}", f"Of {x} from {letters[0]}: {name}.") for name, head, _ in distances_of(comparison)
        ]
    return found


def _row(
    comparison: Comparison, at: int, layer: ComparedLayer, by_layer: dict[tuple[str, str | None], list[Finding]]
) -> Row:
    found = _found(comparison, layer, by_layer)
    every = [finding for _, some in found for finding in some]
    told = "; ".join(f"{x} {' '.join(printable(f.code, 20) for f in some)}" for x, some in found if some)
    values = [m.get("alpha") for m in layer.metrics]
    first = values[0]
    cells = [Cell(printable(layer.name, 160) or page_parts.NAMELESS, opens=True), page_parts.codes(told or "–", every)]
    for text, value in zip(alphas(layer), values, strict=True):
        cells.append(Cell(text, "" if value is None else float(value), "doubt" if text.endswith("?") else ""))
    cells += [_number(None if a is None or first is None else float(a) - float(first), "+.2f") for a in values[1:]]
    cells += [_number(m.get("log_spectral_norm"), ".2f") for m in layer.metrics]
    shown = distances_of(comparison)
    cells += [_number(distances.get(name), fmt) for distances in layer.distances[1:] for name, _, fmt in shown]
    kind = comparison.reports[0].rows[layer.rows[0]].ref.kind
    return Row(
        at,
        cells,
        [("kind", printable(kind, 40)), ("codes", " ".join(dict.fromkeys(printable(f.code, 20) for f in every)))],
    )


def _number(value: Any, fmt: str) -> Cell:
    return Cell(number(value, fmt), "" if value is None else float(value))


def _found(
    comparison: Comparison, layer: ComparedLayer, by_layer: dict[tuple[str, str | None], list[Finding]]
) -> list[tuple[str, list[Finding]]]:
    every = zip(comparison.letters, comparison.reports, layer.rows, strict=True)
    return [(x, by_layer.get((x, report.rows[row].name), [])) for x, report, row in every]


def _detail(
    comparison: Comparison,
    layer: ComparedLayer,
    by_layer: dict[tuple[str, str | None], list[Finding]],
    runs: Sequence[History] = (),
) -> dict[str, Any]:
    compared = registry.plugins("plots")["esd_compared"].target.data(comparison, layer)
    single = registry.plugins("plots")["esd"].target
    drawn = [compared]
    for x, report, row in zip(comparison.letters, comparison.reports, layer.rows, strict=True):
        picture = single.data(report, report.rows[row])
        drawn.append(replace(picture, title=f"{x}: {picture.title}"))
    drawn += page_parts.of_runs(runs, layer.name)
    return {
        "name": printable(layer.name, 2000) or page_parts.NAMELESS,
        "findings": [
            [printable(f.code, 20), f"{printable(f.title, 80)}, {x}", f.severity, printable(f.message, 600)]
            for x, some in _found(comparison, layer, by_layer)
            for f in some
        ],
        "pictures": [plain(picture) for picture in drawn],
    }


def _placed(picture: Picture, model: int, comparison: Comparison) -> Picture:
    """The same, its points leading to the rows of matched layers instead of those of the model's own report."""
    matched = {layer.rows[model]: i for i, layer in enumerate(comparison.layers[:MOST_ROWS])}
    marks = tuple(
        replace(mark, rows=tuple(matched.get(row, -1) for row in mark.rows)) if isinstance(mark, Points) else mark
        for mark in picture.marks
    )
    return replace(picture, marks=marks)


def _caption(comparison: Comparison) -> str:
    text = "Layers of the same name; open a row for its spectra in each model."
    if len(comparison.layers) > MOST_ROWS:
        text += f" The first {MOST_ROWS:,} of {len(comparison.layers):,}; --format csv has all."
    return text


def _filters(comparison: Comparison, owned: list[tuple[str, Finding]]) -> list[dict[str, Any]]:
    kinds = sorted({comparison.reports[0].rows[layer.rows[0]].ref.kind for layer in comparison.layers})
    codes = sorted({(f.code, f.title) for _, f in owned if f.layer is not None})
    found = [
        {"key": "kind", "label": "Kind", "choices": [(printable(kind, 40), printable(kind, 40)) for kind in kinds]},
        {
            "key": "codes",
            "label": "Verdict",
            "choices": [
                ("*", "any"),
                *((printable(c, 20), f"{printable(c, 20)} {printable(t, 60)}") for c, t in codes),
            ],
        },
    ]
    return [each for each in found if len(each["choices"]) > 1]


def _unmatched(comparison: Comparison) -> list[dict[str, Any]]:
    return [
        {
            "reason": f"analysed only in {x}",
            "count": plural(len(names), "layer"),
            "names": [printable(name, 600) for name in names[: page_parts.MOST_ITEMS]],
            "more": max(0, len(names) - page_parts.MOST_ITEMS),
        }
        for x, names in zip(comparison.letters, comparison.unmatched, strict=True)
        if names
    ]
