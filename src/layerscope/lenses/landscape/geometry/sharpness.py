"""Sharpness of a minimum: how much the loss increases around a model, on average and in the worst direction found."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from layerscope.errors import UsageError
from layerscope.lenses.landscape.evaluation.points import walking
from layerscope.lenses.landscape.evaluation.torch_evaluator import TorchEvaluator
from layerscope.lenses.landscape.geometry.directions import random_direction
from layerscope.records.landscape.basins import Sharpness
from layerscope.rules.judging import judge_landscape
from layerscope.rules.landscape_facts import Slope
from layerscope.sources.model_weights import RUNNING_STATISTICS, combine, weights_of

BASIN_RISE = math.log(2)  # increase of the loss at which the width is measured
MAX_WIDTH = 8.0  # largest measured width, in filter norms
ASCENT_STEPS = 10
BISECTION_STEPS = 8
MAX_WIDTH_DIRECTIONS = 4  # random directions along which the width is measured


def sharpness(
    model: Any, evaluate: TorchEvaluator, *, sigma: float = 0.05, rho: float = 0.05, epsilon: float = 1e-3,
    draws: int = 8, seed: int = 0,
) -> Sharpness:  # fmt: skip
    """Measure the increase of the loss around a model: average, along the gradient, worst case, and basin width.

    :param model: the model: live, a file, or arrays by name.
    :param evaluate: a :class:`~layerscope.TorchEvaluator`.
    :param sigma: standard deviation of the noise for the average, relative to each weight.
    :param rho: length of the step along the gradient.
    :param epsilon: size of the box searched for the worst increase, by ten steps of projected sign ascent.
    :param draws: number of antithetic pairs of noise for the average.
    :param seed: seed for all random numbers.
    :raises UsageError: if an argument is not positive, or the evaluator cannot compute gradients.
    """
    if min(sigma, rho, epsilon) <= 0 or draws < 1:
        given = f"sigma={sigma!r}, rho={rho!r}, epsilon={epsilon!r}, draws={draws!r}"
        raise UsageError(f"{given}: sigma, rho and epsilon must be above 0, and draws at least 1")
    if not hasattr(evaluate, "gradient"):
        raise UsageError(f"sharpness needs gradients, but got a {type(evaluate).__name__}: pass a TorchEvaluator")
    weights = weights_of(model)
    base = evaluate(weights).metrics["loss"]
    if not math.isfinite(base):
        raise UsageError(
            "the model's own loss is not finite, so its sharpness is undefined: check the weights and the data"
        )
    rng = np.random.default_rng(seed)
    rises = []
    for _ in range(draws):
        noise = {k: _relative_noise(rng, k, v) for k, v in weights.items()}
        with walking([weights, combine([weights, noise], [1.0, 1.0])], evaluate) as value_at:
            losses = [value_at([1 - t, t]).metrics["loss"] for t in (sigma, -sigma)]
        rises.append(sum(losses) / 2 - base)
    gradient = evaluate.gradient(weights)
    scaled = {k: np.abs(weights[k]) * g for k, g in gradient.items()}
    length, scaled_length = _norm(gradient), _norm(scaled)
    sam_step = {k: rho * g / length if length > 0 else g for k, g in gradient.items()}
    adaptive_step = {
        k: rho * np.abs(weights[k]) * g / scaled_length if scaled_length > 0 else g for k, g in scaled.items()
    }
    sam, adaptive = (evaluate(_add(weights, step)).metrics["loss"] - base for step in (sam_step, adaptive_step))
    widths = [_half_width(weights, evaluate, base, seed, k) for k in range(min(draws, MAX_WIDTH_DIRECTIONS))]
    return Sharpness(
        loss=base,
        average=float(np.mean(rises)),
        average_error=float(np.std(rises, ddof=1) / math.sqrt(draws)) if draws > 1 else math.nan,
        sam=sam,
        adaptive=adaptive,
        worst=_worst_rise(weights, evaluate, base, epsilon),
        width=float(np.median(widths)),
        gradient=length,
        sigma=sigma,
        rho=rho,
        epsilon=epsilon,
        findings=judge_landscape(slope=Slope(length, rho, sam)),
    )


def _norm(arrays: Mapping[str, Any]) -> float:
    return math.sqrt(sum(float(np.square(array).sum()) for array in arrays.values()))


def _worst_rise(weights: Any, evaluate: TorchEvaluator, base: float, epsilon: float) -> float:
    """Find a large increase in percent by projected sign-gradient ascent within |δᵢ| ≤ ε(|θᵢ| + 1)."""
    current, best = dict(weights), 0.0
    for _ in range(ASCENT_STEPS):
        gradient = evaluate.gradient(current)
        for name, g in gradient.items():
            radius = epsilon * (np.abs(weights[name]) + 1)
            ascended = current[name] + 2.5 / ASCENT_STEPS * radius * np.sign(g)
            projected = np.clip(ascended, weights[name] - radius, weights[name] + radius)
            current[name] = projected.astype(weights[name].dtype)
        loss = evaluate(current).metrics["loss"]
        if not math.isfinite(loss):
            return math.inf
        best = max(best, loss - base)
    return 100 * best / (1 + base)


def _relative_noise(rng: np.random.Generator, name: str, value: Any) -> Any:
    """Draw Gaussian noise scaled by the size of each weight; running statistics get none."""
    noise = rng.standard_normal(value.shape)
    return np.zeros_like(value) if name.endswith(RUNNING_STATISTICS) else (np.abs(value) * noise).astype(value.dtype)


def _add(weights: Any, step: Any) -> dict[str, Any]:
    return {k: (v + step[k]).astype(v.dtype) if k in step else v for k, v in weights.items()}


def _half_width(weights: Any, evaluate: TorchEvaluator, base: float, seed: int, number: int) -> float:
    """Find the half-width along one random direction by doubling and bisection; average both sides."""
    direction = random_direction(weights, seed=seed, number=number)
    with walking([weights, combine([weights, direction], [1.0, 1.0])], evaluate) as value_at:
        sides = []
        for sign in (1.0, -1.0):
            low, high = 0.0, 0.125
            while high < MAX_WIDTH and value_at([1 - sign * high, sign * high]).metrics["loss"] - base < BASIN_RISE:
                low, high = high, 2 * high
            for _ in range(BISECTION_STEPS):
                middle = (low + high) / 2
                rise = value_at([1 - sign * middle, sign * middle]).metrics["loss"] - base
                low, high = (middle, high) if rise < BASIN_RISE else (low, middle)
            sides.append(high)
    return sum(sides) / 2
