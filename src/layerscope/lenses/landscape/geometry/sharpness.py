"""How sharp a minimum is: how the loss rises around a model, on average and in the worst direction that was found."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from layerscope.errors import UsageError
from layerscope.lenses.landscape.evaluation.points import walking
from layerscope.lenses.landscape.evaluation.torch_evaluator import TorchEvaluator
from layerscope.lenses.landscape.geometry.directions import random_direction
from layerscope.records.landscape.basins import Sharpness
from layerscope.rules.judging import judge_landscape
from layerscope.rules.landscape_facts import Slope
from layerscope.sources.model_weights import STATISTICS, combined, weights_of

WIDE = math.log(2)  # rise of the loss that ends a basin
MOST_WIDTH = 8.0  # filter norms
ASCENT = 10  # steps


def sharpness(
    model: Any, evaluate: TorchEvaluator, *, sigma: float = 0.05, rho: float = 0.05, epsilon: float = 1e-3,
    draws: int = 8, seed: int = 0,
) -> Sharpness:  # fmt: skip
    """Average, worst-direction and width measures of the loss around a model.

    :param sigma: relative noise of the average; ``draws`` antithetic pairs of it.
    :param rho: radius of the step along the gradient.
    :param epsilon: half-side of the box in which the worst rise is sought, by ten steps of projected sign ascent.
    :raises UsageError: a radius that is not above zero.
    """
    if min(sigma, rho, epsilon) <= 0 or draws < 1:
        raise UsageError(f"sigma, rho and epsilon must be above 0 and draws at least 1: {sigma!r}, {rho!r}, {draws!r}")
    if not hasattr(evaluate, "gradient"):
        raise UsageError(f"sharpness needs gradients, which a {type(evaluate).__name__} has not: TorchEvaluator")
    weights = weights_of(model)
    base = evaluate(weights).metrics["loss"]
    if not math.isfinite(base):
        raise UsageError("the model's own loss is not finite: there is no sharpness")
    rng = np.random.default_rng(seed)
    rises = []
    for _ in range(draws):
        noise = {k: _noise(rng, k, v) for k, v in weights.items()}
        with walking([weights, combined([weights, noise], [1.0, 1.0])], evaluate) as at:
            both = [at([1 - t, t]).metrics["loss"] for t in (sigma, -sigma)]
        rises.append(sum(both) / 2 - base)
    gradient = evaluate.gradient(weights)
    length = math.sqrt(sum(float(np.square(g).sum()) for g in gradient.values()))
    scaled = {k: np.abs(weights[k]) * g for k, g in gradient.items()}
    other = math.sqrt(sum(float(np.square(g).sum()) for g in scaled.values()))
    plain = {k: rho * g / length if length > 0 else g for k, g in gradient.items()}
    adapted = {k: rho * np.abs(weights[k]) * g / other if other > 0 else g for k, g in scaled.items()}
    steps = [evaluate(_moved(weights, step)).metrics["loss"] - base for step in (plain, adapted)]
    error = float(np.std(rises, ddof=1) / math.sqrt(draws)) if draws > 1 else math.nan
    widths = [_width(weights, evaluate, base, seed, k) for k in range(min(draws, 4))]
    width = float(np.median(widths))
    worst = _worst(weights, evaluate, base, epsilon)
    findings = judge_landscape(slope=Slope(length, rho, steps[0]))
    return Sharpness(base, float(np.mean(rises)), error, steps[0], steps[1], worst, width, length, sigma, rho, epsilon,
                     findings)  # fmt: skip


def _worst(weights: Any, evaluate: TorchEvaluator, base: float, epsilon: float) -> float:
    """Projected ascent along the signs of the gradient, inside |δᵢ| ≤ ε(|θᵢ| + 1)."""
    here, best = dict(weights), 0.0
    for _ in range(ASCENT):
        gradient = evaluate.gradient(here)
        for name, g in gradient.items():
            room = epsilon * (np.abs(weights[name]) + 1)
            moved = here[name] + 2.5 / ASCENT * room * np.sign(g)
            here[name] = np.clip(moved, weights[name] - room, weights[name] + room).astype(weights[name].dtype)
        loss = evaluate(here).metrics["loss"]
        if not math.isfinite(loss):
            return math.inf
        best = max(best, loss - base)
    return 100 * best / (1 + base)


def _noise(rng: np.random.Generator, name: str, value: Any) -> Any:
    drawn = rng.standard_normal(value.shape)
    return np.zeros_like(value) if name.endswith(STATISTICS) else (np.abs(value) * drawn).astype(value.dtype)


def _moved(weights: Any, step: Any) -> dict[str, Any]:
    return {k: (v + step[k]).astype(v.dtype) if k in step else v for k, v in weights.items()}


def _width(weights: Any, evaluate: TorchEvaluator, base: float, seed: int, number: int) -> float:
    """Mean of both sides, by doubling and bisection."""
    direction = random_direction(weights, seed=seed, number=number)
    with walking([weights, combined([weights, direction], [1.0, 1.0])], evaluate) as at:
        found = []
        for sign in (1.0, -1.0):
            low, high = 0.0, 0.125
            while high < MOST_WIDTH and at([1 - sign * high, sign * high]).metrics["loss"] - base < WIDE:
                low, high = high, 2 * high
            for _ in range(8):
                middle = (low + high) / 2
                rise = at([1 - sign * middle, sign * middle]).metrics["loss"] - base
                low, high = (middle, high) if rise < WIDE else (low, middle)
            found.append(high)
    return sum(found) / 2
