"""Extreme eigenvalues, trace and density of a symmetric matrix that is given only as a matrix–vector product.

The largest eigenvalues come from block Lanczos. The block is as wide as the number of requested eigenvalues, so that
multiple eigenvalues are all found; full reorthogonalization prevents duplicates. Each eigenvalue θ is returned with its
residual ‖Av − θv‖: an eigenvalue of A lies within this distance of θ. Trace and density use random ±1 probe vectors z:
the mean of zᵀAz is the trace (Hutchinson 1990), and m Lanczos steps from z give nodes and weights of a Gauss quadrature
of the density (Golub & Welsch 1969; Ubaru, Chen & Saad 2017). Vectors are NumPy arrays or tensors and stay on their
device; coefficients are float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from layerscope.array_types import Floats

Product = Callable[[Any], Any]
MIN_RELATIVE_LENGTH = 1e-5  # share of a vector's length below which the part orthogonal to the basis is rounding


class Extremes(NamedTuple):
    """The largest eigenvalues, and an upper bound of the smallest."""

    values: Floats  # (k,) largest first
    residuals: Floats  # (k,) ‖Av − θv‖ of each value
    least: float  # smallest Ritz value, an upper bound of the smallest eigenvalue
    least_residual: float  # residual of the smallest Ritz value
    converged: bool  # whether the residuals of all largest values are within the tolerance
    products: int  # number of matrix–vector products
    asymmetry: float  # largest |⟨u, Av⟩ − ⟨Au, v⟩| / |θ|; only rounding error if A is symmetric
    vectors: Any = None  # (k, n) eigenvectors of the largest values, if requested


class Quadrature(NamedTuple):
    """Nodes and weights of the spectral density, one row per probe; the weights of a row add up to 1."""

    nodes: Floats  # (probes, steps)
    weights: Floats  # (probes, steps)
    traces: Floats  # (probes,) zᵀAz: estimates of the trace

    @property
    def trace(self) -> float:
        """Mean of the trace estimates."""
        return float(self.traces.mean())

    @property
    def trace_error(self) -> float:
        """Standard error of the mean; NaN for a single probe."""
        return float(self.traces.std(ddof=1)) / math.sqrt(len(self.traces)) if len(self.traces) > 1 else math.nan


class _OrthonormalBasis:
    """Orthonormal vectors, stored as the rows of a growing matrix."""

    def __init__(self, like: Any) -> None:
        self.like, self.size = like, 0
        self._rows = _empty_rows(like, 16)

    @property
    def rows(self) -> Any:
        return self._rows[: self.size]

    def remove_projections(self, vector: Any) -> Any:
        """Return the part of a vector orthogonal to all rows; projecting twice is enough (Parlett 1998, §6.9)."""
        for _ in range(2):
            vector = vector - self.rows.T @ (self.rows @ vector)
        return vector

    def add(self, vector: Any) -> bool:
        """Add the normalized part of a vector that is orthogonal to the basis; return False if there is none."""
        length = _norm(vector)
        new_part = self.remove_projections(vector / length) if length > 0 else vector
        size = _norm(new_part)
        if not size > MIN_RELATIVE_LENGTH:
            return False
        new_part = self.remove_projections(new_part / size)
        if self.size == len(self._rows):
            wider = _empty_rows(self.like, 2 * self.size)
            wider[: self.size] = self._rows
            self._rows = wider
        self._rows[self.size] = new_part / _norm(new_part)
        self.size += 1
        return True


def largest(
    product: Product, like: Any, k: int = 1, *, rtol: float = 1e-3, max_products: int = 200, seed: int = 0,
    vectors: bool = False,
) -> Extremes:  # fmt: skip
    """Return the k largest eigenvalues of an n × n matrix A (by value, not by magnitude), with multiplicity.

    :param product: function that returns A·v for a vector v.
    :param like: a vector with the length, type and device that all vectors shall have.
    :param rtol: residual, relative to the largest |θ|, at which the values count as converged.
    :param max_products: maximum number of products; the residuals then state how accurate the values are.
    :param vectors: also return the eigenvectors.
    """
    n, rng = len(like), np.random.default_rng(seed)
    k = min(k, n)
    basis, products, asymmetry, precision = _OrthonormalBasis(like), 0, 0.0, _precision(like)
    projected: Floats = np.zeros((0, 0))
    remainders = [_convert_like(rng.standard_normal(n), like) for _ in range(k)]
    start = 0
    while True:
        previous_start, start = start, basis.size
        for vector in remainders:
            while basis.size < n and not basis.add(vector):  # invariant subspace: continue in a random direction
                vector = _convert_like(rng.standard_normal(n), like)
        added = basis.size - start
        images = [product(row) for row in basis.rows[start:]]
        products += added
        columns = np.stack([_to_float64(basis.rows @ image) for image in images], axis=1)  # (size, added)
        transposed = np.zeros((start, added))  # ⟨Au, v⟩ for earlier u, from the remainders of Au
        for number, remainder in enumerate(remainders[: start - previous_start] if start else ()):
            transposed[previous_start + number] = _to_float64(basis.rows[start:] @ remainder)
        asymmetry = max(asymmetry, float(np.abs(columns[:start] - transposed).max(initial=0.0)))
        projected = np.pad(projected, (0, added))
        projected[:, start:], projected[start:, :] = columns, columns.T
        projected[start:, start:] = (columns[start:] + columns[start:].T) / 2
        remainders = [basis.remove_projections(image) for image in images]
        values, mixes = np.linalg.eigh(projected)
        gram = np.array([[float((a * b).sum()) for b in remainders] for a in remainders])
        last_mixes = mixes[start:]
        residuals = np.sqrt(np.maximum(np.einsum("ij,ik,kj->j", last_mixes, gram, last_mixes), 0.0))
        residuals = np.hypot(residuals, 10 * precision * np.abs(values).max())  # rounding error is a lower bound
        converged = bool((residuals[-k:] <= rtol * np.abs(values).max()).all()) and basis.size >= k
        if converged or basis.size >= n or products + k > max_products:
            break
    top = slice(None, -k - 1, -1)
    top_vectors = _convert_like(mixes[:, top].T, like) @ basis.rows if vectors else None
    return Extremes(
        values[top].copy(), residuals[top].copy(), float(values[0]), float(residuals[0]),
        converged or basis.size >= n, products, asymmetry / (float(np.abs(values).max()) or 1.0), top_vectors,
    )  # fmt: skip


def quadrature(product: Product, like: Any, *, probes: int = 10, steps: int = 1, seed: int = 0) -> Quadrature:
    """Estimate the trace and, with more than a few steps, the spectral density, from probes · steps products."""
    n, rng = len(like), np.random.default_rng(seed)
    steps = min(steps, n)
    nodes, weights, traces = np.zeros((probes, steps)), np.zeros((probes, steps)), np.zeros(probes)
    for probe in range(probes):
        basis, diagonal, off_diagonal = _OrthonormalBasis(like), [], []
        basis.add(_convert_like(rng.choice([-1.0, 1.0], n), like))
        for step in range(steps):
            image = product(basis.rows[step])
            diagonal.append(float(_to_float64((image * basis.rows[step]).sum())))
            if step + 1 == steps:
                break
            image = basis.remove_projections(image)
            off_diagonal.append(_norm(image))
            if not off_diagonal[-1] > MIN_RELATIVE_LENGTH * max(map(abs, diagonal)) or not basis.add(image):
                off_diagonal.pop()
                break
        matrix = np.diag(diagonal) + np.diag(off_diagonal, 1) + np.diag(off_diagonal, -1)
        values, mixes = np.linalg.eigh(matrix)
        nodes[probe, : len(values)], weights[probe, : len(values)] = values, mixes[0] ** 2
        traces[probe] = n * diagonal[0]
    return Quadrature(nodes, weights, traces)


def density(nodes: Floats, weights: Floats, evals: Floats, width: float) -> Floats:
    """Evaluate the spectral density at ``evals``: nodes smoothed with Gaussians, averaged over probes.

    :param width: standard deviation of the Gaussians, in units of the eigenvalues.
    """
    z = (np.asarray(evals)[:, None] - nodes.ravel()) / width
    values: Floats = (np.exp(-z * z / 2) @ weights.ravel()) / (width * math.sqrt(2 * math.pi) * len(nodes))
    return values


def negative_mass(nodes: Floats, weights: Floats, width: float) -> float:
    """Return the share of the eigenvalues below −``width``."""
    return float(weights[nodes < -width].sum()) / len(nodes)


def _empty_rows(like: Any, rows: int) -> Any:
    shape = (rows, len(like))
    return like.new_empty(shape) if hasattr(like, "new_empty") else np.empty(shape, like.dtype)


def _convert_like(array: Any, like: Any) -> Any:
    """Convert a NumPy array to the type and device of ``like``."""
    return (
        like.new_tensor(np.ascontiguousarray(array)) if hasattr(like, "new_tensor") else np.asarray(array, like.dtype)
    )


def _precision(like: Any) -> float:
    """Machine epsilon of the vectors' type."""
    return float(np.finfo(str(like.dtype).removeprefix("torch.")).eps)


def _norm(vector: Any) -> float:
    return math.sqrt(float((vector * vector).sum()))


def _to_float64(values: Any) -> Any:
    return np.asarray(values.cpu() if hasattr(values, "cpu") else values, np.float64)
