"""Convert reports to JSON and back, in schema 1 (docs/json.md), which is valid JSON without NaN."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from layerscope import registry
from layerscope.errors import Unreadable, UsageError
from layerscope.numerics.spectrum import Mode, Spectrum
from layerscope.records.findings import SEVERITIES, Finding
from layerscope.records.layer_sizes import size_columns
from layerscope.records.layers import Fit, LayerRef, LayerReport, Measurement, Part
from layerscope.records.report import Report
from layerscope.validation import check_types, matches_type

SCHEMA = 1
RIVAL_PARAMS = {"ratio", "p"}
REQUIRED_FIT_PARAMS = {  # fit → parameters that rules and views read without its spectrum
    "power_law": {"alpha", "n_tail", "ks", "spikes", "xmin"},
    "marchenko_pastur": {"sigma", "bulk_min", "bulk_max", "edge", "spikes", "ks"}, "exponential": RIVAL_PARAMS,
    "lognormal": RIVAL_PARAMS, "truncated_power_law": RIVAL_PARAMS,
}  # fmt: skip
FIT_PARAM_CHECKS: dict[str, Callable[[Mapping[str, float]], bool]] = {
    "power_law": lambda p: p["alpha"] > 1 and p["xmin"] > 0 and p["n_tail"] >= 1 and 0 <= p.get("fingers", 0) <= 1e6,
    "marchenko_pastur": lambda p: (
        0 < p["sigma"] < 1e100 and 0 <= p["bulk_min"] < p["bulk_max"] and p["spikes"] >= 0 and p["edge"] > 0
    ),
}
COUNTS = ("examples", "input_rows", "output_units", "input_units")  # facts that are positive


def to_dict(report: Report) -> dict[str, Any]:
    """Convert a report to plain JSON types, without its spectra."""
    conv = report.settings.conv
    return {
        "schema": SCHEMA,
        "meta": dict(report.meta),
        "layers": [layer_to_dict(layer, conv) for layer in report.rows],
        "findings": [dataclasses.asdict(finding) for finding in report.findings],
        "summary": report.summary,
    }


def layer_to_dict(layer: LayerReport, conv: str) -> dict[str, Any]:
    """Convert one layer to plain JSON types: sizes, metrics, reasons for missing values, and measured parts."""
    size = size_columns(layer, conv)
    return {
        "name": layer.name,
        "index": size["layer_id"],
        "kind": size["layer_type"],
        **{key: size[key] for key in ("shape", "N", "M", "Q", "rf", "num_evals", "dtype", "params", "skipped")},
        "failed": layer.failed,
        "metrics": dict(layer.metrics),
        "absent": dict(layer.absent),
        "parts": {role: _part_to_dict(part) for role, part in layer.parts.items()},
    }


def to_json(report: Report, *, indent: int | None = None) -> str:
    """Convert a report to a JSON string.

    :param indent: spaces of indentation; None writes one line.
    :raises ValueError: a number is not finite.
    """
    return json.dumps(to_dict(report), indent=indent, allow_nan=False)


def to_jsonl(report: Report) -> Iterator[str]:
    """Yield one JSON object per line: meta, each layer, each finding, summary; ``record`` names the kind."""
    whole = to_dict(report)
    yield _json_line({"record": "meta", "schema": SCHEMA, **whole["meta"]})
    for kind, plural in (("layer", "layers"), ("finding", "findings")):
        for item in whole[plural]:
            yield _json_line({"record": kind, **item})
    yield _json_line({"record": "summary", **whole["summary"]})


def from_json(text: str) -> Report:
    """Read a report from the string that :func:`to_json` returned; its layers have no spectra."""
    return from_dict(parse(text), {})


def parse(text: str | bytes) -> Any:
    """Parse strict JSON.

    :raises Unreadable: the text is not valid JSON, or contains NaN or infinity.
    """
    try:
        return json.loads(text, parse_constant=_reject_constant, parse_int=_parse_int)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"not JSON: {type(error).__name__}: {error}") from None


def _parse_int(digits: str) -> int:
    if len(digits) > 19:
        raise ValueError(f"an integer has {len(digits)} digits; at most 19 are supported")
    return int(digits)


def from_dict(plain: Any, spectra: Mapping[tuple[int, str], Spectrum]) -> Report:
    """Build a report from plain JSON types and check the type of every field.

    :param spectra: spectra by (row number, role).
    :raises Unreadable: the schema differs, or a field is missing or has the wrong type.
    """
    if not isinstance(plain, Mapping) or plain.get("schema") != SCHEMA:
        schema = plain.get("schema") if isinstance(plain, Mapping) else None
        raise Unreadable(f"the report has schema {schema!r:.40}; this version of layerscope reads schema {SCHEMA}")
    try:
        layers = tuple(_layer_from_dict(number, layer, spectra) for number, layer in enumerate(plain["layers"]))
        findings = tuple(_finding_from_dict(finding) for finding in plain["findings"])
        meta = {str(key): value for key, value in plain["meta"].items()}
        if not matches_type(meta["target"], str) or not matches_type(meta["format"], str):
            raise TypeError("target and format must be strings")
        if not matches_type(meta.get("seconds", 0.0), float):
            raise TypeError("seconds must be a number")
        _check_request(meta.get("asked", {}))
        if "conditioning" in meta:
            _check_conditioning(meta["conditioning"])
        if "diff" in meta:
            _check_diff(meta["diff"])
        report = Report(meta, layers, findings)
        _ = report.settings
    except (KeyError, TypeError, AttributeError, ValueError, UsageError) as error:
        raise Unreadable(f"the report is damaged ({type(error).__name__}: {error})") from None
    return report


def _finding_from_dict(plain: Mapping[str, Any]) -> Finding:
    finding = check_types(Finding(**plain))
    if finding.severity not in SEVERITIES:
        raise TypeError(f"a finding has the unknown severity {finding.severity[:20]!r}")
    return finding


def _check_request(request: Any) -> None:
    texts = dict.fromkeys(("base", "target", "select"), str)
    known = {"layers": list, **texts, **dict.fromkeys(("intra", "stacked", "canonical", "live"), bool)}
    if not isinstance(request, Mapping) or any(not isinstance(v, known.get(k, ())) for k, v in request.items()):
        raise TypeError(f"asked has unknown keys or values: {request!r:.80}")


CONDITIONING_TYPES = {
    "fisher": str, "conv": str, "loss": str, "bias": bool, "exact": bool, "training": bool, "curvature_of": str,
    "lr": float, "momentum": float, "nesterov": bool, "whole": Mapping[str, Any], "curvature": Mapping[str, Any],
}  # fmt: skip
WHOLE_MATRIX_TYPES = {
    "layers": int, "params": int, "rows": int, "lambda_max": float, "trace": float, "loss": float, "examples": int,
    "evals": tuple[float, ...],
}  # fmt: skip
CURVATURE_TYPES = {
    "matrix": str, "params": int, "values": tuple[float, ...], "residuals": tuple[float, ...], "converged": bool,
    "least": float, "trace": float, "trace_error": float, "nodes": tuple[tuple[float, ...], ...],
    "weights": tuple[tuple[float, ...], ...], "products": int,
}  # fmt: skip


def _check_conditioning(conditioning: Any) -> None:
    """Check the types of a report's results about inputs and gradients, which rules and views rely on."""
    _check_types("conditioning", conditioning, CONDITIONING_TYPES)
    whole, curvature = conditioning.get("whole", {}), conditioning.get("curvature", {})
    _check_types("the whole matrix", whole, WHOLE_MATRIX_TYPES)
    _check_types("the curvature", curvature, CURVATURE_TYPES)
    if "evals" in whole and not ({"params"} <= whole.keys() and 0 < len(whole["evals"]) <= whole["params"]):
        raise TypeError("the whole matrix has no eigenvalues, or more eigenvalues than parameters")
    if curvature and not (CURVATURE_TYPES.keys() <= curvature.keys() and curvature["values"]):
        raise TypeError("the curvature has no eigenvalues, or lacks a field")
    sides = [[len(row) for row in curvature.get(name, ())] for name in ("nodes", "weights")]
    if sides[0] != sides[1] or len(set(sides[0])) > 1 or (sides[0] and curvature["trace"] is None):
        raise TypeError("nodes and weights of the curvature differ in size, or its trace is missing")
    if "lr" in conditioning and not conditioning["lr"] > 0:
        raise TypeError(f"the learning rate must be above 0, not {conditioning['lr']!r:.40}")


def _check_diff(pair: Any) -> None:
    """Check the types of what was compared, and of the losses, which the views of a diff rely on."""
    if not isinstance(pair, Mapping) or not {"base", "tuned"} <= pair.keys():
        raise TypeError("diff must name base and tuned")
    _check_types("diff", pair, {"base": str, "tuned": str, "adapter": str, "losses": Mapping[str, Any]})
    for data, result in pair.get("losses", {}).items():
        _check_types(f"the losses on {data!r:.40}", result, dict.fromkeys(("base", "tuned", "change", "blocks"), dict))
        differences = [result["change"], *result.get("blocks", {}).values()]
        for numbers in (result["base"], result["tuned"], *differences):
            if not isinstance(numbers, Mapping) or not matches_type(numbers["loss"], float):
                raise TypeError(f"the losses on {data!r:.40} hold no numbers")
        for numbers in differences:
            if numbers["error"] is not None and not matches_type(numbers["error"], float):
                raise TypeError(f"a standard error cannot be {numbers['error']!r:.40}")


def _check_types(what: str, plain: Any, known: Mapping[str, Any]) -> None:
    if not isinstance(plain, Mapping):
        raise TypeError(f"{what} must be a mapping")
    for name, hint in known.items():
        if (
            name in plain
            and not matches_type(_lists_to_tuples(plain[name]), hint)
            and not (plain[name] is None and hint is float)
        ):
            raise TypeError(f"{name} of {what} cannot be {plain[name]!r:.60}")


def _lists_to_tuples(value: Any) -> Any:
    return tuple(_lists_to_tuples(item) for item in value) if isinstance(value, list) else value


def _reject_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not valid JSON")


def _json_line(item: dict[str, Any]) -> str:
    return json.dumps(item, allow_nan=False)


def _part_to_dict(part: Measurement) -> dict[str, Any]:
    ref = {**dataclasses.asdict(part.ref), "shape": list(part.ref.shape), "aliases": list(part.ref.aliases)}
    del ref["stored"]  # matters only while the layer is measured
    return {
        "ref": ref,
        "fits": {
            name: {"ok": fit.ok, "reason": fit.reason, "params": dict(fit.params)} for name, fit in part.fits.items()
        },
        "skipped": part.skipped,
        "failed": part.failed,
        "seconds": part.seconds,
        **({"modes": [dataclasses.asdict(mode) for mode in part.modes]} if part.modes else {}),
        **({"facts": dict(part.facts)} if part.facts else {}),
    }


def _layer_from_dict(number: int, plain: Mapping[str, Any], spectra: Mapping[tuple[int, str], Spectrum]) -> LayerReport:
    parts = {role: _part_from_dict(number, role, part, spectra) for role, part in plain["parts"].items()}
    layer = LayerReport(plain["name"], parts, dict(plain["metrics"]), dict(plain["absent"]))
    if "weight" not in parts:
        raise TypeError("a layer has no part called 'weight'")
    spectrum = parts["weight"].spectrum
    for role, part in parts.items():
        if role.startswith("shuffle") and not part.skipped and "marchenko_pastur" not in part.fits:
            raise TypeError(f"{role} has no Marchenko–Pastur fit")
        if role.startswith("shuffle") and spectrum is not None and part.spectrum is not None:
            sizes = [(s.n, s.m, s.k, len(s.evals)) for s in (spectrum, part.spectrum)]
            if sizes[0] != sizes[1] or "marchenko_pastur" not in part.fits:
                raise TypeError(f"{role} has other sizes than its layer, or no Marchenko–Pastur fit")
        if any(not mode.value > mode.edge > 0 for mode in part.modes if role.startswith("shuffle")):
            raise TypeError(f"{role} has traps that do not exceed the edge of the bulk")
    for name, value in layer.metrics.items():
        plugin = registry.plugins("metrics").get(name)
        if plugin is not None and isinstance(value, str) != (plugin.meta["fmt"] == "s"):
            raise TypeError(f"metric {name} cannot be {value!r:.40}")
    fit_names = ["power_law"] * ("alpha" in layer.metrics) + [str(layer.metrics.get("best_fit", "power_law"))]
    if "alpha" in layer.metrics and not all(name in parts["weight"].fits for name in fit_names):
        raise TypeError(f"metrics refer to missing fits: {', '.join(fit_names)}")
    if "alpha" in layer.metrics:
        interval = [layer.metrics.get(name) for name in ("alpha", "alpha_low", "alpha_high")]
        if not all(isinstance(x, float | int) and 0 <= x < 1e12 for x in interval):
            raise TypeError(f"α and its interval cannot be {interval!r:.80}")
    return check_types(layer, exempt=("parts",))


def _part_from_dict(
    number: int, role: str, plain: Mapping[str, Any], spectra: Mapping[tuple[int, str], Spectrum]
) -> Measurement:
    raw = dict(plain["ref"])
    raw["shape"], raw["aliases"] = tuple(raw["shape"]), tuple(raw["aliases"])
    raw["part"] = check_types(Part(**raw["part"])) if raw["part"] is not None else None
    ref = check_types(LayerRef(**raw))
    if ref.groups < 1 or min(ref.heads, ref.rank, ref.index, *ref.shape, 0) < 0:
        raise TypeError(
            f"a layer has impossible sizes: {ref.groups} groups, {ref.heads} heads, rank {ref.rank}, "
            f"shape {ref.shape!r:.40}"
        )
    if ref.axes and (len(ref.axes) != len(ref.shape) or ref.axes.count("o") != 1 or ref.axes.count("i") != 1):
        raise TypeError(f"a layer has impossible axes: {ref.axes[:20]!r}")
    fits = {name: _fit_from_dict(name, fit) for name, fit in plain["fits"].items()}
    skipped, failed, seconds = plain["skipped"], plain["failed"], plain["seconds"]
    modes = tuple(_mode_from_dict(mode) for mode in plain.get("modes", ()))
    facts = dict(plain.get("facts", {}))
    if any(not facts.get(name, 1) > 0 for name in COUNTS):
        counts = ", ".join(f"{name} {facts.get(name)!r:.20}" for name in COUNTS)
        raise TypeError(f"a layer has impossible counts: {counts}")
    if not -1 <= facts.get("largest_index", -1) < math.prod(ref.shape):
        raise TypeError(f"a layer of shape {ref.shape!r:.40} has no weight {facts['largest_index']!r:.20}")
    part = Measurement(ref, spectra.get((number, role)), fits, skipped, failed, seconds, modes, facts)
    return check_types(part, exempt=("fits", "spectrum", "modes"))


def _mode_from_dict(plain: Mapping[str, Any]) -> Mode:
    mode = check_types(Mode(**{**plain, "entry": tuple(plain["entry"])}))
    if max(mode.value, mode.entropy, mode.localization, mode.participation, mode.edge) > 1e100:
        raise TypeError(f"a mode cannot be {mode!r:.80}")
    return mode


def _fit_from_dict(name: str, plain: Mapping[str, Any]) -> Fit:
    fit = check_types(Fit(name, plain["ok"], plain["reason"], dict(plain["params"])))
    if fit.ok and not REQUIRED_FIT_PARAMS.get(name, set()) <= fit.params.keys():
        raise TypeError(f"the fit {name} lacks {', '.join(sorted(REQUIRED_FIT_PARAMS[name] - fit.params.keys()))}")
    if fit.ok and name in FIT_PARAM_CHECKS and not FIT_PARAM_CHECKS[name](fit.params):
        raise TypeError(f"the fit {name} has impossible parameters: {dict(fit.params)!r:.80}")
    return fit
