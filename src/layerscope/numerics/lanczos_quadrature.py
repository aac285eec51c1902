"""Extreme eigenvalues, trace and density of a symmetric matrix that is only known by its products with vectors.

Lanczos in blocks as wide as the number of eigenvalues asked for, so that multiple ones are all found, and with full
re-orthogonalisation, so that none is found twice; what comes out carries its residual ‖Av − θv‖, within which an
eigenvalue of A lies. Trace and density by Rademacher probes: zᵀAz has the trace as its mean (Hutchinson 1990), and m
steps from z give the nodes and weights of a Gauss quadrature of the density (Golub & Welsch 1969; Ubaru, Chen & Saad
2017). Vectors are NumPy arrays or tensors, on the device that they are on; coefficients are float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from layerscope.array_types import Floats

Product = Callable[[Any], Any]
NEGLIGIBLE = 1e-5  # of a vector's length: what is left of it is rounding, or nothing new


class Extremes(NamedTuple):
    """The largest eigenvalues, and what is known of the smallest."""

    values: Floats  # (k,) largest first
    residuals: Floats  # (k,) ‖Av − θv‖ of each
    least: float  # smallest Ritz value: an upper bound of the smallest eigenvalue
    least_residual: float
    converged: bool  # is every residual of the largest within the tolerance?
    products: int  # of the matrix with a vector
    asymmetry: float  # largest |⟨u, Av⟩ − ⟨Au, v⟩| that was seen, over |θ|: of a symmetric matrix, rounding
    vectors: Any = None  # (k, n) of the largest, where asked for


class Quadrature(NamedTuple):
    """Nodes and weights of the spectral density, a row per probe; weights of a row add up to 1."""

    nodes: Floats  # (probes, steps)
    weights: Floats  # (probes, steps)
    traces: Floats  # (probes,) zᵀAz: estimates of the trace

    @property
    def trace(self) -> float:
        """Their mean."""
        return float(self.traces.mean())

    @property
    def trace_error(self) -> float:
        """Standard error of the mean; NaN of a single probe."""
        return float(self.traces.std(ddof=1)) / math.sqrt(len(self.traces)) if len(self.traces) > 1 else math.nan


class _Basis:
    """Orthonormal vectors, as rows of a matrix that grows."""

    def __init__(self, like: Any) -> None:
        self.like, self.size = like, 0
        self._rows = _empty(like, 16)

    @property
    def rows(self) -> Any:
        return self._rows[: self.size]

    def rest(self, vector: Any) -> Any:
        """What of a vector is orthogonal to all rows; twice is enough (Parlett 1998, §6.9)."""
        for _ in range(2):
            vector = vector - self.rows.T @ (self.rows @ vector)
        return vector

    def add(self, vector: Any) -> bool:
        """Take up what is new of a vector; False where nothing is."""
        length = _norm(vector)
        left = self.rest(vector / length) if length > 0 else vector
        size = _norm(left)
        if not size > NEGLIGIBLE:
            return False
        left = self.rest(left / size)
        if self.size == len(self._rows):
            wider = _empty(self.like, 2 * self.size)
            wider[: self.size] = self._rows
            self._rows = wider
        self._rows[self.size] = left / _norm(left)
        self.size += 1
        return True


def largest(
    product: Product, like: Any, k: int = 1, *, rtol: float = 1e-3, most: int = 200, seed: int = 0,
    vectors: bool = False,
) -> Extremes:  # fmt: skip
    """The k largest eigenvalues (not of |A|, of A) of an n × n matrix, counted as often as they occur.

    :param like: a vector: its length, type and device are those of all others.
    :param rtol: residual that is small enough, over the largest |θ|.
    :param most: products of the matrix at most; the residuals say how near the values are then.
    """
    n, rng = len(like), np.random.default_rng(seed)
    k = min(k, n)
    basis, products, apart, precision = _Basis(like), 0, 0.0, _precision(like)
    projected: Floats = np.zeros((0, 0))
    fresh = [_like(rng.standard_normal(n), like) for _ in range(k)]
    start = 0
    while True:
        before, start = start, basis.size
        for vector in fresh:
            while basis.size < n and not basis.add(vector):  # an invariant subspace: go on with another direction
                vector = _like(rng.standard_normal(n), like)
        added = basis.size - start
        images = [product(row) for row in basis.rows[start:]]
        products += added
        columns = np.stack([_float64(basis.rows @ image) for image in images], axis=1)  # (size, added)
        known = np.zeros((start, added))  # ⟨Au, v⟩ of earlier u: all of Au that is new is in what it left
        for number, left in enumerate(fresh[: start - before] if start else ()):
            known[before + number] = _float64(basis.rows[start:] @ left)
        apart = max(apart, float(np.abs(columns[:start] - known).max(initial=0.0)))
        projected = np.pad(projected, (0, added))
        projected[:, start:], projected[start:, :] = columns, columns.T
        projected[start:, start:] = (columns[start:] + columns[start:].T) / 2
        fresh = [basis.rest(image) for image in images]
        values, mixes = np.linalg.eigh(projected)
        gram = np.array([[float((a * b).sum()) for b in fresh] for a in fresh])
        last = mixes[start:]
        residuals = np.sqrt(np.maximum(np.einsum("ij,ik,kj->j", last, gram, last), 0.0))
        residuals = np.hypot(residuals, 10 * precision * np.abs(values).max())  # what rounding leaves at least
        done = bool((residuals[-k:] <= rtol * np.abs(values).max()).all()) and basis.size >= k
        if done or basis.size >= n or products + k > most:
            break
    top = slice(None, -k - 1, -1)
    found = _like(mixes[:, top].T, like) @ basis.rows if vectors else None
    return Extremes(
        values[top].copy(), residuals[top].copy(), float(values[0]), float(residuals[0]),
        done or basis.size >= n, products, apart / (float(np.abs(values).max()) or 1.0), found,
    )  # fmt: skip


def quadrature(product: Product, like: Any, *, probes: int = 10, steps: int = 1, seed: int = 0) -> Quadrature:
    """Trace, and with more than a few steps the density, from so many probes; probes · steps products."""
    n, rng = len(like), np.random.default_rng(seed)
    steps = min(steps, n)
    nodes, weights, traces = np.zeros((probes, steps)), np.zeros((probes, steps)), np.zeros(probes)
    for probe in range(probes):
        basis, diagonal, beside = _Basis(like), [], []
        basis.add(_like(rng.choice([-1.0, 1.0], n), like))
        for step in range(steps):
            image = product(basis.rows[step])
            diagonal.append(float(_float64((image * basis.rows[step]).sum())))
            if step + 1 == steps:
                break
            image = basis.rest(image)
            beside.append(_norm(image))
            if not beside[-1] > NEGLIGIBLE * max(map(abs, diagonal)) or not basis.add(image):
                beside.pop()
                break
        matrix = np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1)
        values, mixes = np.linalg.eigh(matrix)
        nodes[probe, : len(values)], weights[probe, : len(values)] = values, mixes[0] ** 2
        traces[probe] = n * diagonal[0]
    return Quadrature(nodes, weights, traces)


def density(nodes: Floats, weights: Floats, at: Floats, width: float) -> Floats:
    """The density at these eigenvalues, the mean over probes: each node a Gaussian of this standard deviation."""
    z = (np.asarray(at)[:, None] - nodes.ravel()) / width
    found: Floats = (np.exp(-z * z / 2) @ weights.ravel()) / (width * math.sqrt(2 * math.pi) * len(nodes))
    return found


def negative_mass(nodes: Floats, weights: Floats, width: float) -> float:
    """Share of the eigenvalues below −``width``."""
    return float(weights[nodes < -width].sum()) / len(nodes)


def _empty(like: Any, rows: int) -> Any:
    shape = (rows, len(like))
    return like.new_empty(shape) if hasattr(like, "new_empty") else np.empty(shape, like.dtype)


def _like(array: Any, like: Any) -> Any:
    """A NumPy array as the vectors are."""
    return (
        like.new_tensor(np.ascontiguousarray(array)) if hasattr(like, "new_tensor") else np.asarray(array, like.dtype)
    )


def _precision(like: Any) -> float:
    """ε of the vectors' type."""
    return float(np.finfo(str(like.dtype).removeprefix("torch.")).eps)


def _norm(vector: Any) -> float:
    return math.sqrt(float((vector * vector).sum()))


def _float64(values: Any) -> Any:
    return np.asarray(values.cpu() if hasattr(values, "cpu") else values, np.float64)
