"""Errors name options in the form in which the user typed them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from layerscope.cli.main import cli as group
from layerscope.cli.shell_words import in_shell_words
from tests.command_line import cli


@pytest.mark.parametrize(
    ("words", "message", "expected"),
    [
        (["distances", "a", "b"], "use partial=True or select=…", "use --partial or --select …"),
        (["landscape", "line", "a"], "span=(1, 0): give two numbers", "--span (1, 0): give two numbers"),
        (["analyze", "a"], "min_evals=1: give more", "--min-evals 1: give more"),
        (["conditioning", "a"], "set lr= to check it (lr=)", "set --lr to check it (--lr)"),
        (["analyze", "a"], "no_such=3 and x.seed=4 stay", "no_such=3 and x.seed=4 stay"),
        (["explain", "a"], "seed=3", "seed=3"),
        ([], "seed=3", "seed=3"),
    ],
)
def test_arguments_become_options_of_the_command(words: list[str], message: str, expected: str) -> None:
    assert in_shell_words(message, group, words) == expected


def test_an_error_of_the_library_on_the_command_line(tmp_path: Path) -> None:
    np.savez(tmp_path / "m.npz", a=np.eye(3))
    assert "--min-evals 1" in cli("analyze", tmp_path / "m.npz", "--min-evals", "1").stderr
