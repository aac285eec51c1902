"""A report in three sentences, with how certain they are: the headline of the page, the comment and the summary."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from statistics import median, quantiles

from layerscope.records.comparison import Comparison
from layerscope.records.findings import SEVERITIES, Finding
from layerscope.records.layers import LayerReport
from layerscope.records.report import Report
from layerscope.report_comparison import alphas_of
from layerscope.rules.tail_evidence import doubt, is_usual
from layerscope.rules.untrained_layers import looks_untrained
from layerscope.text import format_percent, join_letters, plural, printable, truncate
from layerscope.views import conditioning_summary
from layerscope.views.diff_summary import diff_certainty, diff_options, diff_sentences

MIN_ALPHAS_FOR_QUARTILES = 4
MIN_SIBLINGS = 5  # layers of one shape from which their scales are compared
UNTRAINED, LAYER_UNTRAINED = "LS111", "LS103"
TO_LOOK_AT = ("LS103", "LS113", "LS114")  # information that the conclusion names
NOT_TRAINED = "This does not look like a trained model"
MAX_NAMED_LAYERS = 2  # layers that a sentence names
MAX_MESSAGE_CHARS = 600


def worst_severity(findings: Sequence[Finding]) -> str:
    """The worst severity: "error", "warn", "info", or "" without findings."""
    return max((f.severity for f in findings), key=SEVERITIES.index, default="")


def group_by_layer(findings: Sequence[Finding]) -> dict[str | None, list[Finding]]:
    """Group findings by their layer; None stands for the whole model."""
    groups: dict[str | None, list[Finding]] = {}
    for finding in findings:
        groups.setdefault(finding.layer, []).append(finding)
    return groups


def group_by_code(findings: Sequence[Finding]) -> dict[str, list[Finding]]:
    """Group findings by code, the most severe and then the most frequent first."""
    groups: dict[str, list[Finding]] = {}
    for finding in findings:
        groups.setdefault(finding.code, []).append(finding)

    def order(code: str) -> tuple[int, int, str]:
        return -SEVERITIES.index(groups[code][0].severity), -len(groups[code]), code

    return {code: groups[code] for code in sorted(groups, key=order)}


def overall_status(report: Report) -> str:
    """The status that colors a page: "failed", "error", "warn", "thin" (little evidence), or "" without problems."""
    if any(row.failed for row in report.rows) or not _analyzed_layers(report):
        return "failed"
    severity = worst_severity(report.findings)
    if severity in ("error", "warn"):
        return severity
    if diff_options(report):
        return ""
    if conditioning_summary.conditioning_options(report):
        return "thin" if conditioning_summary.has_mostly_too_few_rows(report) else ""
    return (
        ""
        if _layers_with_verdict(report) and not _count_random_layers(report) and not _why_no_training_verdict(report)
        else "thin"
    )


def is_description(report: Report) -> bool:
    """Is the report a description, in which nothing was measured?"""
    return report.meta.get("engine") == "none"


def summary_sentences(report: Report) -> tuple[str, str, str]:
    """(the conclusion, the values of α, the next step); of a diff, its three sentences."""
    if diff_options(report):
        return diff_sentences(report)
    return _conclude(report), _describe_alphas(report), _recommend_next_step(report)


def comparison_sentence(comparison: Comparison) -> str:
    """One sentence that says which of the models have warnings."""
    letters_by_warnings: dict[str, list[str]] = {}
    for letter, report in zip(comparison.letters, comparison.reports, strict=True):
        letters_by_warnings.setdefault(_describe_warnings(report), []).append(letter)
    return (
        "; ".join(
            f"{join_letters(letters)} {'has' if len(letters) == 1 else 'have'} {warnings}"
            for warnings, letters in letters_by_warnings.items()
        )
        + "."
    )


def _describe_warnings(report: Report) -> str:
    """The warnings of one model, as the object of a sentence."""
    if not _analyzed_layers(report) and not any(row.failed for row in report.rows):
        return "no layer that could be analyzed"
    warnings = {
        code: findings for code, findings in group_by_code(report.findings).items() if findings[0].severity != "info"
    }
    parts = [f"{code} {findings[0].title}" for code, findings in warnings.items() if findings[0].layer is None]
    layers = [f"{code} {f[0].title} in {len(f)}" for code, f in warnings.items() if f[0].layer is not None]
    if layers:
        parts.append(f"{', '.join(layers)} of {plural(len(_analyzed_layers(report)), 'layer')}")
    failed = sum(row.failed for row in report.rows)
    parts += [f"{plural(failed, 'layer')} that could not be measured"] if failed else []
    return " and ".join(parts) or "no warnings"


def certainty_sentences(report: Report) -> list[str]:
    """How certain the report is: how many α are certain enough, which intervals were used, what was not measured."""
    if diff_options(report):
        return diff_certainty(report)
    if conditioning_summary.conditioning_options(report):
        return [
            *conditioning_summary.certainty_sentences(report),
            *(_fit_certainty_sentences(report) if _fitted_layers(report) else []),
        ]
    return _fit_certainty_sentences(report)


def _fitted_layers(report: Report) -> list[LayerReport]:
    return [row for row in report.rows if "alpha" in row.metrics and "power_law" in row.parts["weight"].fits]


def _fit_certainty_sentences(report: Report) -> list[str]:
    settings, fitted_layers = report.settings, _fitted_layers(report)
    sentences = []
    if _why_no_training_verdict(report):
        return [_why_no_training_verdict(report)]
    small = len(_analyzed_layers(report)) - len(_large_layers(report))
    if small:
        of, verb = plural(len(_analyzed_layers(report)), "layer"), "is" if small == 1 else "are"
        sentences.append(f"{small} of {of} {verb} too small for a verdict on training.")
    doubtful = _reasons_of_doubt(report)
    if doubtful and _layers_with_verdict(report):
        sentences.append(f"α cannot be interpreted in the other fitted layers{doubtful}.")
    confidence = format_percent(settings.confidence)
    if "bootstrap" in settings.fits:
        sentences.append(
            f"Ranges of α cover every tail that fits nearly as well and {confidence} of bootstrap samples; other "
            "distributions were compared."
        )
    elif fitted_layers:
        sentences.append(
            f"Ranges of α are {confidence} intervals over every tail that fits nearly as well. --evidence adds a "
            "bootstrap and compares other distributions."
        )
    if not settings.randomize and not settings.inverse:
        sentences.append(
            "Outlier weights (correlation traps) were not looked for; --randomize compares each layer with shuffles of "
            "its weights."
        )
    reference_note = "The range 2 to 6 of α comes from large, well-trained networks; it does not rank small networks."
    return [*sentences, reference_note] if fitted_layers else sentences


def group_skipped(report: Report) -> list[tuple[str, list[LayerReport]]]:
    """Group the tensors that were not analyzed by reason, the most frequent first."""
    groups: dict[str, list[LayerReport]] = {}
    for row in report.rows:
        if row.skipped and not row.failed:
            groups.setdefault(row.skipped, []).append(row)
    return sorted(groups.items(), key=lambda pair: (-len(pair[1]), pair[0]))


def _analyzed_layers(report: Report) -> list[LayerReport]:
    return [row for row in report.rows if not row.skipped]


def _layers_with_verdict(report: Report) -> list[LayerReport]:
    """Layers whose α is certain enough for a verdict."""
    return [row for row in _fitted_layers(report) if not doubt(row, report.settings)]


def _large_layers(report: Report) -> list[LayerReport]:
    """Layers with enough eigenvalues for a verdict on their spectrum."""
    small = {finding.layer for finding in report.findings if finding.code == "LS107"}
    return [row for row in _analyzed_layers(report) if row.name not in small]


def _why_no_training_verdict(report: Report) -> str:
    """Why there are no verdicts on training, or ""."""
    if is_description(report):
        return "Nothing was measured: this is a description of the model. Run `layerscope analyze` to measure it."
    if report.settings.inverse:
        return "There are no verdicts on spectra of 1/λ (--inverse). Analyze without --inverse to get verdicts."
    if any(row.ref.derived for row in _analyzed_layers(report)):
        return (
            "No problems found by the verdicts that apply to weight updates and adapters. Verdicts on training need "
            "whole weights."
        )
    return ""


def _count_random_layers(report: Report) -> int:
    """The number of large layers that look untrained, if it is more than half of them, else 0."""
    large = _large_layers(report)
    random = sum(looks_untrained(row, report.settings) for row in large)
    return random if 2 * random > len(large) else 0


def _conclude(report: Report) -> str:
    analyzed = _analyzed_layers(report)
    failed = [row for row in report.rows if row.failed]
    if not analyzed:
        reasons = Counter(row.skipped for row in report.rows if row.skipped and len(row.ref.shape) > 1)
        why = f": {printable(reasons.most_common(1)[0][0], 120)}" if reasons else ""
        return f"No layer could be analyzed{why}."
    conclusion = _conclude_from_findings(report, analyzed)
    if not failed:
        return conclusion
    names = ", ".join(printable(row.name, 48) for row in failed[:MAX_NAMED_LAYERS]) + (
        ", …" if len(failed) > MAX_NAMED_LAYERS else ""
    )
    failure = f"{plural(len(failed), 'layer')} could not be measured and may be broken ({names}: "
    return f"{failure}{truncate(printable(failed[0].skipped), 80)}). {conclusion}"


def _conclude_from_findings(report: Report, analyzed: list[LayerReport]) -> str:
    by_code = group_by_code(report.findings)
    warnings = {code: findings for code, findings in by_code.items() if findings[0].severity != "info"}
    untrained = warnings.pop(UNTRAINED, None)
    head = f"{NOT_TRAINED}: {untrained[0].observation}" if untrained else ""
    look = _describe_what_to_look_at(report, by_code)
    if not warnings:
        return (f"{head}." if head else _conclude_without_warnings(report, analyzed)) + look
    layers = {f.layer for findings in warnings.values() for f in findings if f.layer is not None}
    about_model = any(f.layer is None for findings in warnings.values() for f in findings)
    where = f"{len(layers)} of {plural(len(analyzed), 'layer')}" if layers else ""
    where += (" and in the whole model" if where else "the whole model") if about_model else ""
    descriptions = "; ".join(_describe_findings(code, findings) for code, findings in warnings.items())
    problems = f"Problems found in {where}: {descriptions}."
    return (f"{head}. {problems}" if head else problems) + look


def _describe_what_to_look_at(report: Report, by_code: dict[str, list[Finding]]) -> str:
    """Name the layers with information that may be a fault, as a sentence; empty if there are none."""
    is_untrained = _count_random_layers(report) > 0  # said of the whole model
    codes = [code for code in TO_LOOK_AT if code in by_code and not (is_untrained and code == LAYER_UNTRAINED)]
    descriptions = "; ".join(_describe_findings(code, by_code[code]) for code in codes)
    return f" Also look at {descriptions}." if codes else ""


def _conclude_without_warnings(report: Report, analyzed: list[LayerReport]) -> str:
    """The conclusion without warnings, which never claims more than the evidence shows."""
    if _why_no_training_verdict(report):
        return _why_no_training_verdict(report)
    if conditioning_summary.conditioning_options(report):
        return conditioning_summary.describe_no_warning(report)
    random, large = _count_random_layers(report), _large_layers(report)
    if random:
        reference = "shuffles of their own weights" if report.settings.randomize else "random or orthogonal matrices"
        if len(large) == 1:
            return f"{NOT_TRAINED}: {printable(large[0].name, 48)} looks random."
        return f"{NOT_TRAINED}: {random} of {len(large)} layers look like {reference}."
    if not large:
        each = "the layer has" if len(analyzed) == 1 else f"each of the {len(analyzed)} layers has"
        return (
            f"Cannot tell: {each} fewer than {report.settings.min_evals} eigenvalues. No weights are lost (LS105). "
            "Data would tell more: layerscope conditioning --help."
        )
    ran, left_out = _checks(report)
    not_run = f" Not checked: {'; '.join(left_out)}." if left_out else ""
    return f"No problems found by these checks: {', '.join(ran)}.{not_run}"


def _checks(report: Report) -> tuple[list[str], list[str]]:
    """The checks that could give a warning and were run, and those that were not, with the option that runs them."""
    ran, left_out = ["lost weights", "untrained model", "isolated outlier weights"], list[str]()
    sizes = Counter(row.ref.shape for row in _analyzed_layers(report))
    if sizes and max(sizes.values()) >= MIN_SIBLINGS:
        ran.append("scale of corresponding layers")
    (ran.append if report.settings.randomize else left_out.append)(
        "outliers after shuffling" if report.settings.randomize else "outliers after shuffling (--randomize)"
    )
    return ran, left_out


def _describe_findings(code: str, findings: list[Finding]) -> str:
    names = [printable(f.layer, 48) for f in findings if f.layer is not None]
    if not names:
        return f"{code} {findings[0].title}"
    listed = ", ".join(names[:MAX_NAMED_LAYERS]) + (", …" if len(names) > MAX_NAMED_LAYERS else "")
    return f"{code} {findings[0].title} in {plural(len(names), 'layer')} ({listed})"


def _describe_alphas(report: Report) -> str:
    if conditioning_summary.conditioning_options(report):
        return conditioning_summary.describe_factor_spread(report)
    summary, limits = report.summary, report.settings.limits
    left_out = {item["name"] for item in summary["left_out"]}
    alphas = alphas_of(report.replace(rows=tuple(row for row in report.rows if row.name not in left_out)))
    if not alphas:
        reasons = Counter(row.absent["alpha"] for row in _analyzed_layers(report) if "alpha" in row.absent)
        why = f": {printable(reasons.most_common(1)[0][0], 120)}" if reasons else ""
        return f"No layer has an α{why}."
    if _count_random_layers(report):
        return "α says nothing about training where spectra look random."
    if report.settings.inverse:
        return f"The median α of {plural(len(alphas), 'layer')} is {median(alphas):.2f}."
    readable = [row for row in _layers_with_verdict(report) if row.name not in left_out]
    share = f"α can be interpreted in {len(readable)} of {plural(len(alphas), 'fitted layer')}"
    if not readable:
        return f"α can be interpreted in none of {plural(len(alphas), 'fitted layer')}{_reasons_of_doubt(report)}."
    values = [float(row.metrics["alpha"]) for row in readable]
    inside = sum(limits.over_trained <= alpha <= limits.under_trained for alpha in values)
    limit_range = f"{limits.over_trained:g} to {limits.under_trained:g}"
    if len(values) == 1:
        return f"{share}: {values[0]:.2f}, {'inside' if inside else 'outside'} the range {limit_range}."
    text = f"{share}: median {median(values):.2f}"
    if len(values) >= MIN_ALPHAS_FOR_QUARTILES:
        low, _, high = quantiles(values, n=4, method="inclusive")
        text += f" (half of them lie between {low:.2f} and {high:.2f})"
    with_usual = [row for row in readable if "alpha_usual_low" in row.metrics]
    usual = sum(is_usual(row) for row in with_usual)
    of_role = f"; {usual} of {len(with_usual)} are usual for the role of the layer" if with_usual else ""
    return f"{text}, and {inside} of them lie in the range {limit_range}{of_role}."


def _reasons_of_doubt(report: Report) -> str:
    """Why α may not be read, as the end of a sentence."""
    doubts = Counter(filter(None, (doubt(row, report.settings) for row in _fitted_layers(report))))
    reasons = ", ".join(f"{count} {reason}" for reason, count in doubts.most_common())
    return f" ({reasons})" if reasons else ""


def _recommend_next_step(report: Report) -> str:
    warnings = [f for f in report.findings if f.severity != "info"]
    if warnings:
        finding = max(warnings, key=lambda finding: _finding_priority(report, finding, warnings))
        return f"Start with {printable(finding.where, 60)}: {printable(finding.message, MAX_MESSAGE_CHARS)}"
    failed = [row for row in report.rows if row.failed]
    if failed:
        return f"Check how {printable(failed[0].name, 48)} was saved, or go back to an earlier checkpoint."
    if conditioning_summary.conditioning_options(report):
        return conditioning_summary.describe_coverage(report)
    if _count_random_layers(report):
        return "Check that the file holds the trained weights; if it does, train longer or with more data."
    if not _layers_with_verdict(report) and not _why_no_training_verdict(report):
        return "To learn more, compare it with an earlier checkpoint (layerscope compare) or measure it on data."
    phases = Counter(str(row.metrics["phase"]) for row in _large_layers(report) if "phase" in row.metrics)
    if phases:
        listed = ", ".join(f"{count} {phase}" for phase, count in phases.most_common())
        return f"Phases of training, judged by the spectra of the layers that are large enough: {listed}."
    return "The spectra ask for no action."


def _finding_priority(report: Report, finding: Finding, warnings: Sequence[Finding]) -> tuple[float, ...]:
    """Sort key: severity, number of warnings on the layer, embeddings last, distance of the value from its limit."""
    severity = SEVERITIES.index(finding.severity)
    if finding.layer is None or finding.layer not in report.layers:
        return (
            severity,
            math.inf,
            0,
            0.0,
        )  # what is wrong with the whole model is often the cause of findings on its layers
    layer = report.layers[finding.layer]
    warnings_of_layer = sum(warning.layer == finding.layer for warning in warnings)
    size = layer.metrics.get("trap_size") if finding.code == "LS104" else None
    value, limit = finding.value, finding.limit
    if size is None and isinstance(value, int | float) and isinstance(limit, int | float) and value > 0 and limit > 0:
        size = abs(math.log10(value) - math.log10(limit))
    return (
        severity,
        warnings_of_layer,
        layer.ref.kind != "embedding",
        float(size) if isinstance(size, int | float) else 0.0,
    )
