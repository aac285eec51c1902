from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerscope.text import abbreviate, distinct_paths, elide, format_number, plural, printable
from layerscope.views.markdown import escape


@given(st.text(), st.integers(5, 60))
def test_printable_text_is_short_and_has_nothing_to_obey(text: str, longest: int) -> None:
    shown = printable(text, longest)
    assert len(shown) <= longest
    assert not [c for c in shown if unicodedata.category(c)[0] == "C"]


@pytest.mark.parametrize(
    ("name", "longest", "expected"),
    [
        ("fc1.weight", 20, "fc1.weight"),
        ("fc1.weight", 9, "fc1"),
        ("encoder.layer.10.attention.output.dense.weight", 25, "enc.lay.10.att.out.dense"),
        ("module.layer1.0.conv1.weight", 17, "mod.lay1.0.conv1"),
        ("module.layer1.0.conv1.weight", 12, "m.l1.0.conv1"),
    ],
)
def test_long_names_keep_their_ends_and_their_numbers(name: str, longest: int, expected: str) -> None:
    assert len(abbreviate(name, longest)) <= longest
    assert abbreviate(name, longest) == expected


@given(st.text(min_size=1), st.integers(4, 40))
def test_abbreviations_fit(name: str, longest: int) -> None:
    assert len(abbreviate(name, longest)) <= longest
    assert len(elide(name, longest)) <= longest


def test_numbers_and_words() -> None:
    assert format_number(None, ".2f") == "–"
    assert format_number(3.14159, ".2f") == "3.14"
    assert format_number("bulk", "s") == "bulk"
    assert plural(1, "layer") == "1 layer"
    assert plural(2000, "layer") == "2,000 layers"


@given(st.text())
def test_markdown_cells_hold_no_html_and_no_bar(text: str) -> None:
    cell = escape(text).replace("<!-- -->", "")
    assert "<" not in cell
    assert "|" not in cell.replace("\\|", "")


def test_paths_are_shortened_to_what_tells_them_apart() -> None:
    assert distinct_paths(["/a/x/m.pt", "/a/y/m.pt"]) == ["x/m.pt", "y/m.pt"]
    assert distinct_paths(["/a/x.pt", "/a/y.pt"]) == ["x.pt", "y.pt"]
    assert distinct_paths(["/a/x.pt", "/a/x.pt"]) == ["x.pt (1)", "x.pt (2)"]
