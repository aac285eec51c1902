"""What verdicts about parameter space see: barriers between models, distances, paths of runs, slopes of peaks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

MIN_REMOVED_SHARE = 0.8  # of a barrier that must go for what removed it to be named its cause


class Pair(NamedTuple):
    """Two models and their barriers by way: "recompute", "interpolate", "aligned", … ; infinite across a hole."""

    names: tuple[str, str]
    barriers: Mapping[str, float]
    error: float = 0.0  # standard error of the first of them
    holes: int = 0  # points of its line without a value


class Pairs(NamedTuple):
    """All pairs of some models."""

    all_pairs: tuple[Pair, ...]
    first: str  # the way that decides
    tolerance: float  # barrier that still is none
    mean: float  # loss of the mean of all models
    best: float  # least loss of one of them

    @property
    def apart(self) -> list[Pair]:
        """Those with a barrier."""
        return [pair for pair in self.all_pairs if not pair.barriers[self.first] <= self.tolerance]

    def is_removed(self, pair: Pair, by: str, of: str) -> bool:
        """Does one way leave no barrier, or at most a fifth of it, where another has one?"""
        if by not in pair.barriers or of not in pair.barriers or not pair.barriers[of] > self.tolerance:
            return False
        return pair.barriers[by] <= max(self.tolerance, (1 - MIN_REMOVED_SHARE) * pair.barriers[of])


class Apart(NamedTuple):
    """How far two models are from each other."""

    names: tuple[str, str]
    symmetric: float  # ‖a − b‖/√(‖a‖² + ‖b‖²): 0 for equal models, 1 for unrelated ones
    length: float  # share of the squared distance that is a difference of lengths
    alike: float  # share of the weights whose cosine is above what independent ones have; NaN where none can tell


class Route(NamedTuple):
    """A run on a plane."""

    shares: tuple[float, float]  # of its variance that the plane's directions explain
    walk: tuple[float, float]  # what those of a random walk would
    gap: float = 0.0  # largest |loss of a checkpoint − loss of its place on the plane|; 0 where no loss is known
    spread: float = 0.0  # of the checkpoints' losses


class Slope(NamedTuple):
    """A model and the step by which its sharpness was measured."""

    gradient: float  # ‖g‖
    radius: float  # of the step along it
    rise: float  # of the loss after the step
