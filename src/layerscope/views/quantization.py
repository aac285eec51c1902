"""A quantization audit and a plan as text, JSON, sentences and pictures."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from statistics import median
from typing import Any

from rich.console import Console
from rich.text import Text

from layerscope.persistence.plain_json import plain
from layerscope.records.quantization import QuantizationAudit, QuantizationPlan, QuantizedTensor
from layerscope.text import plural, printable
from layerscope.views import aligned_columns, table
from layerscope.views.aligned_columns import Cell
from layerscope.views.plots.marks import Axis, Cells, Line, Picture, Points

NO_DATA = (
    "Which tensors cost quality cannot be seen in weights: no error or statistic of them follows the damage. "
    "Give 40 unlabeled examples: --data texts.txt, or --model M:NET --data M:BATCHES."
)
MAX_NAME_CHARS = 48
FEW = 5  # tensors that are named
FULL_BITS = 16.0  # per weight of a tensor that is not quantized
SORTS = ("damage", "error", "model")


def audit_sentences(audit: QuantizationAudit) -> list[str]:
    """Describe sizes and errors, what the quantization costs, and what stays unknown."""
    compared = audit.compared
    errors = [t.numbers["relative_error"] for t in compared if "relative_error" in t.numbers]
    formats: dict[str, int] = defaultdict(int)
    for tensor in compared:
        formats[tensor.stored_as] += 1
    listed = ", ".join(f"{count} {printable(name, 40)}" for name, count in sorted(formats.items(), key=lambda x: -x[1]))
    sentences = [f"{plural(len(compared), 'tensor')} at {audit.bits:.2f} bits per weight ({listed})."]
    if errors:
        sentences.append(f"Relative errors: median {100 * median(errors):.2g} %, largest {100 * max(errors):.2g} %.")
    if not audit.by_damage():
        return [*sentences, NO_DATA]
    unit = audit.meta.get("unit", "")
    total = f"Predicted damage of all tensors: {audit.together['predicted']:.3g} {unit}"
    if "measured" in audit.together:
        error = audit.together.get("measured_error", 0.0)
        total += f"; measured on held-out examples: {audit.together['measured']:.3g} ± {error:.1g}"
    return [f"{total}.", _describe_largest(audit), *sentences]


def _describe_largest(audit: QuantizationAudit) -> str:
    """Name the tensors that matter most, and what keeping them as they were costs and removes."""
    ranked = audit.by_damage()
    few, total = ranked[:FEW], sum(tensor.damage or 0.0 for tensor in ranked)
    share = sum(tensor.damage or 0.0 for tensor in few) / total if total > 0 else 0.0
    size = sum(tensor.bits * tensor.entries for tensor in audit.compared)
    growth = sum((FULL_BITS - tensor.bits) * tensor.entries for tensor in few) / max(size, 1.0)
    names = ", ".join(printable(tensor.name, MAX_NAME_CHARS) for tensor in few)
    return (
        f"{100 * share:.0f} % of it comes from {plural(len(few), 'tensor')}: {names}. Keeping them in 16 bits would "
        f"remove that share and make the file {100 * growth:.0f} % larger."
    )


def plan_sentences(plan: QuantizationPlan) -> list[str]:
    """Describe the plan, and what it gains over the uniform format of its size."""
    unit = plan.meta.get("unit", "")
    size = plan.plan.bits * plan.entries / 8e9
    sentences = [
        f"{plural(len(plan.tensors), 'tensor')} at {plan.plan.bits:.3g} bits per weight, {size:.3g} GB: predicted "
        f"damage "
        f"{plan.plan.damage:.3g} {unit}."
    ]
    smaller = [point for point in plan.uniform if point.bits <= plan.plan.bits * 1.02]
    if smaller:
        rival = min(smaller, key=lambda point: point.damage)
        gain = rival.damage / plan.plan.damage if plan.plan.damage > 0 else float("inf")
        sentences.append(
            f"The best single format of at most this size, {rival.name} ({rival.bits:.3g} bits), has "
            f"{rival.damage:.3g}: "
            f"{gain:.2g} times as much."
        )
    if plan.plan.measured is not None:
        sentences.append(
            f"Measured on examples that did not make the plan: {plan.plan.measured:.3g} ± "
            f"{plan.plan.measured_error or 0:.1g}."
        )
    else:
        sentences.append("These are predictions; --measure compares them with what is measured on held-out examples.")
    return sentences


def audit_text(audit: QuantizationAudit) -> str:
    """Return the text that a terminal shows."""
    return table.capture_text(lambda console: print_audit(audit, console))


def plan_text(plan: QuantizationPlan) -> str:
    """Return the text that a terminal shows."""
    return table.capture_text(lambda console: print_plan(plan, console))


def print_audit(audit: QuantizationAudit, console: Console, *, top: int = 10, sort: str = "") -> None:
    """Print sentences, a line per role, the first tensors in an order, findings and what was not compared."""
    title = f"{printable(audit.quantized, 200)} against {printable(audit.base, 200)}"
    console.print(Text(title, style="bold"))
    for sentence in audit_sentences(audit):
        console.print(Text(sentence))
    console.print()
    _print_roles(audit, console)
    console.print()
    heads, rows = audit_rows(audit, top, sort)
    aligned_columns.print_rows(console, heads, [[Cell(cell) for cell in row] for row in rows], {0}, {0})
    for finding in audit.findings:
        where = f"  {printable(finding.layer, 80)}" if finding.layer else ""
        console.print(Text.assemble("\n", (f"{finding.code} {finding.title}", table.STYLES[finding.severity]), where))
        console.print(Text(f"  {printable(finding.message, 800)}"))
    skipped = [t for t in audit.tensors if t.skipped]
    if skipped:
        console.print(Text(f"\n{plural(len(skipped), 'tensor')} not compared, the first:", style="dim"))
        for tensor in skipped[:3]:
            console.print(Text(f"  {printable(tensor.name, 60)}: {printable(tensor.skipped, 120)}", style="dim"))


def _print_roles(audit: QuantizationAudit, console: Console) -> None:
    groups: dict[str, list[QuantizedTensor]] = defaultdict(list)
    for tensor in audit.compared:
        groups[tensor.role].append(tensor)
    total = sum(t.damage or 0.0 for t in audit.tensors)
    rows = []
    for role, tensors in groups.items():
        entries = sum(t.entries for t in tensors)
        errors = [t.numbers["relative_error"] for t in tensors if "relative_error" in t.numbers]
        share = sum(t.damage or 0.0 for t in tensors) / total if total > 0 else None
        rows.append([
            role, str(len(tensors)), f"{sum(t.bits * t.entries for t in tensors) / max(1, entries):.2f}",
            f"{100 * median(errors):.2g} %" if errors else "–", "–" if share is None else f"{100 * share:.0f} %",
        ])  # fmt: skip
    heads = ["role", "tensors", "bits", "median error", "share of damage"]
    aligned_columns.print_rows(console, heads, [[Cell(cell) for cell in row] for row in rows], {0}, {0})


def audit_rows(audit: QuantizationAudit, top: int | None = None, sort: str = "") -> tuple[list[str], list[list[str]]]:
    """Return the heads and cells of the table of tensors."""
    sort = sort or ("damage" if audit.by_damage() else "error")
    tensors = list(audit.compared)
    if sort == "damage":
        tensors.sort(key=lambda t: -(t.damage or 0.0))
    elif sort == "error":
        tensors.sort(key=lambda t: -t.numbers.get("relative_error", float("inf")))
    has_damage, is_measured = bool(audit.by_damage()), any(t.measured is not None for t in tensors)
    heads = ["tensor", "stored as", "bits", "error", "SNR dB"]
    heads += ["damage"] if has_damage else []
    heads += ["measured"] if is_measured else []
    rows = []
    for t in tensors[:top]:
        error, ratio = t.numbers.get("relative_error"), t.numbers.get("snr_db")
        row = [printable(t.name, MAX_NAME_CHARS), printable(t.stored_as, 24), f"{t.bits:.2f}",
               "–" if error is None else f"{100 * error:.2g} %", "–" if ratio is None else f"{ratio:.1f}"]  # fmt: skip
        row += [_with_error(t.damage, t.damage_error)] if has_damage else []
        row += [_with_error(t.measured, t.measured_error)] if is_measured else []
        rows.append(row)
    return heads, rows


def print_plan(plan: QuantizationPlan, console: Console, *, top: int = 10) -> None:
    """Print sentences, the plan beside uniform formats, and the tensors that get the most bits."""
    console.print(Text(f"Plan for {printable(plan.model, 200)}", style="bold"))
    for sentence in plan_sentences(plan):
        console.print(Text(sentence))
    console.print()
    is_measured = plan.plan.measured is not None
    rows = [
        [point.name, f"{point.bits:.3g}", f"{point.bits * plan.entries / 8e9:.3g}", f"{point.damage:.3g}",
         *([_with_error(point.measured, point.measured_error)] if is_measured else [])]
        for point in (plan.plan, *plan.uniform)
    ]  # fmt: skip
    heads = ["all tensors in", "bits", "GB", "damage", *(["measured"] if is_measured else [])]
    aligned_columns.print_rows(console, heads, [[Cell(cell) for cell in row] for row in rows], {0}, {0})
    console.print()
    heads, rows = plan_rows(plan, top)
    aligned_columns.print_rows(console, heads, [[Cell(cell) for cell in row] for row in rows], {0}, {0})


def plan_rows(plan: QuantizationPlan, top: int | None = None) -> tuple[list[str], list[list[str]]]:
    """Return the tensors of a plan, those with the most bits first, then by damage."""
    bits = plan.bits_by_format
    tensors = sorted(plan.tensors, key=lambda t: (-bits[t.chosen], -t.damages[t.chosen]))
    rows = [
        [printable(t.name, MAX_NAME_CHARS), t.role, t.chosen, f"{bits[t.chosen]:.3g}",
         _with_error(t.damages[t.chosen], t.errors[t.chosen])]
        for t in tensors[:top]
    ]  # fmt: skip
    return ["tensor", "role", "format", "bits", "damage"], rows


def _with_error(value: float | None, error: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.2g}" + (f" ± {error:.1g}" if error else "")


def to_json(record: QuantizationAudit | QuantizationPlan) -> str:
    """Return a result as JSON."""
    return json.dumps(plain(record), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def audit_picture(audit: QuantizationAudit) -> Picture:
    """Return the damage, or without data the relative error, by block and role."""
    has_damage = bool(audit.by_damage())
    cells: dict[tuple[str, str], float] = defaultdict(float)
    roles: list[str] = []
    blocks: dict[str, int] = {}
    for t in audit.compared:
        value = (t.damage or 0.0) if has_damage else t.numbers.get("relative_error", 0.0)
        column = "–" if t.block is None else str(t.block)
        blocks.setdefault(column, -1 if t.block is None else t.block)
        if t.role not in roles:
            roles.append(t.role)
        cells[t.role, column] = cells[t.role, column] + value if has_damage else max(cells[t.role, column], value)
    whole = sum(cells.values()) if has_damage else 1.0
    cells = defaultdict(float, {key: 100 * value / whole for key, value in cells.items()}) if whole > 0 else cells
    columns = sorted(blocks, key=blocks.__getitem__)
    values = tuple(tuple(cells.get((role, column), float("nan")) for column in columns) for role in roles)
    label = "share of the predicted damage, %" if has_damage else "‖Q − W‖F/‖W‖F, %, the largest of a cell"
    return Picture(
        "damage_by_block",
        "Damage by block and role" if has_damage else "Error by block and role",
        plural(len(audit.compared), "tensor"),
        Axis("block", "category", tuple(columns)),
        (Axis("", "category", tuple(roles)),),
        (Cells(tone="ink", values=values, most=max(cells.values(), default=1.0) or 1.0, label=label, fmt=".2g"),),
    )


def plan_picture(plan: QuantizationPlan) -> Picture:
    """Return size against predicted damage: the best plans, the uniform formats, and the chosen plan."""

    def xy(points: Sequence[Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
        kept = [point for point in points if point.damage > 0]
        return tuple(p.bits for p in kept), tuple(p.damage for p in kept)

    frontier, uniform, chosen = xy(plan.frontier), xy(plan.uniform), xy([plan.plan])
    return Picture(
        "size_and_damage",
        "Size against predicted damage",
        f"{plural(len(plan.tensors), 'tensor')}; below is better",
        Axis("bits per weight"),
        (Axis(f"predicted damage, {plan.meta.get('unit', '')}", "log"),),
        (
            Line(tone="ink", x=frontier[0], y=frontier[1], label="best plans"),
            Points(tone="quiet", x=uniform[0], y=uniform[1], label="all tensors in one format"),
            Points(tone="good", x=chosen[0], y=chosen[1], label="this plan"),
        ),
    )
