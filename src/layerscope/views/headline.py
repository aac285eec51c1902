"""A report in three sentences, and how sure they are: what heads the page, the comment and the summary."""

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
from layerscope.rules.tail_evidence import doubt
from layerscope.text import cut, percent, plural, printable, together
from layerscope.views import conditioning_summary

FEW = 4  # α below which no quartiles are told
NAMED = 2  # layers that a sentence names


def gravity(findings: Sequence[Finding]) -> str:
    """The gravest severity: "error", "warn", "info", or "" without findings."""
    return max((f.severity for f in findings), key=SEVERITIES.index, default="")


def by_layer(findings: Sequence[Finding]) -> dict[str | None, list[Finding]]:
    """Findings by the layer that they are about; None: the whole model."""
    groups: dict[str | None, list[Finding]] = {}
    for finding in findings:
        groups.setdefault(finding.layer, []).append(finding)
    return groups


def by_code(findings: Sequence[Finding]) -> dict[str, list[Finding]]:
    """Findings by their code, the gravest and then the most frequent first."""
    groups: dict[str, list[Finding]] = {}
    for finding in findings:
        groups.setdefault(finding.code, []).append(finding)

    def order(code: str) -> tuple[int, int, str]:
        return -SEVERITIES.index(groups[code][0].severity), -len(groups[code]), code

    return {code: groups[code] for code in sorted(groups, key=order)}


def standing(report: Report) -> str:
    """What a page's colour says: "failed", the gravest severity of a warning, "thin", or "" where all is well."""
    if any(row.failed for row in report.rows) or not _analysed(report):
        return "failed"
    worst = gravity(report.findings)
    if worst in ("error", "warn"):
        return worst
    if conditioning_summary.how(report):
        return "thin" if conditioning_summary.thin(report) else ""
    return "" if _sure(report) and not _untrained(report) and not _unasked(report) else "thin"


def described(report: Report) -> bool:
    """Is it a description, of which nothing was measured?"""
    return report.meta.get("engine") == "none"


def sentences(report: Report) -> tuple[str, str, str]:
    """(what was concluded, what shape the layers have, what about the rest)."""
    return _conclusion(report), _shape(report), _rest(report)


def of_several(comparison: Comparison) -> str:
    """Which of the models have warnings, in a sentence."""
    told: dict[str, list[str]] = {}
    for letter, report in zip(comparison.letters, comparison.reports, strict=True):
        told.setdefault(_flags(report), []).append(letter)
    return (
        "; ".join(
            f"{together(letters)} {'has' if len(letters) == 1 else 'have'} {what}" for what, letters in told.items()
        )
        + "."
    )


def _flags(report: Report) -> str:
    """What a model has by way of warnings."""
    if not _analysed(report) and not any(row.failed for row in report.rows):
        return "no layer that could be analysed"
    grave = {code: found for code, found in by_code(report.findings).items() if found[0].severity != "info"}
    words = [f"{code} {found[0].title}" for code, found in grave.items() if found[0].layer is None]
    layers = [f"{code} {f[0].title} in {len(f)}" for code, f in grave.items() if f[0].layer is not None]
    if layers:
        words.append(f"{', '.join(layers)} of {plural(len(_analysed(report)), 'layer')}")
    failed = sum(row.failed for row in report.rows)
    words += [f"{plural(failed, 'layer')} that could not be measured"] if failed else []
    return " and ".join(words) or "no warning"


def certainty(report: Report) -> list[str]:
    """How sure all of this is: what carries a verdict, what the intervals are, what was not looked at."""
    if conditioning_summary.how(report):
        return [*conditioning_summary.certainty(report), *(_certainty(report) if _fitted(report) else [])]
    return _certainty(report)


def _fitted(report: Report) -> list[LayerReport]:
    return [row for row in report.rows if "alpha" in row.metrics and "power_law" in row.parts["weight"].fits]


def _certainty(report: Report) -> list[str]:
    settings, fitted = report.settings, _fitted(report)
    doubts = Counter(filter(None, (doubt(row, settings) for row in fitted)))
    said = []
    if _unasked(report):
        return [_unasked(report)]
    small = len(_analysed(report)) - len(_large(report))
    if small:
        said.append(f"{plural(small, 'layer')} of {len(_analysed(report))} too small for a verdict on training.")
    if fitted:
        sure = len(fitted) - doubts.total()
        why = ", ".join(f"{count} {reason}" for reason, count in doubts.most_common())
        said.append(f"{sure} of {len(fitted)} α can carry a verdict" + (f"; the others cannot: {why}." if why else "."))
    if "bootstrap" in settings.fits:
        said.append(
            f"Intervals are {percent(settings.confidence)} bootstrap intervals; rival distributions were compared."
        )
    elif fitted:
        said.append(
            f"Intervals are {percent(settings.confidence)} intervals by formula; they were not bootstrapped and no "
            "rival distribution was compared (--evidence does both)."
        )
    if not settings.randomize and not settings.inverse:
        said.append(
            "No layer was compared with shuffles of itself: correlation traps were not looked for (--randomize)."
        )
    alphas = "Reference ranges of α come from large, well-trained networks; on small ones α alone ranks nothing."
    return [*said, alphas] if fitted else said


def skipped(report: Report) -> list[tuple[str, list[LayerReport]]]:
    """Tensors that were not analysed, by reason, the most frequent first."""
    groups: dict[str, list[LayerReport]] = {}
    for row in report.rows:
        if row.skipped and not row.failed:
            groups.setdefault(row.skipped, []).append(row)
    return sorted(groups.items(), key=lambda pair: (-len(pair[1]), pair[0]))


def _analysed(report: Report) -> list[LayerReport]:
    return [row for row in report.rows if not row.skipped]


def _sure(report: Report) -> list[LayerReport]:
    """Layers whose α carries a verdict."""
    return [row for row in _fitted(report) if not doubt(row, report.settings)]


def _large(report: Report) -> list[LayerReport]:
    """Layers that are not too small to say anything about their spectrum."""
    small = {finding.layer for finding in report.findings if finding.code == "LS107"}
    return [row for row in _analysed(report) if row.name not in small]


def _unasked(report: Report) -> str:
    """Why the verdicts on training were not asked for, or ""."""
    if described(report):
        return "Nothing was measured: this is a description of the model."
    if report.settings.inverse:
        return "No verdict was asked for: they speak about λ, and these spectra are of 1/λ."
    if any(row.ref.derived for row in _analysed(report)):
        return (
            "No warning among the verdicts that may be asked about differences and adapters; over-training, "
            "under-training and collapse are asked about whole weights."
        )
    return ""


def _untrained(report: Report) -> int:
    """How many of the large layers look like a random matrix, where it is most of them."""
    large = _large(report)
    shuffled = {finding.layer for finding in report.findings if finding.code == "LS103"}
    if report.settings.randomize:
        random = sum(row.name in shuffled for row in large)
    else:
        random = sum(row.metrics.get("phase") == "random-like" for row in large)
    return random if 2 * random > len(large) else 0


def _conclusion(report: Report) -> str:
    analysed = _analysed(report)
    failed = [row for row in report.rows if row.failed]
    if not analysed:
        reasons = Counter(row.skipped for row in report.rows if row.skipped and len(row.ref.shape) > 1)
        why = f": {printable(reasons.most_common(1)[0][0], 120)}" if reasons else ""
        return f"No layer could be analysed{why}."
    said = _judged(report, analysed)
    if not failed:
        return said
    names = ", ".join(printable(row.name, 48) for row in failed[:NAMED]) + (", …" if len(failed) > NAMED else "")
    broken = f"{plural(len(failed), 'layer')} could not be measured and may be broken ({names}: "
    return f"{broken}{cut(printable(failed[0].skipped), 80)}). {said}"


def _judged(report: Report, analysed: list[LayerReport]) -> str:
    grave = {code: found for code, found in by_code(report.findings).items() if found[0].severity != "info"}
    if not grave:
        return _calm(report, analysed)
    layers = {f.layer for found in grave.values() for f in found if f.layer is not None}
    told = [_told(code, found) for code, found in grave.items()]
    whole = any(f.layer is None for found in grave.values() for f in found)
    head = f"{len(layers)} of {plural(len(analysed), 'layer')}" if layers else ""
    head += (" and the model as a whole" if head else "The model as a whole") if whole else ""
    one = (len(layers) == 1 and not whole) or (whole and not layers)
    severities = {found[0].severity for found in grave.values()}
    what = " or ".join(word for key, word in (("warn", "a warning"), ("error", "an error")) if key in severities)
    return f"{head} {'has' if one else 'have'} {what}: {'; '.join(told)}."


def _calm(report: Report, analysed: list[LayerReport]) -> str:
    """What may be said where nothing warns: silence is no praise."""
    if _unasked(report):
        return _unasked(report)
    if conditioning_summary.how(report):
        return conditioning_summary.calm(report)
    sure, random, count = len(_sure(report)), _untrained(report), plural(len(analysed), "layer")
    if random:
        by = "their own shuffles (LS103)" if report.settings.randomize else "a random matrix"
        of = len(_large(report))
        head = f"{random} of {of} layers look" if of > 1 else "The layer looks"
        return f"{head} like {by}: untrained, or little learned."
    if not sure:
        small = len(analysed) - len(_large(report))
        others = f": {small} of {count} too small, no tail to trust in the others" if small else ": no tail to trust"
        why = others if small < len(analysed) else f": {'it is' if small == 1 else 'all are'} too small"
        return f"No verdict on the training of {count}{why}; none is collapsed."
    one = "the one layer whose α carries a verdict is neither over- nor under-trained"
    many = f"none of the {sure} layers whose α carries a verdict is over- or under-trained"
    return f"No warning: {one if sure == 1 else many}, and none of {count} is collapsed."


def _told(code: str, found: list[Finding]) -> str:
    names = [printable(f.layer, 48) for f in found if f.layer is not None]
    if not names:
        return f"{code} {found[0].title}"
    listed = ", ".join(names[:NAMED]) + (", …" if len(names) > NAMED else "")
    return f"{code} {found[0].title} in {plural(len(names), 'layer')} ({listed})"


def _shape(report: Report) -> str:
    if conditioning_summary.how(report):
        return conditioning_summary.shape(report)
    summary, limits = report.summary, report.settings.limits
    out = {item["name"] for item in summary["left_out"]}
    alphas = alphas_of(report.replace(rows=tuple(row for row in report.rows if row.name not in out)))
    if not alphas:
        reasons = Counter(row.absent["alpha"] for row in _analysed(report) if "alpha" in row.absent)
        why = f": {printable(reasons.most_common(1)[0][0], 120)}" if reasons else ""
        return f"No layer has an α to read{why}."
    inside = sum(limits.over_trained <= a <= limits.under_trained for a in alphas)
    if len(alphas) == 1:
        where = "inside" if limits.over_trained <= alphas[0] <= limits.under_trained else "outside"
        return f"The one α is {alphas[0]:.2f}, {where} {limits.over_trained:g} to {limits.under_trained:g}."
    text = f"The median α is {median(alphas):.2f} over {plural(len(alphas), 'fitted layer')}"
    if len(alphas) >= FEW:
        low, _, high = quantiles(alphas, n=4, method="inclusive")
        text += f" (half of them between {low:.2f} and {high:.2f})"
    text += f", {inside} of {len(alphas)} inside {limits.over_trained:g} to {limits.under_trained:g}"
    scale = None if report.settings.inverse else summary["metrics"].get("log_spectral_norm", {}).get("median")
    return text + (f"; the median scale, log₁₀ λmax, is {scale:.2f}." if scale is not None else ".")


def _rest(report: Report) -> str:
    grave = [f for f in report.findings if f.severity != "info"]
    if grave:
        worst = max(grave, key=lambda finding: _weight(report, finding, grave))
        return f"Look first at {printable(worst.where, 60)}: {cut(printable(worst.message), 160)}."
    if conditioning_summary.how(report):
        return conditioning_summary.coverage(report)
    phases = Counter(str(row.metrics["phase"]) for row in _large(report) if "phase" in row.metrics)
    if phases:
        listed = ", ".join(f"{count} {phase}" for phase, count in phases.most_common())
        return f"The spectra of the layers that are large enough show these phases of training: {listed}."
    return "Nothing in the spectra asks for action."


def _weight(report: Report, finding: Finding, grave: Sequence[Finding]) -> tuple[float, ...]:
    """By severity, then how much is wrong with the layer, embeddings last, then how far it is from its limit."""
    severity = SEVERITIES.index(finding.severity)
    if finding.layer is None or finding.layer not in report.layers:
        return severity, math.inf, 0, 0.0  # what is wrong with the whole is behind what is wrong with its layers
    layer = report.layers[finding.layer]
    together = sum(other.layer == finding.layer for other in grave)
    size = layer.metrics.get("trap_size") if finding.code == "LS104" else None
    value, limit = finding.value, finding.limit
    if size is None and isinstance(value, int | float) and isinstance(limit, int | float) and value > 0 and limit > 0:
        size = abs(math.log10(value) - math.log10(limit))
    return severity, together, layer.ref.kind != "embedding", float(size) if isinstance(size, int | float) else 0.0
