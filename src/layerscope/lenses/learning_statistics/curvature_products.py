"""Products of a curvature matrix of a live PyTorch model with vectors, without forming the matrix.

L is the mean loss over the examples of all batches, f the model's output and ℓ the loss of one example. Derivatives are
with respect to the parameters:

- "hessian": ∂²L, computed by differentiating ⟨∂L, v⟩ (Pearlmutter 1994);
- "ggn": E[Jᵀ(∂²ℓ/∂f²)J] with J = ∂f, the Hessian without the curvature of the model itself (Schraudolph 2002);
- "fisher": E[g gᵀ] with g = ∂ℓ of each example. Labels are those of the data ("empirical"), drawn from the model
  ("mc"), or averaged over ("exact"), which equals the "ggn" for softmax and Gaussian outputs (Martens 2020).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from layerscope.errors import UnknownName, UsageError
from layerscope.lenses.learning_statistics.capture import FISHERS
from layerscope.live.batches import materialize_batches, run_batch
from layerscope.live.losses import Loss
from layerscope.live.torch_models import uncompiled
from layerscope.live.user_code import require_gradient, restore_model_state, torch_parameters, translate_errors

MATRICES = ("hessian", "ggn", "fisher")


class Products:
    """Products with the curvature matrix of a model on data, for all parameters or for a block of them."""

    def __init__(
        self,
        model: Any,
        batches: Iterable[Any],
        loss: Loss,
        matrix: str = "hessian",
        *,
        fisher: str = "empirical",
        seed: int = 0,
        forward: Callable[[Any, Any], Any] | None = None,
    ) -> None:
        """Products are available only inside the context manager :meth:`ready`.

        :raises UsageError: the matrix or kind of Fisher matrix is unknown, there is no batch, weights are narrower than
            float32, or a user function is the loss where a distribution is needed.
        """
        parameters = torch_parameters(model)
        if matrix not in MATRICES:
            raise UnknownName("curvature matrix", matrix, MATRICES)
        if fisher not in FISHERS:
            raise UnknownName("kind of Fisher matrix", fisher, FISHERS)
        if matrix == "fisher" and fisher != "empirical" and loss.function is not None:
            raise UsageError(f"fisher={fisher!r} needs a loss that defines a distribution, e.g. 'mse', not a function")
        self.model, self.batches, self.loss, self.forward, self.seed = (
            model,
            materialize_batches(model, batches),
            loss,
            forward,
            seed,
        )
        self.matrix = "ggn" if (matrix, fisher) == ("fisher", "exact") else matrix
        self.fisher = fisher
        named = {name: p for name, p in parameters.items() if p.is_floating_point() and p.numel()}
        trained = {name: p for name, p in named.items() if p.requires_grad}
        self.named: Mapping[str, Any] = trained or named
        if not self.batches:
            raise UsageError("the data have no batch; pass at least one batch (x, y)")
        for name, parameter in self.named.items():
            if parameter.element_size() < 4:
                raise UsageError(
                    f"{name} is {str(parameter.dtype)[6:]}: second derivatives need float32, e.g. model.float()"
                )
        if not self.named:
            raise UsageError("the model has no parameters with floating-point values, which the curvature needs")
        self.examples, self.value = 0, 0.0  # number of examples, and L
        # parameters → products; stored if there is a single batch
        self._stored_graph: Callable[[list[Any]], Callable[[Any], Any]] | None = None

    @contextmanager
    def ready(self) -> Iterator[Products]:
        """Context manager in which products are available; it restores the model on exit."""
        with restore_model_state(self.model, list(self.named.values())), uncompiled():
            for number, batch in enumerate(self.batches):
                values, _, labels = self._run(number, batch)
                self.examples += self.loss.examples(values, labels)
                self.value += float(require_gradient(values).detach().sum())
            if not self.examples:
                raise UsageError("no example has a label; all labels are −100")
            self.value /= self.examples
            if not math.isfinite(self.value):
                raise UsageError(f"the mean loss is {self.value}, which has no curvature; check data and weights")
            if len(self.batches) == 1:
                self._stored_graph = self._graph(0, self.batches[0])
            try:
                yield self
            finally:
                self._stored_graph = None

    def vector(self, names: Sequence[str]) -> Any:
        """Return a vector of zeros with one entry per value of these parameters."""
        import torch

        first = self.named[names[0]]
        return torch.zeros(sum(self.named[name].numel() for name in names), dtype=first.dtype, device=first.device)

    def block(self, names: Sequence[str]) -> Callable[[Any], Any]:
        """Return the function v → Av for the block of these parameters, flattened and concatenated."""
        parameters = [self.named[name] for name in names]

        def product(vector: Any) -> Any:
            total: Any = 0.0
            parts = _split_vector(vector, parameters)
            for number, batch in enumerate(self.batches):
                graph = self._stored_graph or self._graph(number, batch)
                total = total + _flatten_parts(graph(parameters)(parts), vector)
            return total / self.examples

        return product

    def _run(self, number: int, batch: Any) -> tuple[Any, Any, Any]:
        """Run a batch and return (losses, output, labels); random numbers are the same each time."""
        import torch
        from torch.nn.attention import SDPBackend, sdpa_kernel

        torch.manual_seed(self.seed + number)
        with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no second derivative
            output, labels = run_batch(self.model, batch, number, self.forward)
        return self.loss.values(output, labels), output, labels

    def _graph(self, number: int, batch: Any) -> Callable[[list[Any]], Callable[[Any], Any]]:
        """Run a batch and return a function: parameters → (parts of v → parts of Av, summed over the batch)."""
        import torch

        values, output, labels = self._run(number, batch)
        trained = list(self.named.values())
        if self.matrix == "hessian":
            gradient = _grad([values.sum()], trained, create_graph=True)
            gradient_by_id = {id(p): g for p, g in zip(trained, gradient, strict=True)}

            def hessian(parameters: list[Any]) -> Callable[[Any], Any]:
                gradients = [gradient_by_id[id(p)] for p in parameters]
                return lambda parts: _grad(gradients, parameters, parts)

            return hessian
        outer, inner = self._inner_matrix(values, output, labels, number)
        probe = torch.zeros_like(outer, requires_grad=True)
        backward = _grad(
            [outer], trained, [probe], create_graph=True
        )  # Jᵀu is linear in u: its derivative along v is Jv
        backward_by_id = {id(p): g for p, g in zip(trained, backward, strict=True)}

        def gauss_newton(parameters: list[Any]) -> Callable[[Any], Any]:
            backward_parts = [backward_by_id[id(p)] for p in parameters]

            def product(parts: list[Any]) -> list[Any]:
                (along,) = _grad(backward_parts, [probe], parts)
                return _grad([outer], parameters, [inner(along)])

            return product

        return gauss_newton

    def _inner_matrix(self, values: Any, output: Any, labels: Any, number: int) -> tuple[Any, Callable[[Any], Any]]:
        """Return (tensor with the Jacobian J, product with the matrix between Jᵀ and J)."""
        if self.matrix == "fisher" and self.fisher == "empirical":
            return values, lambda along: along
        if self.matrix == "fisher":
            (column,) = self.loss.columns(output, labels, "mc", (self.seed, number), 1)
            rows = 1 if self.loss.kind == "mse" else column.dim() - 1  # one draw spans an example ("mse") or a token
            return (
                output,
                lambda along: (
                    column
                    * (column * along).flatten(rows).sum(-1).reshape(*column.shape[:rows], *[1] * (column.dim() - rows))
                ),
            )
        leaf = output.detach().requires_grad_()
        (slope,) = _grad([self.loss.values(leaf, labels).sum()], [leaf], create_graph=True)
        return output, lambda along: _grad([slope], [leaf], [along])[0]


def _grad(outputs: list[Any], inputs: list[Any], along: Any = None, *, create_graph: bool = False) -> list[Any]:
    """Return Σ ∂⟨output, along⟩/∂input for each input; zeros for inputs that no output depends on."""
    import torch

    pairs = zip(outputs, along or [None] * len(outputs), strict=True)
    differentiable = [(output, vector) for output, vector in pairs if output.requires_grad]
    if not differentiable:
        return [torch.zeros_like(x) for x in inputs]
    outputs, along = (list(side) for side in zip(*differentiable, strict=True))
    with translate_errors("a derivative of the model"):
        return list(
            torch.autograd.grad(
                outputs, inputs, along, create_graph=create_graph, retain_graph=True, allow_unused=True,
                materialize_grads=True,
            )
        )  # fmt: skip


def _split_vector(vector: Any, parameters: list[Any]) -> list[Any]:
    parts, start = [], 0
    for p in parameters:
        parts.append(vector[start : start + p.numel()].reshape(p.shape).to(p))
        start += p.numel()
    return parts


def _flatten_parts(parts: list[Any], like: Any) -> Any:
    import torch

    return torch.cat([part.detach().reshape(-1).to(like) for part in parts])
