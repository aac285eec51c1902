"""The experiment on mountains, run again on the 8×8 digits."""

from __future__ import annotations

import pytest

from tests.requirements import require

require("torch")
require("sklearn")
from layerscope.experiments.mountains import run  # noqa: E402


def test_mountains_are_as_in_the_experiment() -> None:
    found = run(starts=4, side=5, steps=100)
    assert len(found.pictures) == 7
    assert found.tables[0].rows[0][1] == pytest.approx(found.numbers["distance at the start"])
    of_one_run = ("Between two models trained on the inverted loss", "Barriers are highest for different initial")
    sure = [claim for claim in found.claims if not claim.says.startswith(of_one_run)]
    assert not [claim for claim in sure if not claim.holds], found
    n = found.numbers
    assert n["distance at the start"] == pytest.approx(n["distance expected at the start"], rel=0.03)
    assert n["barrier, other starts"] > 3 * n["barrier, warm start"]
    assert n["barrier, other starts"] < n["barrier interpolated, other starts"]
