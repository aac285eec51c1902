"""How different models are as functions: predictions, probabilities, representations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.errors import UsageError
from layerscope.numerics.similarity import linear_cka
from layerscope.records.landscape.distances import FunctionDistance
from layerscope.sources.model_weights import weights_of
from layerscope.sources.several_models import pairs

if TYPE_CHECKING:
    from layerscope.array_types import Floats

TINY = 1e-12
IGNORED = -100  # the label of what has none
NAMES = ("disagreement", "normalised", "js", "logits", "cka")


def function_distance(a: Any, b: Any, evaluate: Any) -> FunctionDistance:
    """How different two classifiers are on the evaluator's data.

    :param evaluate: :class:`~layerscope.TorchEvaluator` or :class:`~layerscope.KerasEvaluator`.
    :raises UsageError: outputs that are not finite.
    """
    one, other = outputs([a, b], evaluate)
    return between(one, other, evaluate.labels.reshape(-1))


def outputs(models: Sequence[Any], evaluate: Any) -> list[Floats]:
    """(n, classes) of each model: its logits."""
    found = []
    for model in models:
        with evaluate.walk([weights_of(model)]) as at:
            at([1.0])
            found.append(evaluate.outputs())
    return found


def between(one: Floats, other: Floats, y: Any) -> FunctionDistance:
    """The distances from both models' logits (n, classes) and the labels (n,); without rows that have none (−100)."""
    if y.dtype.kind in "iu" and (y == IGNORED).any():
        one, other, y = (part[y != IGNORED] for part in (one, other, y))
    for rows in (one, other):
        if not np.isfinite(rows).all():
            raise UsageError("a model's outputs are not finite: it has no predictions to compare")
    p, q = _softmax(one), _softmax(other)
    middle = (p + q) / 2
    js = 0.5 * (_kl(p, middle) + _kl(q, middle))
    wrong = tuple(float((rows.argmax(1) != y).mean()) for rows in (one, other))
    apart = float((one.argmax(1) != other.argmax(1)).mean())
    centred = [rows - rows.mean(1, keepdims=True) for rows in (one, other)]
    mean_error = sum(wrong) / 2
    return FunctionDistance(
        apart, apart / mean_error if mean_error > 0 else math.nan, float(js.mean()),
        float(np.sqrt(np.square(centred[0] - centred[1]).mean())), linear_cka(one, other), (wrong[0], wrong[1]), len(y),
    )  # fmt: skip


def matrices(models: Sequence[Any], evaluate: Any) -> dict[str, Floats]:
    """Every distance of every two models, (M, M) each."""
    rows, y = outputs(models, evaluate), evaluate.labels.reshape(-1)
    found = {name: np.full((len(models), len(models)), float(name == "cka")) for name in NAMES}
    for i, j in pairs(len(models)):
        for name, value in summary(between(rows[i], rows[j], y)).items():
            found[name][i, j] = found[name][j, i] = value
    return found


def _softmax(rows: Floats) -> Floats:
    shifted = np.exp(rows - rows.max(1, keepdims=True))
    return np.asarray(shifted / shifted.sum(1, keepdims=True))


def _kl(p: Floats, q: Floats) -> Floats:
    return np.asarray((p * (np.log(p + TINY) - np.log(q + TINY))).sum(1))


def summary(found: FunctionDistance) -> Mapping[str, float]:
    """As numbers by name."""
    return {name: float(getattr(found, name)) for name in NAMES}
