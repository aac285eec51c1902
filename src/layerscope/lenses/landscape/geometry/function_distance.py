"""Differences between models in function space: predictions, probabilities and logits."""

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

MIN_PROBABILITY = 1e-12  # added to probabilities before taking logarithms
IGNORED_LABEL = -100  # label that PyTorch uses for positions to ignore
DISTANCE_NAMES = ("disagreement", "normalised", "js", "logits", "cka")


def function_distance(a: Any, b: Any, evaluate: Any) -> FunctionDistance:
    """Compare the predictions of two classifiers on the evaluator's data.

    :param a, b: the models: live, files, or arrays by name.
    :param evaluate: a :class:`~layerscope.TorchEvaluator` or :class:`~layerscope.KerasEvaluator`.
    :raises UsageError: if the outputs contain NaN or infinity.
    """
    logits_a, logits_b = outputs([a, b], evaluate)
    return between(logits_a, logits_b, evaluate.labels.reshape(-1))


def outputs(models: Sequence[Any], evaluate: Any) -> list[Floats]:
    """Return the logits (n, classes) of each model."""
    logits = []
    for model in models:
        with evaluate.walk([weights_of(model)]) as value_at:
            value_at([1.0])
            logits.append(evaluate.outputs())
    return logits


def between(a: Floats, b: Floats, y: Any) -> FunctionDistance:
    """Compare two models by their logits (n, classes) and the labels (n,), skipping ignored labels (−100)."""
    if y.dtype.kind in "iu" and (y == IGNORED_LABEL).any():
        a, b, y = (part[y != IGNORED_LABEL] for part in (a, b, y))
    for logits in (a, b):
        if not np.isfinite(logits).all():
            raise UsageError("a model's outputs are not finite, so its predictions cannot be compared: leave it out")
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
    """Return each kind of distance for all pairs of models as a matrix (M, M)."""
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
    """Return the distances as numbers by name."""
    return {name: float(getattr(distance, name)) for name in DISTANCE_NAMES}
