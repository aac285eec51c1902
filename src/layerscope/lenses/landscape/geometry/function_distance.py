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
from layerscope.sources.several_models import index_pairs

if TYPE_CHECKING:
    from layerscope.array_types import Floats

MIN_PROBABILITY = 1e-12  # added before logarithms
IGNORED_LABEL = -100  # of examples that have none
DISTANCE_NAMES = ("disagreement", "normalised", "js", "logits", "cka")


def function_distance(a: Any, b: Any, evaluate: Any) -> FunctionDistance:
    """How different two classifiers are on the evaluator's data.

    :param evaluate: :class:`~layerscope.TorchEvaluator` or :class:`~layerscope.KerasEvaluator`.
    :raises UsageError: outputs that are not finite.
    """
    logits_a, logits_b = outputs([a, b], evaluate)
    return between(logits_a, logits_b, evaluate.labels.reshape(-1))


def outputs(models: Sequence[Any], evaluate: Any) -> list[Floats]:
    """(n, classes) of each model: its logits."""
    logits = []
    for model in models:
        with evaluate.walk([weights_of(model)]) as value_at:
            value_at([1.0])
            logits.append(evaluate.outputs())
    return logits


def between(a: Floats, b: Floats, y: Any) -> FunctionDistance:
    """The distances from both models' logits (n, classes) and the labels (n,); without rows that have none (−100)."""
    if y.dtype.kind in "iu" and (y == IGNORED_LABEL).any():
        a, b, y = (part[y != IGNORED_LABEL] for part in (a, b, y))
    for logits in (a, b):
        if not np.isfinite(logits).all():
            raise UsageError("a model's outputs are not finite: it has no predictions to compare")
    p, q = _softmax(a), _softmax(b)
    middle = (p + q) / 2
    js = 0.5 * (_kl(p, middle) + _kl(q, middle))
    error_a, error_b = (float((logits.argmax(1) != y).mean()) for logits in (a, b))
    disagreement = float((a.argmax(1) != b.argmax(1)).mean())
    mean_error = (error_a + error_b) / 2
    centered_a, centered_b = (logits - logits.mean(1, keepdims=True) for logits in (a, b))
    return FunctionDistance(
        disagreement=disagreement,
        normalised=disagreement / mean_error if mean_error > 0 else math.nan,
        js=float(js.mean()),
        logits=float(np.sqrt(np.square(centered_a - centered_b).mean())),
        cka=linear_cka(a, b),
        errors=(error_a, error_b),
        examples=len(y),
    )


def matrices(models: Sequence[Any], evaluate: Any) -> dict[str, Floats]:
    """Every distance of every two models, (M, M) each."""
    logits, y = outputs(models, evaluate), evaluate.labels.reshape(-1)
    matrix_by_name = {name: np.full((len(models), len(models)), float(name == "cka")) for name in DISTANCE_NAMES}
    for i, j in index_pairs(len(models)):
        for name, value in summary(between(logits[i], logits[j], y)).items():
            matrix_by_name[name][i, j] = matrix_by_name[name][j, i] = value
    return matrix_by_name


def _softmax(logits: Floats) -> Floats:
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(1, keepdims=True))


def _kl(p: Floats, q: Floats) -> Floats:
    return np.asarray((p * (np.log(p + MIN_PROBABILITY) - np.log(q + MIN_PROBABILITY))).sum(1))


def summary(distance: FunctionDistance) -> Mapping[str, float]:
    """As numbers by name."""
    return {name: float(getattr(distance, name)) for name in DISTANCE_NAMES}
