"""The call that makes a report again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from layerscope.records.comparison import Comparison
from layerscope.records.report import Report
from layerscope.settings import EVIDENCE_FITS, Settings

OPTIONS = {  # settings that the command line has a word for
    "min_evals": "--min-evals", "max_evals": "--max-evals", "seed": "--seed", "jobs": "--jobs",
    "shuffles": "--shuffles", "max_cost": "--max-cost", "window": "--window", "fix_fingers": "--fix-fingers",
    "conv": "--conv",
}  # fmt: skip
COMPARED = {"min_evals", "jobs"}  # settings that compare has a word for
HOW = (
    "loss",
    "fisher",
    "conv",
    "bias",
    "exact",
    "curvature_of",
    "lr",
    "momentum",
    "nesterov",
)  # what conditioning was asked for
LONGEST = 2000  # characters
TOO_LONG = "too long to show: target, layers and settings are in the report itself"
FLAGS = {"randomize": "--randomize", "vectors": "--vectors", "inverse": "--inverse", "per_head": "--per-head"}


def command(report: Report) -> str:
    """A command line where one says it all, else a line of Python."""
    if "conditioning" in report.meta:
        return _of_learning(report)
    return _call("analyze", [report], [])


def command_of(comparison: Comparison) -> str:
    """The call that makes a comparison again: with ``analyze`` where no weights were compared."""
    how = "compare" if "weights" in comparison.apart else "analyze"
    return _call(how, comparison.reports, ["--html", "comparison.html"])


def _call(how: str, reports: Sequence[Report], more: Sequence[str]) -> str:
    changed, asked = changed_settings(reports[0]), reports[0].meta.get("asked", {})
    targets = [str(report.meta.get("asked", {}).get("target", report.meta["target"])) for report in reports]
    live = any(report.meta.get("asked", {}).get("live") for report in reports)
    options = _words(changed)
    if how == "compare" and (changed.keys() - COMPARED or asked.keys() - {"layers"}):
        options = None
    if options is not None and not live:
        options += [word for layer in asked.get("layers", ()) for word in ("-l", str(layer))]
        options += [f"--{name}" for name in ("intra", "stacked") if asked.get(name)]
        options += ["--base", _path(asked["base"])] if "base" in asked else []
        line = shlex.join(["layerscope", how, *map(_path, targets), *options, *more])
        if line.isprintable() and len(line) <= LONGEST:
            return line
    line = _python("analyze" if len(reports) == 1 else "compare", targets, changed, {**asked, "live": live})
    return line if len(line) <= LONGEST else TOO_LONG  # a call is whole or not there: half a quotation is another call


def _of_learning(report: Report) -> str:
    how = {name: value for name, value in report.meta["conditioning"].items() if name in HOW}
    asked = {k: v for k, v in report.meta.get("asked", {}).items() if k == "layers"}
    words = [f"{name}={value!r}" for name, value in {**how, **asked, **changed_settings(report)}.items()]
    line = f"layerscope.conditioning(model, data, {', '.join(words)})"
    return line if len(line) <= LONGEST else TOO_LONG


def _path(target: str) -> str:
    return f"./{target}" if target.startswith("-") else target


def changed_settings(report: Report) -> dict[str, Any]:
    """Settings that differ from the defaults."""
    default, used = Settings().to_dict(), report.settings.to_dict()
    return {name: value for name, value in used.items() if value != default[name]}


def _words(changed: Mapping[str, Any]) -> list[str] | None:
    """Options of the command line; None where it has no word for a setting."""
    words: list[str] = []
    for name, value in changed.items():
        if name in OPTIONS:
            words += [OPTIONS[name], str(value)]
        elif name in FLAGS and value:
            words.append(FLAGS[name])
        elif name == "pool" and not value:
            words.append("--no-pool")
        elif name == "fits" and tuple(value) == EVIDENCE_FITS:
            words.append("--evidence")
        else:
            return None
    return words


def _python(function: str, targets: Sequence[str], changed: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    if asked.get("live"):
        arguments = ["model"] if len(targets) == 1 else [f"model_{i}" for i in range(1, len(targets) + 1)]
    else:
        arguments = [repr(target) for target in targets]
    arguments += [f"{k}={v!r}" for k, v in asked.items() if k not in ("target", "live")]
    plain = {name: value for name, value in changed.items() if name != "limits"}
    arguments += [f"{name}={value!r}" for name, value in plain.items()]
    if "limits" in changed:
        default = Settings().to_dict()["limits"]
        limits = ", ".join(f"{k}={v!r}" for k, v in changed["limits"].items() if v != default[k])
        arguments.append(f"limits=layerscope.Limits({limits})")
    return f"layerscope.{function}({', '.join(arguments)})"  # repr leaves nothing unprintable
