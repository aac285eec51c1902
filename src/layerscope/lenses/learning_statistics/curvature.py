"""The curvature of the loss by the weights: extreme eigenvalues, trace and density, never forming the matrix."""

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

NODE_WIDTH = 0.01  # width of a node of the density, of the range of all nodes
SIGNIFICANT_DIGITS = 6
MAX_ASYMMETRY = 0.02  # relative: what rounding, in float32, stays below


@dataclass(frozen=True, eq=False)
class Curvature:
    """What products with vectors tell of a curvature matrix: of the whole model, or of the block of one weight."""

    matrix: str  # hessian, ggn, fisher
    block: str  # name of the weight, "" of the whole model
    params: int  # its side
    values: Floats  # (k,) largest eigenvalues, ℓ/W², largest first
    residuals: Floats  # (k,) ‖Av − θv‖: an eigenvalue lies within it
    converged: bool  # are all residuals within the tolerance?
    least: float  # smallest Ritz value: the smallest eigenvalue is not above it
    trace: float | None  # by Rademacher probes; None where none was asked for
    trace_error: float | None  # standard error of it
    nodes: Floats  # (probes, steps) of the density
    weights: Floats  # (probes, steps)
    products: int  # with a vector, that it took
    loss: float  # mean over the examples
    examples: int
    vectors: Any = None  # (k, params) tensor, where asked for; parameters one after the other, flattened
    layers: Mapping[str, Curvature] = field(default_factory=dict)  # of the whole model: blocks by name

    def density(self, points: int = 400) -> tuple[Floats, Floats]:
        """(eigenvalues, density): each node a Gaussian as wide as a hundredth of their range.

        :raises UsageError: no probes with more than one step were asked for.
        """
        if self.nodes.shape[1] < 2:
            raise UsageError("the density needs probes=… and steps=… above 1")
        nodes = self.nodes[self.weights > 0]
        width = NODE_WIDTH * float(np.ptp(nodes)) or NODE_WIDTH
        at = np.linspace(float(nodes.min()) - 3 * width, float(nodes.max()) + 3 * width, points)
        return at, lanczos_quadrature.density(self.nodes, self.weights, at, width)

    @property
    def negative_mass(self) -> float | None:
        """Share of the eigenvalues below zero by more than a hundredth of the nodes' range."""
        if self.nodes.shape[1] < 2:
            return None
        return lanczos_quadrature.negative_mass(self.nodes, self.weights, NODE_WIDTH * float(np.ptp(self.nodes)))

    def facts(self) -> dict[str, float]:
        """As numbers of a layer in a Report."""
        facts = {"curvature_lambda_max": float(self.values[0]), "curvature_residual": float(self.residuals[0])}
        if self.trace is not None and self.trace_error is not None and math.isfinite(self.trace_error):
            facts |= {"curvature_trace": self.trace, "curvature_trace_error": self.trace_error}
        return facts

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types, without layers and vectors."""
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
    """Largest eigenvalues, trace and density of the Hessian, the GGN or the Fisher matrix of the mean loss.

    By all parameters that are trained (by all, where none is), and by single weights as blocks. The model runs in the
    mode it is in and is left as it was found. Batch norm in training mode ties the examples of a batch together; the
    Hessian through ReLUs ignores their kinks.

    :param data, loss, forward: as for :func:`~layerscope.conditioning`; batches are gone through for every product.
    :param matrix: "hessian", "ggn" (generalised Gauss–Newton), or "fisher" with ``fisher`` labels: "empirical" (the
        data's), "mc" (drawn), "exact" (for named losses the GGN).
    :param k: how many eigenvalues, counted as often as they occur.
    :param layers: names or globs of weights (parameters of two axes or more) that are measured as blocks too.
    :param probes: of trace and density; 0 for none. The standard error of the trace falls with √probes.
    :param steps: of Lanczos for each probe: 1 for the trace alone, about 30 for the density.
    :param rtol: residual that ends the search, over the largest eigenvalue of either sign; ``most`` products at most.
    :param vectors: the eigenvectors too.
    :raises UsageError: no batch, no such weight, labels or a loss that do not fit, half precision.
    :raises Unreadable: an operation of the model that cannot be differentiated twice.
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
                raise Unreadable(f"{block or matrix}: its products are not finite: a derivative of the model is not")
            return result

        top = lanczos_quadrature.largest(product, zeros, k, rtol=rtol, max_products=most, seed=seed, vectors=vectors)
        if top.asymmetry > MAX_ASYMMETRY:
            raise Unreadable(f"{block or matrix}: not symmetric, so an operation of the model has no second derivative")
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
    """Weights that the patterns name, in the model's order.

    :raises UsageError: a pattern that names none.
    """
    weights = [name for name, parameter in products.named.items() if parameter.dim() >= 2]
    for pattern in patterns:
        if not isinstance(pattern, str) or not any(_matches_pattern(name, pattern) for name in weights):
            raise UsageError(f"no weight called {pattern!r}{did_you_mean(str(pattern), weights)}")
    return [name for name in weights if any(_matches_pattern(name, pattern) for pattern in patterns)]


def _matches_pattern(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or name == f"{pattern}.weight"


def _round_values(values: Floats) -> list[float]:
    return [float(f"{value:.{SIGNIFICANT_DIGITS}g}") for value in values]
