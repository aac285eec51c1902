"""Validates the options of a training monitor before the first measurement."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, SupportsIndex

from layerscope.choices import LENSES
from layerscope.errors import UnknownName, UsageError
from layerscope.monitor.checks import LOGGED_METRICS
from layerscope.views import report_rows


def check_schedule_options(every: Any, budget: Any) -> None:
    """Validate the number of steps between checks, and the budget.

    :raises UsageError: ``every`` is not a whole number of at least 1, or ``budget`` is not above 0 and up to 1.
    """
    if not isinstance(every, SupportsIndex) or isinstance(every, bool) or every.__index__() < 1:
        raise UsageError(f"every must be a whole number of steps, 1 or more, not {every!r}")
    if budget is not None and not (isinstance(budget, float | int) and 0 < budget <= 1):
        raise UsageError(f"budget must be a share of the training time above 0 and up to 1, e.g. 0.05, not {budget!r}")


def check_lenses(lenses: tuple[str, ...], data: Any, background: bool) -> None:
    """Validate the lenses together with the data and the background option.

    :raises UnknownName: there is no such lens.
    :raises UsageError: the conditioning lens has no data, has data that can be read only once, or is in the background.
    """
    for lens in lenses or ("",):
        if lens not in LENSES:
            raise UnknownName("lens", lens, LENSES)
    if "conditioning" in lenses and (data is None or isinstance(data, Iterator)):
        found = "an iterator, which can be read only once" if data is not None else "missing"
        raise UsageError(f"data is {found}; the conditioning lens needs data=(x, y) with a few hundred examples")
    if "conditioning" in lenses and background:
        raise UsageError("conditioning runs the model and cannot be measured in the background; use background=False")


def logged_metrics(log: Iterable[str] | str | None, lenses: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of the metrics to log to trackers.

    :raises UnknownName: there is no such metric.
    """
    names = as_tuple(log) if log is not None else tuple(name for lens in lenses for name in LOGGED_METRICS[lens])
    known = report_rows.metric_names()
    for name in names:
        if name not in known:
            raise UnknownName("metric", name, known)
    return names


def as_tuple(values: Any) -> tuple[Any, ...]:
    """Return the values as a tuple; a string or a single object becomes a tuple of one."""
    return (values,) if isinstance(values, str) or not isinstance(values, Iterable) else tuple(values)


def as_step(number: Any) -> int:
    """Return the number of a step as an int.

    :raises UsageError: it is not a whole number.
    """
    if isinstance(number, bool) or not isinstance(number, SupportsIndex):
        raise UsageError(f"a step number must be a whole number, not {number!r:.40}")
    return number.__index__()


def finite_scalars(scalars: Mapping[str, Any]) -> dict[str, float]:
    """Return the scalars of a step that are finite, as floats.

    :raises UsageError: a scalar is not a number.
    """
    try:
        return {str(name): float(value) for name, value in scalars.items() if math.isfinite(float(value))}
    except (TypeError, ValueError) as error:
        raise UsageError(f"scalars of a step must be numbers, e.g. loss=0.5: {error}") from None
