"""What a diff says in three sentences: how much is identical, what kind of update it is, and where it is largest."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from layerscope.records.layers import LayerReport
from layerscope.records.report import Report
from layerscope.rules.model_changes import Changes, block, role
from layerscope.text import plural, printable

MIN_TIMES = 2.0  # change of a role or block relative to the rest that is worth a sentence
MAX_NAMED_BLOCKS = 4
MAX_NAMED_ROLES = 3


def diff_options(report: Report) -> Mapping[str, Any]:
    """Return what was compared; empty if the report is no diff."""
    options: Mapping[str, Any] = report.meta.get("diff", {})
    return options


def percent(share: float) -> str:
    """Format a share as a percentage: two digits below 10 %, whole numbers above."""
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.2g} %"


def diff_sentences(report: Report) -> tuple[str, str, str]:
    """Return (what is identical, what kind of update it is, where it is largest)."""
    changes = Changes(report.rows)
    return _describe_unchanged(changes, report.rows), _describe_kind(changes), _describe_place(changes)


def diff_certainty(report: Report) -> list[str]:
    """Describe what a diff cannot show, or the losses that were measured."""
    sentences = ["A change is counted if it exceeds what rounding to the coarser of the two number formats makes."]
    difference = diff_options(report).get("tokenizers")
    if difference:
        sentences.append(f"Check that both models get the same tokens: {printable(str(difference), 200)}.")
    losses = diff_options(report).get("losses")
    if losses:
        sentences += loss_sentences(losses)
    else:
        sentences.append(
            "Overfitting cannot be seen in weights: compare the loss of both models on training and held-out data "
            "(--model, --data and --held-out)."
        )
    left_out = [row for row in report.rows if row.skipped and "relative_change" not in row.parts["weight"].facts]
    reasons = Counter(row.skipped for row in left_out if row.ref.kind != "integer")
    if reasons:
        reason, count = reasons.most_common(1)[0]
        sentences.append(f"{plural(sum(reasons.values()), 'tensor')} were not compared ({count}: {reason[:120]}).")
    return sentences


def loss_sentences(losses: Mapping[str, Any]) -> list[str]:
    """Describe the losses of base and tuned model on each data set, and the blocks that matter most."""
    sentences = []
    for data, result in losses.items():
        change, error = result["change"]["loss"], result["change"]["error"]
        margin = f" ± {error:.2g}" if error is not None else ""
        base, tuned = result["base"]["loss"], result["tuned"]["loss"]
        sentences.append(
            f"On {printable(data, 40)}, the loss went from {base:.4g} to {tuned:.4g} ({change:+.3g}{margin})."
        )
        blocks = result.get("blocks", {})
        if blocks:
            name = max(blocks, key=lambda label: abs(blocks[label]["loss"]))
            effect, error = blocks[name]["loss"], blocks[name]["error"]
            margin = f" ± {error:.2g}" if error is not None else ""
            sentences.append(f"Putting back {name} alone changes it most: {effect:+.3g}{margin}.")
    return sentences


def _describe_unchanged(changes: Changes, rows: Sequence[LayerReport]) -> str:
    compared = len(changes.compared)
    if not compared:
        return "No tensor could be compared."
    identical = sum(changes.number(row, "relative_change") == 0 for row in changes.unchanged)
    rounded = len(changes.unchanged) - identical
    text = f"{identical} of {plural(compared, 'tensor')} are identical"
    text += f", {rounded} differ by no more than rounding" if rounded else ""
    failed = sum(row.failed for row in rows)
    text += f", {failed} could not be compared" if failed else ""
    return f"{text}, and {len(changes.changed)} changed."


def _describe_kind(changes: Changes) -> str:
    if not changes.changed:
        return "The two are one model."
    adapter = [int(rank) for row in changes.changed if (rank := changes.number(row, "adapter_rank"))]
    if adapter:
        ranks = ", ".join(str(rank) for rank in sorted(set(adapter)))
        used = sorted(int(changes.number(row, "rank_95") or 0) for row in changes.changed)
        return (
            f"It is an adapter of rank {ranks}; the median module needs {used[len(used) // 2]} for 95 % of its update."
        )
    exact = Counter(int(rank) for row in changes.changed if (rank := changes.number(row, "exact_rank")))
    if exact:
        low, high = min(exact), max(exact)
        ranks = f"rank {low}" if low == high else f"rank {low} to {high}"
        count = plural(exact.total(), "tensor")
        return f"The update has {ranks} in {count} ({_name_roles(changes, 'exact_rank')}): a merged LoRA."
    ranked = [row for row in changes.changed if "rank_95" in row.parts["weight"].facts]
    if not ranked:
        return f"The median change is {percent(changes.usual_change(changes.changed))} of the weights' norm."
    shares = sorted(
        (changes.number(row, "rank_95") or 0) / max(1, row.spectrum.m) for row in ranked if row.spectrum is not None
    )
    middle = 100 * shares[len(shares) // 2]
    return (
        f"The update is of full rank: the median matrix needs {middle:.0f} % of its directions for 95 % of the change."
    )


def _name_roles(changes: Changes, fact: str) -> str:
    """Name the roles of the tensors that have a number, the most frequent first."""
    names = [name for name, _ in Counter(role(r) for r in changes.changed if changes.number(r, fact)).most_common()]
    return ", ".join(names[:MAX_NAMED_ROLES]) + (", …" if len(names) > MAX_NAMED_ROLES else "")


def _describe_place(changes: Changes) -> str:
    weights = [row for row in changes.changed if row.ref.kind not in ("norm", "bias", "buffer")]
    if len(weights) < 2:
        if weights:
            return f"It is in a single weight, {printable(weights[0].name, 80)}."
        return "Only norms and biases changed." if changes.changed else "If a change was expected, check the files."
    by_role: dict[str, list[LayerReport]] = defaultdict(list)
    for row in weights:
        by_role[role(row)].append(row)
    best = max(by_role, key=lambda name: changes.usual_change(by_role[name]))
    inside, outside = by_role[best], [row for row in weights if role(row) != best]
    if not outside:
        return _describe_blocks(changes, inside, best)
    times = changes.usual_change(inside) / max(changes.usual_change(outside), 1e-300)
    if times < MIN_TIMES:
        usual = percent(changes.usual_change(weights))
        return f"The {len(by_role)} roles that changed did so alike: {usual} of the norm in the median."
    return f"The role {best} changed most: {times:.1f} times as much as the rest."


def _describe_blocks(changes: Changes, rows: Sequence[LayerReport], name: str) -> str:
    usual = changes.usual_change(rows)
    high = sorted(
        {
            number
            for row in rows
            if (number := block(row)) is not None
            and (changes.number(row, "relative_change") or 0.0) >= MIN_TIMES * usual
        }
    )
    if not high:
        return f"Only the role {name} changed, by {percent(usual)} of the norm in the median."
    named = ", ".join(map(str, high[:MAX_NAMED_BLOCKS])) + (", …" if len(high) > MAX_NAMED_BLOCKS else "")
    word = "block" if len(high) == 1 else "blocks"
    return f"Only the role {name} changed, most in {word} {named}."
