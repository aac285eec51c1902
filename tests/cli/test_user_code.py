"""User code cannot end the tool in silence: whatever it raises is one line and exit code 3."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.command_line import cli
from tests.requirements import require

WAYS = {
    "sys.exit(0)": "SystemExit: 0",
    "sys.exit()": "SystemExit",
    "raise BaseException('own\\nwords')": "BaseException: own words",
    "raise ValueError('\\x1b[31mred')": "ValueError: ",
    "raise Unprintable": "Unprintable: (its text cannot be shown)",
    "os._exit is None or 1 / 0": "ZeroDivisionError",
}
HEAD = """
import os, sys
class Unprintable(Exception):
    def __str__(self): raise RuntimeError
"""
PLACES = {
    "import": "{way}\ndef build(): pass\ndata = None\n",
    "builder": "def build():\n    {way}\ndata = None\n",
    "model": "import torch\nclass N(torch.nn.Linear):\n    def forward(self, x):\n        {way}\n"
    "def build(): return N(6, 3)\ndata = torch.randn(9, 6), torch.zeros(9, dtype=torch.long)\n",
    "data": "import torch\ndef build(): return torch.nn.Linear(6, 3)\nclass Batches:\n    def __iter__(self):\n"
    "        {way}\n        yield None\ndata = Batches()\n",
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("way", WAYS)
def test_user_code_that_raises_anything_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, place: str
) -> None:
    require("torch")
    name = f"mine_{abs(hash((way, place)))}"
    (tmp_path / f"{name}.py").write_text(HEAD + PLACES[place].format(way=way))
    monkeypatch.syspath_prepend(str(tmp_path))
    result = cli("conditioning", f"{name}:build", "--data", f"{name}:data")
    assert result.returncode == 3, result.stdout + result.stderr
    assert result.stdout == ""
    [line] = result.stderr.strip().splitlines()
    assert WAYS[way] in line
    assert "\x1b" not in line
    assert "internal error" not in line
