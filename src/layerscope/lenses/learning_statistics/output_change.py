"""Measure how much a change of weights changes what a model predicts, by running the changed model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.lenses.learning_statistics.output_damage import Change, Progress, positions_of
from layerscope.live.examples import Example, run_example
from layerscope.live.losses import Loss
from layerscope.live.user_code import Forward, preserve_randomness, torch_parameters
from layerscope.numerics.matrices import pick

if TYPE_CHECKING:
    from layerscope.array_types import Array, Floats


MAX_REFERENCE_BYTES = 1 << 28  # outputs of the unchanged model that are in memory at a time


@dataclass(frozen=True)
class Measured:
    """Divergence of the predictions, and the rise of the loss where there are labels; one value per example."""

    divergence: Floats  # KL(p ‖ p_ΔW) in nats per prediction, or ½‖Δf‖²
    loss: Floats  # rise of the loss per prediction; NaN without labels

    @property
    def mean(self) -> float:
        """Mean divergence over the examples."""
        return float(self.divergence.mean())

    @property
    def error(self) -> float:
        """Standard error of the mean over the examples."""
        count = len(self.divergence)
        return float(self.divergence.std(ddof=1)) / math.sqrt(count) if count > 1 else math.nan


def measure_changes(
    model: Any,
    examples: Sequence[Example],
    cases: Sequence[Sequence[Change]],
    *,
    loss: Loss,
    forward: Forward | None = None,
    progress: Progress | None = None,
) -> list[Measured]:
    """Apply each case to the model in turn and measure how its predictions change; the model is left as it was.

    The reference output of one example is in memory at a time. ``cases`` are lists of changes that are applied
    together; the first candidate of each is taken.
    """
    import torch

    parameters = torch_parameters(model)
    results = [Measured(np.empty(len(examples)), np.full(len(examples), np.nan)) for _ in cases]
    with _evaluating(model), torch.no_grad():
        for start, references in _references(model, examples, forward):
            for done, (case, result) in enumerate(zip(cases, results, strict=True)):
                with _applied(parameters, case):
                    for row, reference in enumerate(references, start):
                        output = run_example(model, examples[row], forward)
                        result.divergence[row] = divergence(reference, output, loss)
                        result.loss[row] = _rise(reference, output, examples[row].labels, loss)
                if progress:
                    share = start * len(cases) + (done + 1) * len(references)
                    progress(share, len(examples) * len(cases))
    return results


def _references(model: Any, examples: Sequence[Example], forward: Forward | None) -> Iterator[tuple[int, list[Any]]]:
    """Yield (first example, outputs of the unchanged model) for runs of examples whose outputs fit into memory."""
    start, outputs, size = 0, [], 0
    for row, example in enumerate(examples):
        outputs.append(run_example(model, example, forward).detach())
        size += outputs[-1].numel() * outputs[-1].element_size()
        if size > MAX_REFERENCE_BYTES or row == len(examples) - 1:
            yield start, outputs
            start, outputs, size = row + 1, [], 0


def _rise(reference: Any, output: Any, labels: Any, loss: Loss) -> float:
    if labels is None:
        return math.nan
    before, after = (float(loss.values(values, labels).sum()) for values in (reference, output))
    return (after - before) / positions_of(output, loss)


def divergence(reference: Any, output: Any, loss: Loss) -> float:
    """Return KL(reference ‖ output) in nats per prediction for logits, or ½‖Δf‖² for "mse"."""
    first, second = reference.double(), output.double()
    if loss.kind == "mse":
        return 0.5 * float((second - first).square().sum()) / len(first)
    p, q = first.log_softmax(-1), second.log_softmax(-1)
    return float((p.exp() * (p - q)).sum()) / positions_of(output, loss)


@contextmanager
def _applied(parameters: dict[str, Any], changes: Sequence[Change]) -> Iterator[None]:
    """Add the changes to the parameters, and put the exact values back."""
    import torch

    kept = {name: parameters[name].detach().clone() for name in {change.parameter for change in changes}}
    try:
        for change in changes:
            parameter = parameters[change.parameter]
            array = parameter.detach().cpu().float().numpy().copy()
            part = pick(array, change.ref)
            changed = part + np.asarray(change.read()[0], np.float32).reshape(part.shape)
            _put(array, change, changed)
            parameter.copy_(torch.from_numpy(array))
        yield
    finally:
        for name, value in kept.items():
            parameters[name].copy_(value)


def _put(array: Array, change: Change, values: Array) -> None:
    """Write the entries of one weight into the array of its parameter."""
    numbers = np.arange(array.size).reshape(array.shape)
    array.reshape(-1)[pick(numbers, change.ref).reshape(-1)] = values.reshape(-1)


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    try:
        with preserve_randomness(model):
            model.eval()
            yield
    finally:
        for module, training in modes:
            module.training = training
