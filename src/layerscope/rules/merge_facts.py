"""What the rules about a merge use: the task vectors of the models, and losses where they were measured."""

from __future__ import annotations

from itertools import combinations
from typing import NamedTuple

from layerscope.records.merge_check import MergeCheck


class Merge(NamedTuple):
    """A merge check, as rules see it."""

    check: MergeCheck

    def pairs(self) -> list[tuple[str, str, float]]:
        """Return the cosine of the task vectors of every pair that has one."""
        cosines = self.check.whole.cosines
        return [
            (self.check.names[i], self.check.names[j], value)
            for i, j in combinations(range(len(self.check.names)), 2)
            if (value := cosines[i][j]) is not None
        ]

    @property
    def unchanged(self) -> list[str]:
        """Return the models that are their base up to rounding."""
        return [name for name, norm in zip(self.check.names, self.check.whole.norms, strict=True) if norm == 0]
