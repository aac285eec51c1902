"""``layerscope conditioning`` on modules as users have them, good and bad."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.command_line import cli
from tests.requirements import require

require("torch")

CODE = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))

def batches():
    torch.manual_seed(1)
    for _ in range(3):
        yield torch.randn(50, 6), torch.randint(3, (50,))

pair = (torch.ones(4, 6), torch.tensor([0, 1, 2, 0]))
empty = []

def broken():
    yield torch.ones(4, 6), torch.tensor([0, 1, 2, 0])
    raise OSError("the disk is gone")

def wide():
    return [(torch.ones(4, 7), torch.tensor([0, 1, 2, 0]))]

def raising():
    raise RuntimeError("no such file")

def loss(output, labels):
    return output.square().sum(1)

def bad_loss(output, labels):
    return output.sum()
"""


@pytest.fixture(autouse=True)
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(CODE)
    (tmp_path / "syntax.py").write_text("def f(:\n")
    (tmp_path / "needs.py").write_text("import not_installed_anywhere\n")
    monkeypatch.chdir(tmp_path)


def test_a_model_and_its_data_are_named_by_functions(tmp_path: Path) -> None:
    done = cli("conditioning", "mine:build", "--data", "mine:batches", "--html", "x.html", "--save", "r.layerscope")
    assert (done.returncode, done.stderr) == (0, "")
    assert "λmax Sx" in done.stdout
    assert "Conditioning of inputs, gradients and curvature" in (tmp_path / "x.html").read_text("utf-8")
    again = cli("analyze", "r.layerscope", "-f", "json")
    layer = json.loads(again.stdout)["layers"][0]
    assert layer["parts"]["weight"]["facts"]["examples"] == 150
    for extra in (
        ("--fisher", "exact", "--lr", "0.1"),
        ("--loss", "mine:loss"),
        ("--eval", "-l", "0.weight", "-f", "md"),
    ):
        done = cli("conditioning", "mine:build", "--data", "mine:pair", "-q", *extra)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("mine:bild", "--data", "mine:pair"), 3, "mine has no 'bild'; did you mean 'build'?"),
        (("mein:build", "--data", "mine:pair"), 3, "there is no module 'mein' in the working folder"),
        (("mine", "--data", "mine:pair"), 3, "write package.module:name"),
        (("syntax:f", "--data", "mine:pair"), 3, "SyntaxError"),
        (("needs:f", "--data", "mine:pair"), 3, "not_installed_anywhere"),
        (("mine:raising", "--data", "mine:pair"), 3, "RuntimeError: no such file"),
        (("mine:build", "--data", "mine:empty"), 2, "no batch"),
        (("mine:build", "--data", "mine:broken"), 3, "the disk is gone"),
        (("mine:build", "--data", "mine:wide"), 3, "cannot be multiplied"),
        (("mine:build", "--data", "mine:pair", "--loss", "mine:bad_loss"), 2, "one value for each example"),
        (("mine:build", "--data", "mine:pair", "--loss", "nll"), 2, "no loss called 'nll'"),
        (("mine:build", "--data", "mine:pair", "--lr", "-1"), 2, "lr must be above 0"),
        (("mine:pair", "--data", "mine:pair"), 3, "the model is a tuple, not a torch.nn.Module"),
    ],
)
def test_what_is_wrong_is_one_line(words: tuple[str, ...], code: int, said: str) -> None:
    done = cli("conditioning", *words, "-q")
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
