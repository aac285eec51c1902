"""Criteria for warnings and for early stopping during training, written as short sentences.

mean(alpha) < 2 for 3 checks                the mean over all layers that have an alpha, at 3 checks in a row
alpha in fc* < 2                            any layer with a name that matches fc*
max(domination) > 0.1                       the largest value over all layers
rand_distance stopped rising for 5 checks   the mean over all layers has no new maximum at 5 checks in a row
LS103                                       the verdict LS103 appears in any layer
LS104 in fc3* for 2 checks                  the verdict LS104 appears in a layer that matches fc3*, 2 checks in a row
"""

from __future__ import annotations

import fnmatch
import math
import operator
import re
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from layerscope import registry
from layerscope.errors import UnknownName, UsageError
from layerscope.records.report import Report

AGGREGATES: dict[str, Callable[[list[float]], float]] = {
    "mean": statistics.fmean, "median": statistics.median, "min": min, "max": max,
}  # fmt: skip
COMPARISONS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
METRIC_PATTERN = r"(?:(?P<over>\w+)\((?P<inner>\w+)\)|(?P<metric>\w+))"
LAYERS_PATTERN, CHECKS_PATTERN = r"(?:\s+in\s+(?P<where>\S+))?", r"(?:\s+for\s+(?P<times>\d+)\s+checks?)?"
LIMIT_CRITERION = re.compile(
    rf"{METRIC_PATTERN}{LAYERS_PATTERN}\s*(?P<sign><=|>=|<|>)\s*(?P<limit>\S+?){CHECKS_PATTERN}"
)
TREND_CRITERION = re.compile(rf"{METRIC_PATTERN}{LAYERS_PATTERN}\s+stopped\s+(?P<way>rising|falling){CHECKS_PATTERN}")
VERDICT_CRITERION = re.compile(rf"(?P<code>LS\d+){LAYERS_PATTERN}{CHECKS_PATTERN}")
EXAMPLES = "'mean(alpha) < 2 for 3 checks', 'alpha in fc* < 2', 'rand_distance stopped rising for 5 checks', 'LS104'"


@dataclass
class Criterion:
    """A parsed criterion, and the number of checks in a row at which it was true."""

    text: str
    metric: str = ""
    over: str = ""  # aggregate over layers, one of AGGREGATES; "" compares each layer
    where: str = "*"
    sign: str = ""
    limit: float = math.nan
    way: str = ""  # direction of a trend, "rising" or "falling"
    code: str = ""
    times: int = 1
    heard: bool = False  # was it ever evaluated?
    _checks_in_a_row: int = field(default=0, repr=False)
    _best: float = field(default=math.nan, repr=False)

    @classmethod
    def of(cls, text: str | Criterion) -> Criterion:
        """Parse a criterion.

        :raises UsageError: the text is not a criterion.
        :raises UnknownName: its metric, verdict or aggregate does not exist.
        """
        if isinstance(text, Criterion):
            return text
        words = str(text).strip()
        match = next(
            (
                candidate
                for pattern in (LIMIT_CRITERION, TREND_CRITERION, VERDICT_CRITERION)
                if (candidate := pattern.fullmatch(words))
            ),
            None,
        )
        if match is None:
            raise UsageError(f"{words!r:.80} is not a criterion; examples: {EXAMPLES}")
        parts = match.groupdict()
        criterion = cls(words, where=parts["where"] or "*", times=int(parts["times"] or 1))
        if criterion.times < 1:
            raise UsageError(f"{words!r:.80}: the number of checks must be 1 or more")
        if "code" in parts:
            registry.find("rules", parts["code"])
            criterion.code = parts["code"]
            return criterion
        criterion.metric, criterion.over = parts["inner"] or parts["metric"], parts["over"] or ""
        registry.find("metrics", criterion.metric)
        criterion.way = parts.get("way") or ""
        if criterion.way and not criterion.over:
            criterion.over = "mean"
        if criterion.over and criterion.over not in AGGREGATES:
            raise UnknownName("aggregate over layers", criterion.over, AGGREGATES)
        if not criterion.way:
            criterion.sign = parts["sign"]
            try:
                criterion.limit = float(parts["limit"])
                if math.isnan(criterion.limit):
                    raise ValueError
            except ValueError:
                raise UsageError(
                    f"{words!r:.80}: {parts['limit']!r:.20} is not a number; give one such as 2 or 0.5"
                ) from None
        return criterion

    def judge(self, report: Report) -> str:
        """Return why the criterion is met now, or "" if it is not.

        It is met when it has been true at the required number of checks in a row. Reports without a value to compare
        change nothing.
        """
        reason = self._judge_verdict(report) if self.code else self._judge_metric(report)
        if reason is None:
            return ""
        self.heard = True
        self._checks_in_a_row = self._checks_in_a_row + 1 if reason else 0
        return reason if self._checks_in_a_row >= self.times else ""

    def _judge_verdict(self, report: Report) -> str:
        self.heard = True
        layers = [
            f.layer or "the whole model"
            for f in report.findings
            if f.code == self.code and self._matches_layer(f.layer)
        ]
        title = registry.find("rules", self.code).meta["title"]
        return f"{self.code} {title}: {_first_three(layers)}" if layers else ""

    def _judge_metric(self, report: Report) -> str | None:
        values = {
            name: value for name, value in metric_by_layer(report, self.metric).items() if self._matches_layer(name)
        }
        if not values:
            return None
        if not self.over:
            matching = {name: value for name, value in values.items() if COMPARISONS[self.sign](value, self.limit)}
            layers = _first_three([f"{name} ({value:.3g})" for name, value in matching.items()])
            return f"{self.metric} {self.sign} {self.limit:g} in {layers}" if matching else ""
        value = AGGREGATES[self.over](list(values.values()))
        if not self.way:
            holds = COMPARISONS[self.sign](value, self.limit)
            return f"{self.over}({self.metric}) = {value:.3g} {self.sign} {self.limit:g}" if holds else ""
        better = value > self._best if self.way == "rising" else value < self._best
        if math.isnan(self._best) or better:
            self._best = value
            return ""
        return f"{self.over}({self.metric}) stopped {self.way} at {self._best:.3g}, now {value:.3g}"

    def _matches_layer(self, layer: str | None) -> bool:
        return self.where == "*" or (layer is not None and fnmatch.fnmatchcase(layer, self.where)) or (
            layer is not None and layer.removesuffix(".weight") == self.where
        )  # fmt: skip


@dataclass
class Best:
    """Tracks the best check so far by a rule such as "min loss", "max accuracy" or "min mean(alpha)"."""

    text: str
    way: str
    name: str  # name of a scalar from the training loop, or of a metric
    over: str = ""
    value: float = math.nan
    step: int = -1

    @classmethod
    def of(cls, text: str) -> Best:
        """Parse a rule.

        :raises UsageError: the text is not such a rule.
        :raises UnknownName: its metric or aggregate does not exist.
        """
        match = re.fullmatch(rf"(?P<way>min|max)\s+{METRIC_PATTERN}", text.strip())
        if match is None:
            raise UsageError(f"best={text!r:.60} must be like 'min loss', 'max accuracy' or 'min mean(alpha)'")
        over = match["over"] or ""
        if over:
            registry.find("metrics", match["inner"])
            if over not in AGGREGATES:
                raise UnknownName("aggregate over layers", over, AGGREGATES)
        return cls(text, match["way"], match["inner"] or match["metric"], over)

    def better(self, step: int, report: Report, scalars: Mapping[str, float]) -> bool:
        """Return whether this check is better than all before, and remember it if so."""
        if self.over:
            values = list(metric_by_layer(report, self.name).values())
            value = AGGREGATES[self.over](values) if values else math.nan
        else:
            value = scalars.get(self.name, math.nan)
        if math.isnan(value):
            return False
        if not (math.isnan(self.value) or (value < self.value if self.way == "min" else value > self.value)):
            return False
        self.value, self.step = value, step
        return True


def metric_by_layer(report: Report, name: str) -> dict[str, float]:
    """Return the values of a metric by layer name, for all layers that have it."""
    values: dict[str, Any] = {row.name: row.metrics.get(name) for row in report.rows if not row.skipped}
    return {layer: float(value) for layer, value in values.items() if isinstance(value, int | float)}


def _first_three(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
