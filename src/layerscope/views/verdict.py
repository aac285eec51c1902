"""A report in three sentences, and how sure they are: what heads the page, the comment and the summary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import median, quantiles

from layerscope.comparison import alphas_of
from layerscope.report import Report
from layerscope.rules import doubt
from layerscope.types import SEVERITIES, Finding, LayerReport
from layerscope.views.text import cut, plural, printable

FEW = 4  # α below which no quartiles are told
NAMED = 2  # layers that a sentence names


def gravity(findings: Sequence[Finding]) -> str:
    """The gravest severity: "error", "warn", "info", or "" without findings."""
    return max((f.severity for f in findings), key=SEVERITIES.index, default="")


def by_code(findings: Sequence[Finding]) -> dict[str, list[Finding]]:
    """Findings by their code, the gravest and then the most frequent first."""
    groups: dict[str, list[Finding]] = {}
    for finding in findings:
        groups.setdefault(finding.code, []).append(finding)

    def order(code: str) -> tuple[int, int, str]:
        return -SEVERITIES.index(groups[code][0].severity), -len(groups[code]), code

    return {code: groups[code] for code in sorted(groups, key=order)}


def sentences(report: Report) -> tuple[str, str, str]:
    """(what was concluded, what shape the layers have, what about the rest)."""
    return _conclusion(report), _shape(report), _rest(report)


def certainty(report: Report) -> list[str]:
    """How sure all of this is: what carries a verdict, what the intervals are, what was not looked at."""
    settings = report.settings
    fitted = [row for row in report.rows if "alpha" in row.metrics and "power_law" in row.parts["weight"].fits]
    doubts = Counter(filter(None, (doubt(row, settings) for row in fitted)))
    said = []
    if fitted:
        sure = len(fitted) - doubts.total()
        why = ", ".join(f"{count} {reason}" for reason, count in doubts.most_common())
        said.append(f"{sure} of {len(fitted)} α can carry a verdict" + (f"; the others cannot: {why}." if why else "."))
    if "bootstrap" in settings.fits:
        said.append(f"Intervals are {settings.confidence:.0%} bootstrap intervals; rival distributions were compared.")
    elif fitted:
        said.append(
            f"Intervals are {settings.confidence:.0%} intervals by formula; they were not bootstrapped and no rival "
            "distribution was compared (--evidence does both)."
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


def _conclusion(report: Report) -> str:
    analysed = [row for row in report.rows if not row.skipped]
    if not analysed:
        reasons = Counter(row.skipped for row in report.rows if row.skipped and len(row.ref.shape) > 1)
        why = f": {printable(reasons.most_common(1)[0][0], 120)}" if reasons else ""
        return f"No layer could be analysed{why}."
    grave = {code: found for code, found in by_code(report.findings).items() if found[0].severity != "info"}
    layers = {f.layer for found in grave.values() for f in found if f.layer is not None}
    if not grave:
        return f"None of {plural(len(analysed), 'layer')} is over-trained, under-trained or collapsed on this evidence."
    told = [_told(code, found) for code, found in grave.items()]
    whole = any(f.layer is None for found in grave.values() for f in found)
    head = f"{len(layers)} of {plural(len(analysed), 'layer')}" if layers else ""
    head += (" and the model as a whole" if head else "The model as a whole") if whole else ""
    one = (len(layers) == 1 and not whole) or (whole and not layers)
    severities = {found[0].severity for found in grave.values()}
    what = " or ".join(word for key, word in (("warn", "a warning"), ("error", "an error")) if key in severities)
    return f"{head} {'has' if one else 'have'} {what}: {'; '.join(told)}."


def _told(code: str, found: list[Finding]) -> str:
    names = [printable(f.layer, 48) for f in found if f.layer is not None]
    if not names:
        return f"{code} {found[0].title}"
    listed = ", ".join(names[:NAMED]) + (", …" if len(names) > NAMED else "")
    return f"{code} {found[0].title} in {plural(len(names), 'layer')} ({listed})"


def _shape(report: Report) -> str:
    summary, limits = report.summary, report.settings.limits
    out = {item["name"] for item in summary["left_out"]}
    alphas = alphas_of(report.replace(rows=tuple(row for row in report.rows if row.name not in out)))
    if not alphas:
        return "No layer has an α: the layers are too small, or their spectra have no tail to fit."
    inside = sum(limits.over_trained <= a <= limits.under_trained for a in alphas)
    text = f"The median α is {median(alphas):.2f} over {plural(len(alphas), 'fitted layer')}"
    if len(alphas) >= FEW:
        low, _, high = quantiles(alphas, n=4, method="inclusive")
        text += f" (half of them between {low:.2f} and {high:.2f})"
    text += f", {inside} of {len(alphas)} inside {limits.over_trained:g} to {limits.under_trained:g}"
    scale = summary["metrics"].get("log_spectral_norm", {}).get("median")
    return text + (f"; the median scale, log₁₀ λmax, is {scale:.2f}." if scale is not None else ".")


def _rest(report: Report) -> str:
    failed = [row for row in report.rows if row.failed]
    if failed:
        names = ", ".join(printable(row.name, 48) for row in failed[:NAMED]) + (", …" if len(failed) > NAMED else "")
        return f"{plural(len(failed), 'layer')} could not be measured and may be broken: {names}."
    grave = [f for f in report.findings if f.severity != "info"]
    if grave:
        worst = max(grave, key=lambda f: SEVERITIES.index(f.severity))
        return f"Look first at {printable(worst.where, 60)}: {cut(printable(worst.message), 160)}."
    phases = Counter(str(row.metrics["phase"]) for row in report.rows if "phase" in row.metrics)
    if phases:
        listed = ", ".join(f"{count} {phase}" for phase, count in phases.most_common())
        return f"The spectra show these phases of training: {listed}."
    return "Nothing in the spectra asks for action."
