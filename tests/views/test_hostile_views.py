"""Saved reports from strangers, shown: unreadable, or a page, a picture and a comment; never another error."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import layerscope
from layerscope import registry
from layerscope.errors import LayerscopeError, Unreadable
from layerscope.persistence.report_json import from_dict, to_dict
from layerscope.records.history import History
from layerscope.records.report import Report
from layerscope.views import junit, markdown, notebook, sarif
from layerscope.views.page import writing
from layerscope.views.plots import marks, pictures
from tests.requirements import require

RNG = np.random.default_rng(4)
FOUND = layerscope.analyze(
    {
        "a.weight": RNG.standard_normal((80, 60)) * RNG.pareto(1.0, 60),
        "b.weight": RNG.standard_normal((70, 60)),
        "small.weight": RNG.standard_normal((8, 6)),
        "c.bias": np.ones(3),
    },
    randomize=True,
)


def learned() -> Report:
    torch: Any = require("torch")
    torch.manual_seed(0)
    parts = torch.nn.Linear(6, 5), torch.nn.BatchNorm1d(5), torch.nn.ReLU(), torch.nn.Linear(5, 3)
    net = torch.nn.Sequential(*parts)
    data = torch.randn(40, 6), torch.randint(3, (40,))
    first = layerscope.conditioning(net, data)
    return layerscope.conditioning(net, data, exact=True, curvature_of="hessian", lr=0.1, since=first)


def spectra_of(report: Report) -> dict[tuple[int, str], Any]:
    return {
        (number, role): part.spectrum
        for number, row in enumerate(report.rows)
        for role, part in row.parts.items()
        if part.spectrum is not None
    }


LEARNED = learned()
SPECTRA = spectra_of(FOUND)
PLAIN = json.dumps(to_dict(FOUND))
EVIL = st.sampled_from(
    [
        None,
        -1,
        0,
        1e308,
        -1e308,
        1e-308,
        10**400,
        2**70,
        "",
        "<img src=x>",
        "\u202e",
        [],
        {},
        True,
        "x" * 3000,
        [[]],
        "é",
        0.5,
    ]
)


def paths(plain: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = plain.items() if isinstance(plain, dict) else enumerate(plain) if isinstance(plain, list) else ()
    found = [prefix] if prefix else []
    for key, value in items:
        found += paths(value, (*prefix, key))
    return found


PATHS = paths(json.loads(PLAIN))
OF_LEARNING = json.dumps(to_dict(LEARNED))


def show_everywhere(report: Report) -> None:
    writing.render_page(report)
    notebook.report_html(report)
    markdown.to_markdown(report)
    junit.to_junit([report])
    sarif.to_sarif([report])
    both = layerscope.compare(report, report)
    writing.render_page(both)
    writing.render_page([History("<b>run</b>", (0, 1), (report, report), ({"<i>": 1.0}, {}))])
    layerscope.rejudge(report)
    notebook.comparison_html(both)
    markdown.comparison_to_markdown(both)
    runs = [History("<b>run</b>", (0, 1), (report, report), ({"<i>": 1.0}, {}))]
    for name, plugin in registry.plugins("plots").items():
        of = {"models": both, pictures.LAYER_OF_RUNS_SCOPE: runs, pictures.RUN_SCOPE: runs}
        for picture in pictures.make_pictures(name, of.get(plugin.target.SCOPE, report))[:2]:
            json.dumps(marks.picture_to_json(picture), allow_nan=False)


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.sampled_from(PATHS), EVIL), min_size=1, max_size=3), st.booleans())
def test_a_tampered_report_is_refused_or_shown(changes: list[tuple[tuple[Any, ...], Any]], with_spectra: bool) -> None:
    tampered(PLAIN, changes, SPECTRA if with_spectra else {})


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.tuples(st.sampled_from(paths(json.loads(OF_LEARNING))), EVIL), min_size=1, max_size=3), st.booleans()
)
def test_a_tampered_report_of_learning_is_refused_or_shown(
    changes: list[tuple[tuple[Any, ...], Any]], with_spectra: bool
) -> None:
    tampered(OF_LEARNING, changes, spectra_of(LEARNED) if with_spectra else {})


def tampered(text: str, changes: list[tuple[tuple[Any, ...], Any]], spectra: dict[tuple[int, str], Any]) -> None:
    plain = json.loads(text)
    for path, value in changes:
        inner = plain
        try:
            for key in path[:-1]:
                inner = inner[key]
            inner[path[-1]] = value
        except (TypeError, KeyError, IndexError):
            continue  # an earlier change took the place away
    try:
        report = from_dict(plain, spectra)
    except Unreadable:
        return
    with contextlib.suppress(LayerscopeError):  # said in one line
        show_everywhere(report)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("findings", 0, "severity"), "fatal"),
        (("meta", "asked"), ["x"]),
        (("meta", "asked"), {"layers": "x"}),
        (("layers", 0, "parts", "weight", "fits", "power_law", "params", "xmin"), -1.0),
        (("layers", 0, "parts", "weight", "fits", "marchenko_pastur", "params", "sigma"), 0.0),
        (("layers", 0, "metrics", "alpha"), 10**400),
        (("layers", 0, "parts", "weight", "facts"), {"examples": 0}),
        (("layers", 0, "parts", "weight", "facts"), {"input_rows": -1}),
    ],
)
def test_what_views_rely_on_is_checked_when_it_is_read(path: tuple[Any, ...], value: Any) -> None:
    plain = json.loads(PLAIN)
    inner = plain
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises(Unreadable):
        from_dict(plain, SPECTRA)
