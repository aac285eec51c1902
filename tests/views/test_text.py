from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from layerscope.text import distinct_paths, elide, format_number, plural, printable, split_common_ending
from layerscope.views.markdown import escape


@given(st.text(), st.integers(5, 60))
def test_printable_text_is_short_and_has_nothing_to_obey(text: str, longest: int) -> None:
    shown = printable(text, longest)
    assert len(shown) <= longest
    assert not [c for c in shown if unicodedata.category(c)[0] == "C"]


@given(st.text(min_size=1), st.integers(4, 40))
def test_elided_text_fits(text: str, longest: int) -> None:
    assert len(elide(text, longest)) <= longest


def test_sentences_that_all_messages_share_are_said_once() -> None:
    messages = ["α = 1.5: below 2. It may mean A. Try B.", "α = 1.7 in layer 3. It may mean A. Try B."]
    assert split_common_ending(messages) == (["α = 1.5: below 2.", "α = 1.7 in layer 3."], "It may mean A. Try B.")
    assert split_common_ending(messages[:1]) == (messages[:1], "")
    assert split_common_ending(["Same.", "Same."]) == (["Same.", "Same."], "")
    assert split_common_ending([]) == ([], "")


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
