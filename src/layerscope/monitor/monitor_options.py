"""The options of a training monitor, checked before anything is measured."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, SupportsIndex

from layerscope.choices import LENSES
from layerscope.errors import UnknownName, UsageError
from layerscope.monitor.checks import LOGGED_METRICS
from layerscope.views import report_rows


def check_schedule_options(every: Any, budget: Any) -> None:
    """
    :raises UsageError: a number of steps below 1, or a budget that is no share.
    """
    if not isinstance(every, SupportsIndex) or isinstance(every, bool) or every.__index__() < 1:
        raise UsageError(f"every must be a whole number of steps, 1 or more, not {every!r}")
    if budget is not None and not (isinstance(budget, float | int) and 0 < budget <= 1):
        raise UsageError(f"budget is a share of the training time above 0 and up to 1, not {budget!r}")


def check_lenses(lenses: tuple[str, ...], data: Any, background: bool) -> None:
    """
    :raises UnknownName: no such lens.
    :raises UsageError: the conditioning lens without data that can be gone through again, or in the background.
    """
    for lens in lenses or ("",):
        if lens not in LENSES:
            raise UnknownName("lens", lens, LENSES)
    if "conditioning" in lenses and (data is None or isinstance(data, Iterator)):
        what = "an iterator, which can be gone through once" if data is not None else "none"
        raise UsageError(f"the conditioning lens measures on data=(x, y), a few hundred examples: not on {what}")
    if "conditioning" in lenses and background:
        raise UsageError("conditioning runs the model: it cannot be measured in the background")


def logged_metrics(log: Iterable[str] | str | None, lenses: tuple[str, ...]) -> tuple[str, ...]:
    """The metrics that trackers are given.

    :raises UnknownName: no such metric.
    """
    names = as_tuple(log) if log is not None else tuple(name for lens in lenses for name in LOGGED_METRICS[lens])
    known = report_rows.metric_names()
    for name in names:
        if name not in known:
            raise UnknownName("metric", name, known)
    return names


def as_tuple(values: Any) -> tuple[Any, ...]:
    """Several values; a text, or an object that is none of several, alone."""
    return (values,) if isinstance(values, str) or not isinstance(values, Iterable) else tuple(values)


def as_step(number: Any) -> int:
    """The number of a step.

    :raises UsageError: it is no whole number.
    """
    if isinstance(number, bool) or not isinstance(number, SupportsIndex):
        raise UsageError(f"a step is a whole number, not {number!r:.40}")
    return number.__index__()


def finite_scalars(scalars: Mapping[str, Any]) -> dict[str, float]:
    """The scalars of a step that are finite.

    :raises UsageError: one is no number.
    """
    try:
        return {str(name): float(value) for name, value in scalars.items() if math.isfinite(float(value))}
    except (TypeError, ValueError) as error:
        raise UsageError(f"scalars of a step are numbers: {error}") from None
