"""Verdicts about a training run."""

from __future__ import annotations

import numpy as np
import pytest

import layerscope
from layerscope.rules.judging import judge_run
from layerscope.rules.ls117_growing_weights import RunTrend


def reports(scales: list[float]) -> list[layerscope.Report]:
    weights = np.random.default_rng(0).standard_normal((120, 60))
    return [layerscope.analyze({"fc.weight": scale * weights}) for scale in scales]


@pytest.mark.parametrize(("growth", "fires"), [(0.08, False), (0.12, True)])
def test_weights_that_grow_in_the_last_third_are_reported(growth: float, fires: bool) -> None:
    """‖W‖² grows by ``growth`` decades over the last third of nine steps, and not before."""
    scales = [10 ** (growth / 2 * max(0, step - 6) / 3) for step in range(10)]
    findings = judge_run(reports(scales), range(0, 100, 10)[:10])
    assert [finding.code for finding in findings] == (["LS117"] if fires else [])
    assert all(finding.severity == "info" for finding in findings)


def test_growth_is_that_of_the_last_third_of_the_steps_not_of_the_checks() -> None:
    steps = [0, 1, 2, 3, 4, 5, 60, 90]
    trend = RunTrend(steps, [0, 1, 2, 3, 4, 5, 5.5, 5.75])
    assert trend.growth == pytest.approx(0.25)


def test_a_short_run_is_not_judged() -> None:
    assert not judge_run(reports([1, 2, 4, 8]), range(4))
    assert not judge_run([], [])
    assert not judge_run(reports([1]), [0])
