"""Format the command or Python call that reproduces a report."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from layerscope.records.comparison import Comparison
from layerscope.records.report import Report
from layerscope.settings import EVIDENCE_FITS, Settings

SETTING_OPTIONS = {  # settings with an option on the command line
    "min_evals": "--min-evals", "max_evals": "--max-evals", "seed": "--seed", "jobs": "--jobs",
    "shuffles": "--shuffles", "max_cost": "--max-cost", "window": "--window", "fix_fingers": "--fix-fingers",
    "conv": "--conv",
}  # fmt: skip
COMPARE_SETTINGS = {"min_evals", "jobs"}  # settings with an option of the compare command
CONDITIONING_OPTIONS = (
    "loss",
    "fisher",
    "conv",
    "bias",
    "exact",
    "curvature_of",
    "lr",
    "momentum",
    "nesterov",
)  # arguments of layerscope.conditioning that the call repeats
MAX_COMMAND_CHARS = 2000  # characters
TOO_LONG = "call too long to show; the report itself records its target, layers and settings"
SETTING_FLAGS = {"randomize": "--randomize", "vectors": "--vectors", "inverse": "--inverse", "per_head": "--per-head"}


def report_command(report: Report) -> str:
    """Return a shell command that reproduces the report, or a Python call if the shell has no option for a setting."""
    if "conditioning" in report.meta:
        return _format_conditioning_call(report)
    if "diff" in report.meta:
        return _format_diff_command(report)
    return _format_call("analyze", [report], [])


def comparison_command(comparison: Comparison) -> str:
    """Return the call that reproduces a comparison; it uses ``analyze`` if no weights were compared."""
    function = "compare" if "weights" in comparison.apart else "analyze"
    return _format_call(function, comparison.reports, ["--html", "comparison.html"])


def _format_call(function: str, reports: Sequence[Report], extra: Sequence[str]) -> str:
    changed, arguments = changed_settings(reports[0]), reports[0].meta.get("asked", {})
    targets = [str(report.meta.get("asked", {}).get("target", report.meta["target"])) for report in reports]
    live = any(report.meta.get("asked", {}).get("live") for report in reports)
    options = _format_command_options(changed)
    if function == "compare" and (changed.keys() - COMPARE_SETTINGS or arguments.keys() - {"layers"}):
        options = None
    if options is not None and not live:
        options += [word for layer in arguments.get("layers", ()) for word in ("-l", str(layer))]
        options += [f"--{name}" for name in ("intra", "stacked", "canonical") if arguments.get(name)]
        options += [f"--select={arguments['select']}"] if "select" in arguments else []
        options += ["--base", _escape_leading_dash(arguments["base"])] if "base" in arguments else []
        line = shlex.join(["layerscope", function, *map(_escape_leading_dash, targets), *options, *extra])
        if line.isprintable() and len(line) <= MAX_COMMAND_CHARS:
            return line
    line = _format_python_call(
        "analyze" if len(reports) == 1 else "compare", targets, changed, {**arguments, "live": live}
    )
    return line if len(line) <= MAX_COMMAND_CHARS else TOO_LONG  # a truncated call would be a different call


def _format_conditioning_call(report: Report) -> str:
    options = {name: value for name, value in report.meta["conditioning"].items() if name in CONDITIONING_OPTIONS}
    arguments = {k: v for k, v in report.meta.get("asked", {}).items() if k == "layers"}
    words = [f"{name}={value!r}" for name, value in {**options, **arguments, **changed_settings(report)}.items()]
    line = f"layerscope.conditioning(model, data, {', '.join(words)})"
    return line if len(line) <= MAX_COMMAND_CHARS else TOO_LONG


def _format_diff_command(report: Report) -> str:
    pair = report.meta["diff"]
    words = [_escape_leading_dash(str(pair[name])) for name in ("base", "tuned")]
    adapter = ["--adapter", _escape_leading_dash(str(pair["adapter"]))] if "adapter" in pair else []
    line = shlex.join(["layerscope", "diff", *words, *adapter])
    return line if line.isprintable() and len(line) <= MAX_COMMAND_CHARS else TOO_LONG


def _escape_leading_dash(target: str) -> str:
    return f"./{target}" if target.startswith("-") else target


def changed_settings(report: Report) -> dict[str, Any]:
    """Return the settings that differ from the defaults."""
    default, used = Settings().to_dict(), report.settings.to_dict()
    return {name: value for name, value in used.items() if value != default[name]}


def _format_command_options(changed: Mapping[str, Any]) -> list[str] | None:
    """Return command-line options, or None if a changed setting has no option."""
    words: list[str] = []
    for name, value in changed.items():
        if name in SETTING_OPTIONS:
            words += [SETTING_OPTIONS[name], str(value)]
        elif name in SETTING_FLAGS and value:
            words.append(SETTING_FLAGS[name])
        elif name == "pool" and not value:
            words.append("--no-pool")
        elif name == "fits" and tuple(value) == EVIDENCE_FITS:
            words.append("--evidence")
        else:
            return None
    return words


def _format_python_call(
    function: str, targets: Sequence[str], changed: Mapping[str, Any], call_arguments: Mapping[str, Any]
) -> str:
    if call_arguments.get("live"):
        arguments = ["model"] if len(targets) == 1 else [f"model_{i}" for i in range(1, len(targets) + 1)]
    else:
        arguments = [repr(target) for target in targets]
    arguments += [f"{k}={v!r}" for k, v in call_arguments.items() if k not in ("target", "live")]
    simple = {name: value for name, value in changed.items() if name != "limits"}
    arguments += [f"{name}={value!r}" for name, value in simple.items()]
    if "limits" in changed:
        default = Settings().to_dict()["limits"]
        limits = ", ".join(f"{k}={v!r}" for k, v in changed["limits"].items() if v != default[k])
        arguments.append(f"limits=layerscope.Limits({limits})")
    return f"layerscope.{function}({', '.join(arguments)})"  # repr escapes unprintable characters
