"""Rule LS504: one tensor changed much more than the others of its role."""

from __future__ import annotations

from collections.abc import Iterator

from layerscope.records.findings import Verdict
from layerscope.rules import rule
from layerscope.rules.model_changes import Changes
from layerscope.settings import Settings

TIMES = 10.0  # the change of a tensor over the median of its role
MIN_SIBLINGS = 4  # changed tensors of one role


@rule("LS504", "changed more than its siblings", severity="warn", needs=(), over="diff", ref="layerscope diff")
def changed_most(changes: Changes, settings: Settings) -> Iterator[tuple[str | None, Verdict]]:
    """A tensor changed ten times more than the median of the tensors with the same role.

    **What it means.** A layer was replaced, re-initialized or damaged, or has another learning rate.

    **Evidence.** ‖W − W₀‖/‖W₀‖ of the tensor, and the median over at least four changed tensors of its role.

    **Caveats.** Training on a few blocks on purpose looks the same.

    **What to try.** Compare with an earlier checkpoint, and check the learning rates of the parameter groups.
    """
    for name, rows in changes.by_role().items():
        if len(rows) < MIN_SIBLINGS:
            continue
        usual = changes.usual_change(rows)
        for row in rows:
            change = row.parts["weight"].facts["relative_change"]
            if usual > 0 and change >= TIMES * usual:
                yield (
                    row.name,
                    Verdict(
                        f"It changed by {change:.2g}, {change / usual:.0f} times the median of {len(rows)} tensors "
                        f"with the "
                        f"role {name} ({usual:.2g}). Compare with an earlier checkpoint, and check its learning rate.",
                        change,
                        TIMES * usual,
                    ),
                )
