"""Curvature of the loss with respect to the weights: eigenvalues, trace and density, without forming the matrix."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.errors import Unreadable, UsageError, did_you_mean
from layerscope.lenses.learning_statistics.curvature_products import Products
from layerscope.live.batches import as_batches
from layerscope.live.losses import Loss
from layerscope.numerics import lanczos_quadrature

if TYPE_CHECKING:
    from layerscope.array_types import Floats

NODE_WIDTH = 0.01  # width of a node of the density, relative to the range of all nodes
SIGNIFICANT_DIGITS = 6
MAX_ASYMMETRY = 0.02  # largest relative asymmetry that float32 rounding explains


@dataclass(frozen=True, eq=False)
class Curvature:
    """Spectral estimates of a curvature matrix, for the whole model or for the block of one weight."""

    matrix: str  # "hessian", "ggn" or "fisher"
    block: str  # name of the weight; "" for the whole model
    params: int  # number of parameters, the size of the matrix
    values: Floats  # (k,) largest eigenvalues, ℓ/W², largest first
    residuals: Floats  # (k,) ‖Av − θv‖; an eigenvalue lies within this distance of each value
    converged: bool  # True if all residuals are within the tolerance
    least: float  # smallest Ritz value, an upper bound of the smallest eigenvalue
    trace: float | None  # estimated with Rademacher probes; None without probes
    trace_error: float | None  # standard error of the trace
    nodes: Floats  # (probes, steps) eigenvalues of the quadrature for the density
    weights: Floats  # (probes, steps) weights of the nodes
    products: int  # number of matrix-vector products used
    loss: float  # mean loss over the examples
    examples: int
    vectors: Any = None  # (k, params) eigenvectors on request; all parameters flattened and concatenated
    layers: Mapping[str, Curvature] = field(default_factory=dict)  # blocks by the name of their weight

    def density(self, points: int = 400) -> tuple[Floats, Floats]:
        """Return (eigenvalues, density), with each node smoothed by a Gaussian of 1 % of the nodes' range.

        :param points: number of points at which the density is evaluated.
        :raises UsageError: the curvature was computed without probes or with a single step.
        """
        if self.nodes.shape[1] < 2:
            raise UsageError("no density was computed; call curvature(…) with probes=8 and steps=30, for example")
        nodes = self.nodes[self.weights > 0]
        width = NODE_WIDTH * float(np.ptp(nodes)) or NODE_WIDTH
        at = np.linspace(float(nodes.min()) - 3 * width, float(nodes.max()) + 3 * width, points)
        return at, lanczos_quadrature.density(self.nodes, self.weights, at, width)

    @property
    def negative_mass(self) -> float | None:
        """Share of eigenvalues that are negative by more than 1 % of the nodes' range; None without a density."""
        if self.nodes.shape[1] < 2:
            return None
        return lanczos_quadrature.negative_mass(self.nodes, self.weights, NODE_WIDTH * float(np.ptp(self.nodes)))

    def facts(self) -> dict[str, float]:
        """Return the numbers that a Report stores for a layer."""
        facts = {"curvature_lambda_max": float(self.values[0]), "curvature_residual": float(self.residuals[0])}
        if self.trace is not None and self.trace_error is not None and math.isfinite(self.trace_error):
            facts |= {"curvature_trace": self.trace, "curvature_trace_error": self.trace_error}
        return facts

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types, without layers and vectors."""
        return {
            "matrix": self.matrix,
            "params": self.params,
            "values": _round_values(self.values),
            "residuals": _round_values(self.residuals),
            "converged": self.converged,
            "least": self.least,
            "trace": self.trace,
            "trace_error": None if self.trace_error is None or math.isnan(self.trace_error) else self.trace_error,
            "nodes": [_round_values(row) for row in self.nodes],
            "weights": [_round_values(row) for row in self.weights],
            "products": self.products,
        }

    def __repr__(self) -> str:
        what = f"{self.matrix} of {self.block or 'the whole model'}, {self.params:,} parameters"
        values = ", ".join(f"{v:.4g} ± {r:.1g}" for v, r in zip(self.values, self.residuals, strict=True))
        lines = [f"{what}, loss {self.loss:.4g}", f"  largest {values}{'' if self.converged else ' (not converged)'}"]
        lines += [f"  smallest at most {self.least:.4g}"]
        if self.trace is not None:
            lines += [f"  trace {self.trace:.4g} ± {self.trace_error:.2g}"]
        width = max(map(len, self.layers), default=0)
        for name, block in self.layers.items():
            trace = "" if block.trace is None else f"  trace {block.trace:>10.4g} ± {block.trace_error:.2g}"
            lines += [f"  {name:{width}}  λmax {block.values[0]:>10.4g} ± {block.residuals[0]:.1g}{trace}"]
        return "\n".join(lines)


def curvature(
    model: Any,
    data: Any,
    loss: str | Callable[[Any, Any], Any] = "cross_entropy",
    matrix: str = "hessian",
    *,
    k: int = 1,
    layers: Iterable[str] | str | None = None,
    probes: int = 0,
    steps: int = 1,
    fisher: str = "empirical",
    rtol: float = 1e-3,
    most: int = 200,
    vectors: bool = False,
    forward: Callable[[Any, Any], Any] | None = None,
    seed: int = 0,
) -> Curvature:
    """Estimate largest eigenvalues, trace and density of the Hessian, GGN or Fisher matrix of the mean loss.

    The matrix covers all trained parameters (all parameters if none is trained); single weights can be measured as
    blocks, too. The model runs in its current mode and is left as it was found. Batch norm in training mode makes the
    examples of a batch depend on each other. The Hessian through ReLUs ignores their kinks.

    :param data, loss, forward: as for :func:`~layerscope.conditioning`. Every product runs through all batches.
    :param matrix: "hessian", "ggn" (generalized Gauss–Newton) or "fisher".
    :param k: number of eigenvalues, counted with multiplicity.
    :param layers: names or globs of weights (parameters with two or more axes) to measure as blocks, too.
    :param probes: number of random vectors for trace and density; 0 for neither. The standard error of the trace falls
        with √probes.
    :param steps: Lanczos steps for each probe: 1 for the trace alone, about 30 for the density.
    :param fisher: labels of the "fisher" matrix: "empirical" (from the data), "mc" (drawn from the model) or "exact"
        (equals the GGN for named losses).
    :param rtol: residual, relative to the eigenvalue of largest magnitude, at which the search ends.
    :param most: largest number of products in the search for eigenvalues.
    :param vectors: also return the eigenvectors.
    :param seed: seed for all random numbers.
    :raises UsageError: there is no batch or no such weight, labels or loss do not fit, or weights are half precision.
    :raises Unreadable: an operation of the model cannot be differentiated twice.
    """
    counts = {"k": k, "probes": probes, "steps": steps, "most": most, "seed": seed}
    for name, value in counts.items():
        if not isinstance(value, int) or value < (name not in ("probes", "seed")):
            raise UsageError(
                f"{name} must be a whole number of at least {int(name not in ('probes', 'seed'))}, not {value!r}"
            )
    if not rtol > 0:
        raise UsageError(f"rtol must be above 0, not {rtol!r}")
    batches = as_batches(data)
    products = Products(model, batches, Loss.of(loss), matrix, fisher=fisher, seed=seed, forward=forward)
    patterns = [] if layers is None else [layers] if isinstance(layers, str | int) else list(layers)
    block_names = _matching_weights(products, patterns)

    def measure(names: list[str], block: str, blocks: Mapping[str, Curvature]) -> Curvature:
        zeros = products.vector(names)
        multiply = products.block(names)

        def product(vector: Any) -> Any:
            result = multiply(vector)
            if not bool(result.isfinite().all()):
                raise Unreadable(f"{block or matrix}: a derivative of the model is not finite; check it for NaN")
            return result

        top = lanczos_quadrature.largest(product, zeros, k, rtol=rtol, max_products=most, seed=seed, vectors=vectors)
        if top.asymmetry > MAX_ASYMMETRY:
            raise Unreadable(f"{block or matrix} is not symmetric: an operation of the model has no second derivative")
        spread = (
            lanczos_quadrature.quadrature(product, zeros, probes=probes, steps=steps, seed=seed) if probes else None
        )
        empty = np.zeros((0, 0))
        return Curvature(
            matrix, block, len(zeros), top.values, top.residuals, top.converged, top.least,
            None if spread is None else spread.trace, None if spread is None else spread.trace_error,
            empty if spread is None else spread.nodes, empty if spread is None else spread.weights,
            top.products + (0 if spread is None else probes * spread.nodes.shape[1]),
            products.value, products.examples, top.vectors, blocks,
        )  # fmt: skip

    with products.ready():
        return measure(list(products.named), "", {name: measure([name], name, {}) for name in block_names})


def _matching_weights(products: Products, patterns: list[str]) -> list[str]:
    """Return the names of the weights that match a pattern, in the model's order.

    :raises UsageError: a pattern matches no weight.
    """
    weights = [name for name, parameter in products.named.items() if parameter.dim() >= 2]
    for pattern in patterns:
        if not isinstance(pattern, str) or not any(_matches_pattern(name, pattern) for name in weights):
            raise UsageError(f"no weight called {pattern!r}{did_you_mean(str(pattern), weights)} Give a name or a glob")
    return [name for name in weights if any(_matches_pattern(name, pattern) for pattern in patterns)]


def _matches_pattern(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or name == f"{pattern}.weight"


def _round_values(values: Floats) -> list[float]:
    return [float(f"{value:.{SIGNIFICANT_DIGITS}g}") for value in values]
