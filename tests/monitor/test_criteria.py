"""Sentences about metrics and verdicts, against reports whose numbers are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import layerscope
from layerscope.errors import UnknownName, UsageError
from layerscope.monitor.criteria import Best, Criterion
from layerscope.records.findings import Finding
from layerscope.records.report import Report


def report(alphas: dict[str, float], *codes: str) -> Report:
    rng = np.random.default_rng(0)
    made = layerscope.analyze({f"{name}.weight": rng.standard_normal((60, 60)) for name in alphas})
    rows = []
    for row in made.rows:
        alpha = alphas[row.name.removesuffix(".weight")]
        metrics = {k: v for k, v in row.metrics.items() if k != "alpha"} | ({} if np.isnan(alpha) else {"alpha": alpha})
        rows.append(type(row)(row.name, row.parts, metrics, row.absent))
    findings = tuple(Finding(code, "warn", "fc3.weight", 1.0, 0.0, "said", "titled") for code in codes)
    return made.replace(rows=tuple(rows), findings=findings)


LOW, HIGH = {"fc1": 1.5, "fc3": 4.0}, {"fc1": 3.0, "fc3": 4.0}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("mean(alpha) < 3", "mean(alpha) = 2.75 < 3"),
        ("mean(alpha) < 2", ""),
        ("max(alpha) >= 4", "max(alpha) = 4 >= 4"),
        ("median(alpha) > 2.7", "median(alpha) = 2.75 > 2.7"),
        ("min(alpha) <= 1.5", "min(alpha) = 1.5 <= 1.5"),
        ("alpha < 2", "alpha < 2 in fc1.weight (1.5)"),
        ("alpha in fc3 < 2", ""),
        ("alpha in fc* > 1", "alpha > 1 in fc1.weight (1.5), fc3.weight (4)"),
        ("mean(alpha) in fc3* > 3.9", "mean(alpha) = 4 > 3.9"),
        ("alpha in conv* < 99", ""),
        ("LS103", "LS103 looks untrained: fc3.weight"),
        ("LS103 in fc3", "LS103 looks untrained: fc3.weight"),
        ("LS103 in fc1", ""),
        ("LS101", ""),
    ],
)
def test_what_holds(text: str, told: str) -> None:
    found = Criterion.of(text).judge(report(LOW, "LS103"))
    assert found == told


def test_it_must_hold_as_often_as_it_asks_in_a_row() -> None:
    criterion = Criterion.of("mean(alpha) < 3 for 2 checks")
    unknown = {"fc1": float("nan"), "fc3": float("nan")}
    held = [bool(criterion.judge(report(x))) for x in (LOW, HIGH, LOW, unknown, LOW, LOW)]
    assert held == [False, False, False, False, True, True]


def test_a_trend_stops_where_nothing_new_comes() -> None:
    criterion = Criterion.of("alpha stopped rising for 2 checks")
    values = [1.0, 2.0, 3.0, 2.9, 3.1, 3.1, 3.0, 2.0]
    held = [bool(criterion.judge(report({"fc1": x}))) for x in values]
    assert held == [False, False, False, False, False, False, True, True]
    falling = Criterion.of("max(alpha) stopped falling")
    assert [bool(falling.judge(report({"fc1": x}))) for x in (3.0, 2.0, 2.5, 1.0)] == [False, False, True, False]


def test_which_check_is_best() -> None:
    low, accuracy, mean = Best.of("min loss"), Best.of("max accuracy"), Best.of("min mean(alpha)")
    runs: Any = [(HIGH, {"loss": 2.0, "accuracy": 0.5}), (LOW, {"loss": 1.0, "accuracy": 0.4}), (HIGH, {"loss": 1.5})]
    for step, (alphas, scalars) in enumerate(runs):
        for best in (low, accuracy, mean):
            best.better(step, report(alphas), scalars)
    assert (low.step, accuracy.step, mean.step) == (1, 0, 1)


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("alpha", UsageError, "not a criterion"),
        ("mean(alpha) < two", UsageError, "not a number"),
        ("mean(alpha) < 2 for 0 checks", UsageError, "must be 1 or more"),
        ("sum(alpha) < 2", UnknownName, "aggregate over layers"),
        ("mean(alpa) < 2", UnknownName, "did you mean 'alpha'"),
        ("LS301x", UsageError, "not a criterion"),
        ("", UsageError, "not a criterion"),
    ],
)
def test_what_is_none_is_said(text: str, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        Criterion.of(text)
    with pytest.raises((UsageError, UnknownName)):
        Best.of(text)
