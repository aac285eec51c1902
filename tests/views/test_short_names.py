"""Names in little space: whole words are left out, never letters inside a word, and rows stay different."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerscope.views.short_names import GAP, common_beginning, shared_prefix, short_names

BERT = [
    "bert.embeddings.word_embeddings.weight",
    *(f"bert.encoder.layer.{i}.{module}.weight" for i in range(12) for module in (
        "attention.self.query", "attention.self.key", "attention.output.dense", "intermediate.dense", "output.dense",
    )),
    "bert.pooler.dense.weight",
]  # fmt: skip


def test_common_words_are_left_out_once_and_the_caption_says_so() -> None:
    names, caption = short_names(BERT, 30)
    assert names[0] == "embeddings.word_embeddings"
    assert names[1] == "…0.attention.self.query"
    assert names[-2:] == ["…11.output.dense", "pooler.dense"]
    assert caption == "Names are shown without “bert.” and “.weight”. “encoder.layer.” is shown as …"


def test_words_in_the_middle_go_next_and_numbers_stay() -> None:
    names, caption = short_names(BERT, 18)
    assert names[1] == "…0…self.query"
    assert names[3:6] == ["…0…output.dense", "…0…dense", "…0.output.dense"]
    assert all(f"{i}" in names[1 + 5 * i] for i in range(12))
    assert "stands for words left out" in caption


def test_names_that_fit_stay_as_they_are() -> None:
    assert short_names(["fc1.weight", "fc2.weight"], 10) == (["fc1.weight", "fc2.weight"], "")
    assert short_names([], 10) == ([], "")


def test_the_weight_stays_where_it_tells_names_apart() -> None:
    names, _ = short_names(["encoder.block.weight", "encoder.block", "decoder.weight"], 14)
    assert len(set(names)) == 3


@pytest.mark.parametrize("longest", [18, 22])
def test_words_are_whole(longest: int) -> None:
    words = {word for name in BERT for word in re.split(r"[._]", name)}
    for name in short_names(BERT, longest).names:
        pieces = [piece for piece in re.split(r"[._…]", name) if piece]
        assert all(piece in words for piece in pieces)


def test_a_shared_beginning_ends_at_a_word() -> None:
    assert shared_prefix(["layers.10.a", "layers.11.a"]) == "layers."
    assert shared_prefix(["same", "same"]) == ""
    assert common_beginning(["a.b.0.x", "a.b.1.x", "head"]) == "a.b."
    assert common_beginning(["a.x", "b.x", "c.x"]) == ""


names = st.lists(st.text("abz019._/[]", min_size=1, max_size=60), min_size=1, max_size=12, unique=True)


@given(names, st.integers(6, 40))
def test_short_names_fit(names: list[str], longest: int) -> None:
    shown = short_names(names, longest).names
    assert len(shown) == len(names)
    assert all(len(name) <= longest for name in shown)


@given(st.integers(12, 40), st.integers(2, 40))
def test_blocks_of_a_model_stay_different(longest: int, depth: int) -> None:
    model = [f"model.decoder.layers.{i}.{part}_proj.weight" for i in range(depth) for part in "qkvo"]
    shown = short_names(model, longest).names
    assert len(set(shown)) == len(model)
    assert not [name for name in shown if name.startswith(GAP + GAP)]
