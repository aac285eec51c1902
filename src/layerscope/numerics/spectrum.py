"""What is measured of a matrix: its eigenvalues, and how its eigenvectors are spread.

λ = σ² always, of a matrix W as stored, with no 1/N normalization.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from layerscope.array_types import Floats


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Eigenvalues of WᵀW (or of a covariance), pooled over the k matrices of a layer."""

    evals: Floats  # (r,) ascending, unit of W²
    n: int  # larger side of one matrix
    m: int  # smaller side
    k: int  # number of matrices pooled
    floor: float  # eigenvalues at or below are zero to the precision of the weights
    complete: bool = True  # all k·m eigenvalues are here; not of a low-rank product, nor of an inverse

    @property
    def live(self) -> Floats:
        """The eigenvalues above the floor, ascending."""
        return self.evals[self.evals.searchsorted(self.floor, side="right") :]


@dataclass(frozen=True)
class Mode:
    """One eigenvector v of WᵀW, told by how it is spread over its m entries."""

    slice: int  # matrix of the stack
    value: float  # eigenvalue, W²
    entropy: float  # −Σp ln p of the histogram of |v| − mean|v| in 100 bins
    localization: float  # ‖v‖₁/‖v‖∞: 1 on a single entry, m when even
    participation: float  # ‖v‖₂/‖v‖₄, (Σv⁴)^−¼: 1 on a single entry, m^¼ when even; 0 where v was not looked at
    edge: float = 0.0  # of a trap: what it lies beyond, W²
    entry: tuple[int, ...] = ()  # index in the layer's tensor of the weight that carries most of it
    weight: float = 0.0  # that weight
    share: float = 0.0  # of the singular value that this weight carries
