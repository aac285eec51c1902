"""Records of a matrix's eigenvalues (spectrum) and of its eigenvectors (modes).

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
    n: int  # longer side of one matrix
    m: int  # shorter side of one matrix
    k: int  # number of matrices pooled
    floor: float  # eigenvalues at or below it are zero within the precision of the weights
    complete: bool = True  # whether all k·m eigenvalues are included; False for low-rank products and inverses

    @property
    def live(self) -> Floats:
        """The eigenvalues above the floor, ascending."""
        return self.evals[self.evals.searchsorted(self.floor, side="right") :]


@dataclass(frozen=True)
class Mode:
    """One eigenvector v of WᵀW and its localization, i.e. how evenly it is spread over its m entries."""

    slice: int  # index of the matrix in the stack
    value: float  # eigenvalue, unit of W²
    entropy: float  # −Σp ln p of the histogram of |v| − mean|v| in 100 bins
    localization: float  # ‖v‖₁/‖v‖∞: 1 if a single entry is nonzero, m if all are equal
    participation: float  # ‖v‖₂/‖v‖₄ = (Σv⁴)^−¼: 1 for a single entry, m^¼ if all are equal; 0 if not measured
    edge: float = 0.0  # of a correlation trap: edge of the random bulk, unit of W²
    entry: tuple[int, ...] = ()  # index in the layer's tensor of the weight that contributes most
    weight: float = 0.0  # value of that weight
    share: float = 0.0  # share of the singular value that this weight contributes
