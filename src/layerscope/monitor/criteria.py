"""What to warn of, or to stop at, while a model trains: sentences about metrics and verdicts.

mean(alpha) < 2 for 3 checks        the mean over the layers that have one
alpha in fc* < 2                    any layer whose name fits
max(domination) > 0.1
rand_distance stopped rising for 5 checks
LS103                               the verdict appears, in any layer
LS104 in fc3* for 2 checks
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
    """One such sentence, and how often it has held in a row."""

    text: str
    metric: str = ""
    over: str = ""  # one of AGGREGATES; "" asks of each layer
    where: str = "*"
    sign: str = ""
    limit: float = math.nan
    way: str = ""  # "rising" or "falling", of a trend
    code: str = ""
    times: int = 1
    heard: bool = False  # was there ever something to judge?
    _checks_in_a_row: int = field(default=0, repr=False)
    _best: float = field(default=math.nan, repr=False)

    @classmethod
    def of(cls, text: str | Criterion) -> Criterion:
        """The criterion of a sentence.

        :raises UsageError: it is none.
        :raises UnknownName: it names no metric, verdict or mean.
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
            raise UsageError(f"{words!r:.80} is no criterion; they are like {EXAMPLES}")
        parts = match.groupdict()
        criterion = cls(words, where=parts["where"] or "*", times=int(parts["times"] or 1))
        if criterion.times < 1:
            raise UsageError(f"{words!r:.80}: for 1 check or more")
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
            raise UnknownName("mean over layers", criterion.over, AGGREGATES)
        if not criterion.way:
            criterion.sign = parts["sign"]
            try:
                criterion.limit = float(parts["limit"])
                if math.isnan(criterion.limit):
                    raise ValueError
            except ValueError:
                raise UsageError(f"{words!r:.80}: {parts['limit']!r:.20} is no number") from None
        return criterion

    def judge(self, report: Report) -> str:
        """Why it holds now, for as many checks as it asks; "" where it does not. Where there is nothing to judge it
        neither holds nor ends what held before."""
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
    """Which check is the best so far: "min loss", "max accuracy", "min mean(alpha)"."""

    text: str
    way: str
    name: str  # of a number that the loop gives, or of a metric
    over: str = ""
    value: float = math.nan
    step: int = -1

    @classmethod
    def of(cls, text: str) -> Best:
        """
        :raises UsageError: it is no such sentence.
        """
        match = re.fullmatch(rf"(?P<way>min|max)\s+{METRIC_PATTERN}", text.strip())
        if match is None:
            raise UsageError(f"{text!r:.60} does not say what is best: 'min loss', 'max accuracy', 'min mean(alpha)'")
        over = match["over"] or ""
        if over:
            registry.find("metrics", match["inner"])
            if over not in AGGREGATES:
                raise UnknownName("mean over layers", over, AGGREGATES)
        return cls(text, match["way"], match["inner"] or match["metric"], over)

    def better(self, step: int, report: Report, scalars: Mapping[str, float]) -> bool:
        """Is this check better than all before? Then it is the best one."""
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
    """A metric of each layer that has it, by the layer's name."""
    values: dict[str, Any] = {row.name: row.metrics.get(name) for row in report.rows if not row.skipped}
    return {layer: float(value) for layer, value in values.items() if isinstance(value, int | float)}


def _first_three(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
