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

OVER: dict[str, Callable[[list[float]], float]] = {
    "mean": statistics.fmean, "median": statistics.median, "min": min, "max": max,
}  # fmt: skip
SIGNS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
NAME = r"(?:(?P<over>\w+)\((?P<inner>\w+)\)|(?P<metric>\w+))"
WHERE, TIMES = r"(?:\s+in\s+(?P<where>\S+))?", r"(?:\s+for\s+(?P<times>\d+)\s+checks?)?"
LIMIT = re.compile(rf"{NAME}{WHERE}\s*(?P<sign><=|>=|<|>)\s*(?P<limit>\S+?){TIMES}")
TREND = re.compile(rf"{NAME}{WHERE}\s+stopped\s+(?P<way>rising|falling){TIMES}")
VERDICT = re.compile(rf"(?P<code>LS\d+){WHERE}{TIMES}")
FORMS = "'mean(alpha) < 2 for 3 checks', 'alpha in fc* < 2', 'rand_distance stopped rising for 5 checks', 'LS104'"


@dataclass
class Criterion:
    """One such sentence, and how often it has held in a row."""

    text: str
    metric: str = ""
    over: str = ""  # one of OVER; "" asks of each layer
    where: str = "*"
    sign: str = ""
    limit: float = math.nan
    way: str = ""  # "rising" or "falling", of a trend
    code: str = ""
    times: int = 1
    heard: bool = False  # was there ever something to judge?
    _held: int = field(default=0, repr=False)
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
        found = next((m for form in (LIMIT, TREND, VERDICT) if (m := form.fullmatch(words))), None)
        if found is None:
            raise UsageError(f"{words!r:.80} is no criterion; they are like {FORMS}")
        parts = found.groupdict()
        made = cls(words, where=parts["where"] or "*", times=int(parts["times"] or 1))
        if made.times < 1:
            raise UsageError(f"{words!r:.80}: for 1 check or more")
        if "code" in parts:
            registry.find("rules", parts["code"])
            made.code = parts["code"]
            return made
        made.metric, made.over = parts["inner"] or parts["metric"], parts["over"] or ""
        registry.find("metrics", made.metric)
        made.way = parts.get("way") or ""
        if made.way and not made.over:
            made.over = "mean"
        if made.over and made.over not in OVER:
            raise UnknownName("mean over layers", made.over, OVER)
        if not made.way:
            made.sign = parts["sign"]
            try:
                made.limit = float(parts["limit"])
                if math.isnan(made.limit):
                    raise ValueError
            except ValueError:
                raise UsageError(f"{words!r:.80}: {parts['limit']!r:.20} is no number") from None
        return made

    def judge(self, report: Report) -> str:
        """Why it holds now, for as many checks as it asks; "" where it does not. Where there is nothing to judge it
        neither holds nor ends what held before."""
        told = self._verdict(report) if self.code else self._metric(report)
        if told is None:
            return ""
        self.heard = True
        self._held = self._held + 1 if told else 0
        return told if self._held >= self.times else ""

    def _verdict(self, report: Report) -> str:
        self.heard = True
        layers = [f.layer or "the whole model" for f in report.findings if f.code == self.code and self._fits(f.layer)]
        title = registry.find("rules", self.code).meta["title"]
        return f"{self.code} {title}: {_some(layers)}" if layers else ""

    def _metric(self, report: Report) -> str | None:
        values = {name: value for name, value in metric(report, self.metric).items() if self._fits(name)}
        if not values:
            return None
        if not self.over:
            held = {name: value for name, value in values.items() if SIGNS[self.sign](value, self.limit)}
            told = _some([f"{name} ({value:.3g})" for name, value in held.items()])
            return f"{self.metric} {self.sign} {self.limit:g} in {told}" if held else ""
        value = OVER[self.over](list(values.values()))
        if not self.way:
            holds = SIGNS[self.sign](value, self.limit)
            return f"{self.over}({self.metric}) = {value:.3g} {self.sign} {self.limit:g}" if holds else ""
        better = value > self._best if self.way == "rising" else value < self._best
        if math.isnan(self._best) or better:
            self._best = value
            return ""
        return f"{self.over}({self.metric}) stopped {self.way} at {self._best:.3g}, now {value:.3g}"

    def _fits(self, layer: str | None) -> bool:
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
        found = re.fullmatch(rf"(?P<way>min|max)\s+{NAME}", text.strip())
        if found is None:
            raise UsageError(f"{text!r:.60} does not say what is best: 'min loss', 'max accuracy', 'min mean(alpha)'")
        over = found["over"] or ""
        if over:
            registry.find("metrics", found["inner"])
            if over not in OVER:
                raise UnknownName("mean over layers", over, OVER)
        return cls(text, found["way"], found["inner"] or found["metric"], over)

    def better(self, step: int, report: Report, scalars: Mapping[str, float]) -> bool:
        """Is this check better than all before? Then it is the best one."""
        if self.over:
            values = list(metric(report, self.name).values())
            value = OVER[self.over](values) if values else math.nan
        else:
            value = scalars.get(self.name, math.nan)
        if math.isnan(value):
            return False
        if not (math.isnan(self.value) or (value < self.value if self.way == "min" else value > self.value)):
            return False
        self.value, self.step = value, step
        return True


def metric(report: Report, name: str) -> dict[str, float]:
    """A metric of each layer that has it, by the layer's name."""
    found: dict[str, Any] = {row.name: row.metrics.get(name) for row in report.rows if not row.skipped}
    return {layer: float(value) for layer, value in found.items() if isinstance(value, int | float)}


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
