"""Several models against one base: their updates relative to each other, and tokenizers that do not fit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import layerscope
from layerscope.audits.model_diff import diff_several
from layerscope.sources.tokenizers import describe_tokenizer_difference
from layerscope.views.model_diff import print_overview
from layerscope.views.table import capture_text
from tests.audits.model_files import torch, write


def test_checkpoints_of_a_run_show_cosines_and_steps() -> None:
    rng = np.random.default_rng(0)
    base = {"a.weight": rng.standard_normal((30, 20)), "b.weight": rng.standard_normal((20, 20))}
    first, second = ({k: rng.standard_normal(v.shape) for k, v in base.items()} for _ in range(2))
    points = [{k: v + 0.1 * first[k] + t * second[k] for k, v in base.items()} for t in (0.0, 0.2)]
    reports = diff_several(base, points)
    flat = [np.concatenate([(p[k] - base[k]).ravel() for k in base]) for p in points]
    size = np.linalg.norm(np.concatenate([v.ravel() for v in base.values()]))
    cosine = flat[0] @ flat[1] / np.linalg.norm(flat[0]) / np.linalg.norm(flat[1])
    assert reports[0].meta["diff"]["cosines"] == pytest.approx([1, cosine])
    assert reports[1].meta["diff"]["step"] == pytest.approx(np.linalg.norm(flat[1] - flat[0]) / size)
    text = capture_text(lambda console: print_overview(reports, console))
    assert "step from the one before" in text
    assert f"{cosine:.2f}" in text


def tokenizer(folder: Path, vocabulary: object, **others: object) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}, **others}))


def test_tokenizers_that_do_not_fit_are_said(tmp_path: Path) -> None:
    tokenizer(tmp_path / "a", {"x": 0, "y": 1, "z": 2})
    tokenizer(tmp_path / "b", {"x": 1, "y": 0, "z": 2}, added_tokens=[{"content": "<pad>", "id": 3}])
    for name in ("a", "b"):
        write(tmp_path / name, "model", {"up.weight": torch.ones(3, 3) + (name == "b")})
        (tmp_path / name / "config.json").write_text("{}")
    a, b = (str(tmp_path / name) for name in ("a", "b"))
    said = "the tokenizers differ (3 and 4 tokens): 2 tokens with another number, 1 token in one of them only"
    assert describe_tokenizer_difference(a, b) == said
    assert layerscope.diff(a, b).meta["diff"]["tokenizers"] == said
    assert any(said in line for line in layerscope.merge_check(a, b, b).unfit)
    assert "tokenizers" not in layerscope.diff(a, a).meta["diff"]


@pytest.mark.parametrize("content", ["", "[]", "{", '{"model": 3}', '{"model": {"vocab": [1, ["a"], []]}}', "null"])
def test_what_is_no_tokenizer_is_not_compared(tmp_path: Path, content: str) -> None:
    tokenizer(tmp_path / "a", {"x": 0})
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "tokenizer.json").write_text(content)
    difference = describe_tokenizer_difference(str(tmp_path / "a"), str(tmp_path / "b"))
    assert not difference or "1 and 1 tokens" in difference
