"""The loss of a base and of its tuned model, and which blocks of the update cause the difference."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.errors import UsageError
from layerscope.lenses.landscape.evaluation.value import Value
from layerscope.sources.model_weights import Weights, weights_of_all
from layerscope.tensor_roles import block_of

if TYPE_CHECKING:
    from layerscope.array_types import Floats

OUTSIDE = "outside blocks"
Evaluate = Callable[[Weights], Any]


def measure_losses(
    base: Any, tuned: Any, evaluators: Mapping[str, Evaluate], by_block: bool = False
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """Return the losses of base and tuned model on each data set.

    For every data set: the metrics of both, the difference of their losses with its standard error over examples, and
    with ``by_block`` for each block how the loss changes if the tensors of this block alone are put back to the base's.

    :param evaluators: name of the data ("train", "held out") → function from weights to metrics including "loss".
    :raises UsageError: an evaluator has no loss.
    """
    before, after = weights_of_all([base, tuned])
    blocks: dict[str, list[str]] = {}
    for name, value in after.items():
        if name in before and not np.array_equal(before[name], value):
            number = block_of(name)
            blocks.setdefault(OUTSIDE if number is None else f"block {number}", []).append(name)
    results: dict[str, dict[str, Any]] = {}
    for data, evaluate in evaluators.items():
        values = {"base": _evaluate(evaluate, before, data), "tuned": _evaluate(evaluate, after, data)}
        result: dict[str, Any] = {name: dict(value.metrics) for name, value in values.items()}
        result["change"] = _difference(values["base"], values["tuned"])
        if by_block:
            result["blocks"] = {
                label: _difference(
                    values["tuned"], _evaluate(evaluate, {**after, **{name: before[name] for name in names}}, data)
                )
                for label, names in blocks.items()
            }
        results[data] = result
    return results


def _evaluate(evaluate: Evaluate, weights: Weights, data: str) -> Value:
    value = evaluate(weights)
    if not isinstance(value, Value):
        value = Value({str(name): float(number) for name, number in value.items()}, np.empty(0))
    if "loss" not in value.metrics:
        raise UsageError(f"the evaluator of {data!r} returned {sorted(value.metrics)}; it must return a loss")
    return value


def _difference(first: Value, second: Value) -> dict[str, float | None]:
    """Return the change of the loss from the first to the second, with its standard error over paired examples."""
    change = float(second.metrics["loss"]) - float(first.metrics["loss"])
    return {"loss": change, "error": _paired_error(first.samples, second.samples)}


def _paired_error(first: Floats, second: Floats) -> float | None:
    if len(first) < 2 or len(first) != len(second):
        return None
    return float(np.std(second - first, ddof=1)) / math.sqrt(len(first))
