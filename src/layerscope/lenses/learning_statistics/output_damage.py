"""Predict how much a change of weights changes what a model predicts, from the Fisher information of its outputs.

For a change ΔW of one tensor, and labels y that are drawn from the model's own prediction p,

    KL(p ‖ p_ΔW) ≈ ½ ΔWᵀ F ΔW = ½ E⟨∂ log p(y)/∂W, ΔW⟩²,

because F is both the covariance of these gradients and the curvature of the divergence. For a sequence, log p is the
sum over its T positions, and the result is divided by T: cross terms between positions vanish, since the labels are
drawn independently. One backward pass per example and draw serves every tensor and every change of it. Of a Gaussian
output with variance 1 ("mse"), the divergence is ½‖Δf‖²; of an embedding of length 1 this is 1 − cosine.

Source: Amari, Neural Computation 10 (1998); Martens, JMLR 21 (2020); Kunstner et al., NeurIPS 2019.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.errors import Unreadable, UsageError
from layerscope.live.examples import Example, run_example
from layerscope.live.losses import Loss
from layerscope.live.user_code import Forward, restore_model_state, torch_parameters, translate_errors
from layerscope.numerics.matrices import pick
from layerscope.records.layers import LayerRef

if TYPE_CHECKING:
    from layerscope.array_types import Array, Floats

DRAWS = 4  # of labels per example
Progress = Callable[[int, int], Any]  # (examples done, examples in total)


@dataclass(frozen=True)
class Change:
    """Candidate changes ΔW of one weight, each of its own shape."""

    name: str
    parameter: str  # name of the model's parameter that holds the weight
    ref: LayerRef  # which entries of the parameter belong to it
    read: Callable[[], Sequence[Array]]  # returns one ΔW per candidate
    candidates: int = 1

    @property
    def memory(self) -> int:
        """Bytes of all candidates in float32."""
        return 4 * self.ref.params * self.candidates


@dataclass(frozen=True)
class Damage:
    """Predicted divergence of each candidate of one weight, in nats per prediction, one row per example."""

    samples: Floats  # (examples, candidates)

    @property
    def mean(self) -> Floats:
        """Mean over the examples, (candidates,)."""
        return np.asarray(self.samples.mean(0))

    @property
    def error(self) -> Floats:
        """Standard error of the mean over examples and draws, (candidates,)."""
        count = len(self.samples)
        return (
            np.asarray(self.samples.std(0, ddof=1) / math.sqrt(count))
            if count > 1
            else np.full(self.mean.shape, np.nan)
        )


def predict_damage(
    model: Any,
    examples: Sequence[Example],
    changes: Sequence[Change],
    *,
    loss: Loss,
    draws: int = DRAWS,
    seed: int = 0,
    forward: Forward | None = None,
    memory: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Damage]:
    """Predict the divergence between the model's predictions before and after each change.

    :param changes: weights of the model and their candidate changes.
    :param loss: defines the distribution of the outputs, "cross_entropy" or "mse".
    :param draws: labels drawn per example; each costs a backward pass.
    :param memory: bytes that the changes may take at once; more are done in several passes over the examples.
    :return: name of the weight → its damage.
    :raises UsageError: the loss is a user function, which defines no distribution.
    :raises Unreadable: the outputs are not finite, or a weight is no parameter of the model.
    """
    if loss.function is not None:
        raise UsageError(
            "the Fisher information needs a loss that is a log-likelihood (cross_entropy or mse), not a function; "
            "measure the damage instead"
        )
    parameters = torch_parameters(model)
    for change in changes:
        if change.parameter not in parameters:
            raise Unreadable(f"{change.name}: the model has no parameter {change.parameter}")
    groups = list(_groups(changes, memory))
    found: dict[str, Damage] = {}
    for number, group in enumerate(groups):
        done = number * len(examples)

        def report(count: int, done: int = done) -> None:
            if progress:
                progress(done + count, len(groups) * len(examples))

        found |= _predict_group(model, examples, group, loss, draws, seed, forward, report)
    return found


def _groups(changes: Sequence[Change], memory: int | None) -> Iterator[list[Change]]:
    """Split the changes so that those of a group fit into memory."""
    group: list[Change] = []
    total = 0
    for change in changes:
        if group and memory is not None and total + change.memory > memory:
            yield group
            group, total = [], 0
        group.append(change)
        total += change.memory
    if group:
        yield group


def _predict_group(
    model: Any, examples: Sequence[Example], changes: Sequence[Change], loss: Loss, draws: int, seed: int,
    forward: Forward | None, report: Callable[[int], None],
) -> dict[str, Damage]:  # fmt: skip
    stacks = {change.name: _stack(change) for change in changes}
    by_parameter: dict[str, list[Change]] = {}
    for change in changes:
        by_parameter.setdefault(change.parameter, []).append(change)
    sums = {change.name: np.zeros((len(examples), len(stacks[change.name]))) for change in changes}
    row = 0

    def add(name: str, gradient: Array) -> None:
        for change in by_parameter[name]:
            own = np.ascontiguousarray(pick(gradient, change.ref), np.float32).reshape(-1)
            sums[change.name][row] += np.square(stacks[change.name] @ own, dtype=np.float64)

    with _gradients_to(model, add, by_parameter):
        for row, example in enumerate(examples):
            output = run_example(model, example, forward)
            if not bool(output.isfinite().all()):
                raise Unreadable(f"the model's outputs of example {row} are not finite; pass a model that works")
            predictions = positions_of(output, loss)
            for draw in range(draws):
                column = _draw(output, loss, (seed, row * draws + draw))
                with translate_errors("the backward pass"):
                    output.backward(column, retain_graph=draw < draws - 1)
            for change in changes:
                sums[change.name][row] *= 0.5 / (draws * predictions)
            report(row + 1)
    return {name: Damage(values) for name, values in sums.items()}


def positions_of(output: Any, loss: Loss) -> int:
    """Return the number of predictions in the output of one example: tokens of a sequence, otherwise 1."""
    return int(output.shape[:-1].numel()) if loss.kind == "cross_entropy" else len(output)


def _draw(output: Any, loss: Loss, seed: tuple[int, int]) -> Any:
    """Return the gradient of −log p with respect to the output, for a label drawn from the output."""
    labels = output.detach().new_zeros(output.shape[:-1]).long()
    return next(iter(loss.columns(output, labels, "mc", seed, 1)))


def _stack(change: Change) -> Floats:
    """Return the candidates as rows (candidates, entries) in float32."""
    rows = [np.asarray(delta, np.float32).reshape(-1) for delta in change.read()]
    return np.stack(rows)


@contextmanager
def _gradients_to(model: Any, add: Callable[[str, Array], None], wanted: Mapping[str, Any]) -> Iterator[None]:
    """Pass the gradient of every wanted parameter on as soon as it is complete, and free it.

    One gradient is in memory at a time. Modes, ``requires_grad`` and gradients of the model are restored.
    """
    parameters = torch_parameters(model)
    chosen = {name: parameters[name] for name in wanted}
    modes = [(module, module.training) for module in model.modules()]
    before = {name: (parameter.requires_grad, parameter.grad) for name, parameter in parameters.items()}

    def hook_of(name: str) -> Callable[[Any], None]:
        def hook(parameter: Any) -> None:
            gradient, parameter.grad = parameter.grad, None
            add(name, gradient.detach().float().cpu().numpy())

        return hook

    with restore_model_state(model, list(chosen.values())):
        handles = []
        try:
            model.eval()
            for name, parameter in parameters.items():
                parameter.requires_grad_(name in chosen)
                parameter.grad = None
            handles = [p.register_post_accumulate_grad_hook(hook_of(name)) for name, p in chosen.items()]
            yield
        finally:
            for handle in handles:
                handle.remove()
            for module, training in modes:
                module.training = training
            for name, (requires_grad, gradient) in before.items():
                parameters[name].requires_grad_(requires_grad)
                parameters[name].grad = gradient
