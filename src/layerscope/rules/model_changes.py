"""What the rules about a diff use: every pair of tensors, by whether and how it changed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property
from statistics import median

from layerscope.records.layers import LayerReport
from layerscope.tensor_roles import block_of, role_of

MIN_MATRICES = 2  # fewest matrices that say whether two models are related
MAX_COSINE = 0.5  # median cosine of W and W₀ of unrelated models: independent ones have 0, fine-tuned ones above 0.9


class Changes:
    """All rows of a diff."""

    def __init__(self, rows: Sequence[LayerReport]) -> None:
        self.rows = rows
        self.compared = [row for row in rows if "relative_change" in row.parts["weight"].facts]
        self.changed = [row for row in self.compared if not row.skipped]
        self.unchanged = [row for row in self.compared if row.skipped]

    def number(self, row: LayerReport, name: str) -> float | None:
        """Return a number of one pair, or None if it was not measured."""
        return row.parts["weight"].facts.get(name)

    def by_role(self) -> dict[str, list[LayerReport]]:
        """Return the changed tensors of each role."""
        groups: dict[str, list[LayerReport]] = defaultdict(list)
        for row in self.changed:
            groups[role(row)].append(row)
        return dict(groups)

    @cached_property
    def cosines(self) -> list[float]:
        """The cosine of W and W₀ of every weight matrix that changed."""
        return [
            cosine
            for row in self.changed
            if row.spectrum is not None and (cosine := self.number(row, "weight_cosine")) is not None
        ]

    @property
    def is_another_model(self) -> bool:
        """Whether the weights point in other directions than those of the base."""
        return len(self.cosines) >= MIN_MATRICES and median(self.cosines) < MAX_COSINE

    def usual_change(self, rows: Sequence[LayerReport]) -> float:
        """Return the median relative change of some tensors."""
        return median(row.parts["weight"].facts["relative_change"] for row in rows)


def role(row: LayerReport) -> str:
    """Return the role of a tensor: attention query, MLP up, norm, …"""
    ref = row.ref
    return role_of(ref.name, ref.kind, ref.shape, ref.axes, ref.groups)


def block(row: LayerReport) -> int | None:
    """Return the number of the block of a tensor."""
    return block_of(row.ref.name)
