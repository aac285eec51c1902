"""The call that makes a report again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from layerscope.report import Comparison, Report
from layerscope.settings import EVIDENCE_FITS, Settings
from layerscope.views.text import printable

OPTIONS = {  # settings that the command line has a word for
    "min_evals": "--min-evals", "max_evals": "--max-evals", "seed": "--seed", "jobs": "--jobs",
    "shuffles": "--shuffles", "max_cost": "--max-cost", "window": "--window", "fix_fingers": "--fix-fingers",
    "conv": "--conv",
}  # fmt: skip
COMPARED = {"min_evals", "jobs"}  # settings that compare has a word for
LONGEST = 2000  # characters
FLAGS = {"randomize": "--randomize", "vectors": "--vectors", "inverse": "--inverse", "per_head": "--per-head"}


def command(report: Report) -> str:
    """A command line where one says it all, else a line of Python."""
    changed, asked = changed_settings(report), report.meta.get("asked", {})
    target = str(asked.get("target", report.meta["target"]))
    words = _words(changed)
    if words is None or asked.get("live"):
        return _python("analyze", [target], changed, asked)
    words += [word for layer in asked.get("layers", ()) for word in ("-l", str(layer))]
    words += [f"--{name}" for name in ("intra", "stacked") if asked.get(name)]
    words += ["--base", str(asked["base"])] if "base" in asked else []
    return printable(shlex.join(["layerscope", "analyze", target, *words]), LONGEST)


def command_of(comparison: Comparison) -> str:
    """The call that makes a comparison again: with ``analyze`` where no weights were compared."""
    first = comparison.reports[0]
    targets = [str(report.meta["target"]) for report in comparison.reports]
    changed, asked = changed_settings(first), first.meta.get("asked", {})
    live = any(report.meta.get("asked", {}).get("live") for report in comparison.reports)
    words, weights = _words(changed), "weights" in comparison.apart
    if words is None or live or (weights and changed.keys() - COMPARED):
        return _python("compare", targets, changed, {**asked, "live": live})
    words += [word for layer in asked.get("layers", ()) for word in ("-l", str(layer))]
    how = "compare" if weights else "analyze"
    return printable(shlex.join(["layerscope", how, *targets, *words, "--html", "comparison.html"]), LONGEST)


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
    return printable(f"layerscope.{function}({', '.join(arguments)})", LONGEST)
