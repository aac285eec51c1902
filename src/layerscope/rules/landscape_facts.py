"""The facts that rules about parameter space use: barriers, distances, the path of a run, and slopes at a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

MIN_REMOVED_SHARE = 0.8  # share of a barrier that a treatment must remove to be named its cause


class Pair(NamedTuple):
    """Two models and the loss barriers between them, one per way of measuring ("recompute", "aligned", …).

    A barrier is infinite if a point of the line has no finite loss.
    """

    names: tuple[str, str]
    barriers: Mapping[str, float]
    error: float = 0.0  # standard error of the first barrier
    holes: int = 0  # points of the line without a finite loss


class Pairs(NamedTuple):
    """All pairs of the compared models."""

    all_pairs: tuple[Pair, ...]
    first: str  # the way of measuring that decides whether there is a barrier
    tolerance: float  # barriers up to this value count as zero
    mean: float  # loss of the average of all models
    best: float  # lowest loss of a single model
    unmatched: tuple[str, ...] = ()  # why some hidden units could not be matched

    @property
    def apart(self) -> list[Pair]:
        """The pairs with a barrier above the tolerance."""
        return [pair for pair in self.all_pairs if not pair.barriers[self.first] <= self.tolerance]

    def is_removed(self, pair: Pair, by: str, of: str) -> bool:
        """Return whether measuring ``by`` leaves no barrier, or at most a fifth of the one measured ``of``."""
        if by not in pair.barriers or of not in pair.barriers or not pair.barriers[of] > self.tolerance:
            return False
        return pair.barriers[by] <= max(self.tolerance, (1 - MIN_REMOVED_SHARE) * pair.barriers[of])


class Apart(NamedTuple):
    """The distance between two models."""

    names: tuple[str, str]
    symmetric: float  # ‖a − b‖/√(‖a‖² + ‖b‖²): 0 for equal models, 1 for unrelated ones
    length: float  # share of the squared distance that comes from different norms
    alike: float  # share of tensors more similar than independent ones; NaN if all are too small


class Route(NamedTuple):
    """A training run drawn on a plane."""

    shares: tuple[float, float]  # shares of the path's variance along the two axes of the plane
    walk: tuple[float, float]  # the same shares for a random walk
    gap: float = 0.0  # largest |loss of a checkpoint − loss at its projection onto the plane|; 0 if no loss is known
    spread: float = 0.0  # range of the checkpoints' losses


class Slope(NamedTuple):
    """The gradient of a model, and the step with which its sharpness was measured."""

    gradient: float  # norm ‖g‖ of the gradient
    radius: float  # length of the step along the gradient
    rise: float  # increase of the loss after the step
