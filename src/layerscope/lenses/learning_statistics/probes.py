"""Small experiments on a live PyTorch model: scale a layer, block its updates, put a norm before its last layer."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from layerscope.errors import UsageError, did_you_mean
from layerscope.lenses.learning_statistics.capture import measurable
from layerscope.lenses.learning_statistics.conditioning import conditioning
from layerscope.live.batches import as_batches, materialize_batches
from layerscope.live.user_code import torch_parameters
from layerscope.records.report import Report

INVARIANT, HOMOGENEOUS, NEITHER = "scale-invariant", "homogeneous", "neither"
MAX_DEVIATION = 0.05  # relative error of a ratio that still agrees with its theorem
PROBED_METRICS = ("lambda_max_x", "lambda_max_d", "domination")


@dataclass(frozen=True)
class ScaledLayer:
    """Of one layer: each quantity after the weight of the probed layer was scaled, over what it was before."""

    name: str
    inputs: float | None  # λmax(S_x); None where it has no value
    gradients: float | None  # λmax(S_d)
    domination: float | None  # σmax(∂L/∂W)/σmax(W)
    plain: tuple[float, float, float]  # what Theorem 1 says of a rectifier network without biases
    normalised: tuple[float, float, float]  # what Theorem 2 says where a norm follows each linear map


@dataclass(frozen=True)
class ScaleProbe:
    """What scaling one weight by α did to every layer, beside what the paper's two theorems say."""

    layer: str
    alpha: float
    kind: str  # scale-invariant (Theorem 2), homogeneous (Theorem 1), or neither
    deviation: float  # largest |measured / predicted − 1| of the theorem that is nearer
    layers: tuple[ScaledLayer, ...]

    def __repr__(self) -> str:
        width = max(len(layer.name) for layer in self.layers)
        lines = [f"{self.layer} times {self.alpha:g}: {self.kind} (off by {self.deviation:.1%} at most)"]
        lines += [f"  {'':{width}}  {'λmax Sx':>22}  {'λmax Sd':>22}  {'domination':>22}"]
        for layer in self.layers:
            measured = (layer.inputs, layer.gradients, layer.domination)
            cells = [
                f"{'–' if ratio is None else format(ratio, '.3g'):>8} ({first:.3g}; {second:.3g})"
                for ratio, first, second in zip(measured, layer.plain, layer.normalised, strict=True)
            ]
            lines.append(f"  {layer.name:{width}}  " + "  ".join(f"{cell:>22}" for cell in cells))
        return "\n".join([*lines, "  measured (Theorem 1; Theorem 2)"])


def scale_probe(
    model: Any, data: Any, layer: str, alpha: float = 2.0, *, forward: Callable[[Any, Any], Any] | None = None
) -> ScaleProbe:
    """Multiply one weight by α and see which layers feel it.

    Theorem 1, a rectifier network without norms and biases: what comes into every later layer scales by α, what comes
    back to every earlier one by α, the probed layer's own gradient not at all; their second moments by α². Theorem 2,
    a norm behind each linear map: nothing changes but the probed layer's gradients, by 1/α. The gradient at the output
    is held fixed (ℓ is a fixed linear function of the output), so that the loss plays no part. Biases and the norms' ε
    make both approximate. Source: Huang et al., ECCV 2020 (arXiv 2002.10801), Theorems 1 and 2.

    :param data: (x, y), of which y is not used, or batches of such pairs.
    :param layer: the weight's name, as in a report; the model is left as it was found.
    :raises UsageError: no such weight, or an α that is not above zero.
    """
    import torch

    torch_parameters(model)
    data = materialize_batches(model, as_batches(data))
    weights = {
        f"{name}.weight".lstrip("."): module.weight for name, module in model.named_modules() if measurable(module)
    }
    layer = layer if layer in weights else f"{layer}.weight" if f"{layer}.weight" in weights else layer
    if layer not in weights:
        raise UsageError(f"no weight called {layer!r}{did_you_mean(layer, weights)}")
    if not (0 < alpha < math.inf) or alpha == 1:
        raise UsageError(f"alpha must be above zero and not 1, which is {alpha!r}")
    weight = weights[layer]
    original = weight.detach().clone()

    def linear_loss(output: Any, _: Any) -> Any:
        generator = torch.Generator().manual_seed(0)
        direction = torch.randn(output.shape[1:], generator=generator).to(output)
        return (output * direction).flatten(1).sum(1)

    def measure() -> Report:
        return conditioning(model, data, linear_loss, forward=forward, fits=(), min_evals=2)

    before = measure()
    try:
        with torch.no_grad():
            weight.mul_(alpha)
        after = measure()
    finally:
        with torch.no_grad():
            weight.copy_(original)
    names = [row.name for row in before.rows if not row.skipped]
    if layer not in names:
        raise UsageError(f"{layer} cannot be measured: {before.layers[layer].skipped}")
    layers = tuple(_scaled_layer(name, names.index(layer) - i, alpha, before, after) for i, name in enumerate(names))
    deviations = {HOMOGENEOUS: max(_deviation(scaled, scaled.plain) for scaled in layers)}
    deviations[INVARIANT] = max(_deviation(scaled, scaled.normalised) for scaled in layers)
    nearest = min(deviations, key=lambda kind: deviations[kind])
    kind = nearest if deviations[nearest] <= MAX_DEVIATION else NEITHER
    return ScaleProbe(layer, alpha, kind, deviations[nearest], layers)


def _scaled_layer(name: str, layers_before: int, alpha: float, before: Report, after: Report) -> ScaledLayer:
    """``layers_before``: how many layers it comes before the probed one; negative behind it."""
    ratios = [_metric_ratio(before, after, name, metric) for metric in PROBED_METRICS]
    square = alpha**2
    plain = (
        square if layers_before < 0 else 1.0,
        square if layers_before > 0 else 1.0,
        1 / alpha if layers_before == 0 else alpha,
    )
    normalised = (1.0, 1 / square, 1 / square) if layers_before == 0 else (1.0, 1.0, 1.0)
    return ScaledLayer(name, ratios[0], ratios[1], ratios[2], plain, normalised)


def _metric_ratio(before: Report, after: Report, name: str, metric: str) -> float | None:
    value_before, value_after = (report.layers[name].metrics.get(metric) for report in (before, after))
    return float(value_after) / float(value_before) if value_before and value_after is not None else None


def _deviation(layer: ScaledLayer, predicted: tuple[float, float, float]) -> float:
    pairs = zip((layer.inputs, layer.gradients, layer.domination), predicted, strict=True)
    return max((abs(ratio / prediction - 1) for ratio, prediction in pairs if ratio is not None), default=math.inf)


@contextmanager
def block_updates(model: Any, pattern: str) -> Iterator[tuple[str, ...]]:
    """Inside, layers with a 0 in the pattern are not trained: weight domination pushed to its end.

    ``block_updates(model, "00111")`` freezes weight and bias of the first two of five linear or convolutional layers;
    what is not theirs (the norms) goes on. Yields the names of the frozen modules; afterwards all is as before. It is
    an upper bound of what weight domination does, with random features kept: it does not show that a dominated layer
    is as bad. Source: Huang et al., ECCV 2020 (arXiv 2002.10801), §4.2.

    :raises UsageError: another number of layers, or characters other than 0 and 1.
    """
    torch_parameters(model)
    layers = {name: module for name, module in model.named_modules() if measurable(module)}
    if len(pattern) != len(layers) or set(pattern) - {"0", "1"}:
        raise UsageError(
            f"{pattern!r} is no pattern of {len(layers)} zeros and ones, one for each of {', '.join(layers)}"
        )
    frozen = [name for name, sign in zip(layers, pattern, strict=True) if sign == "0"]
    frozen_parameters = [p for name in frozen for p in layers[name].parameters(recurse=False)]
    before = [(p, p.requires_grad, p.grad) for p in frozen_parameters]
    try:
        for p in frozen_parameters:
            p.requires_grad_(False)
            p.grad = None  # an optimiser passes over parameters without one
        yield tuple(frozen)
    finally:
        for p, requires_grad, gradient in before:
            p.requires_grad_(requires_grad)
            p.grad = gradient


def with_last_bn(model: Any, name: str | None = None) -> Any:
    """A copy of the model with a batch norm before its last linear layer: the remedy for deep residual networks.

    The last layer's curvature is λmax of its inputs times that of its gradients; behind a batch norm the former is of
    the order of the width, whatever the depth. Source: Huang et al., ECCV 2020 (arXiv 2002.10801), §5.

    :param name: of the linear layer; the last one that is registered where none is given.
    :raises UsageError: no such linear layer.
    """
    from torch import nn

    from layerscope.lenses.learning_statistics.paper_networks import NormedLinear

    torch_parameters(model)
    copied = copy.deepcopy(model)
    linear = {path: module for path, module in copied.named_modules() if type(module) is nn.Linear}
    if not linear or (name is not None and name not in linear):
        hint = did_you_mean(name or "", linear) or (f"; there are: {', '.join(linear)}" if linear else "")
        raise UsageError(f"the model has no linear layer{'' if name is None else f' {name!r}'}{hint}")
    path = name if name is not None else list(linear)[-1]
    normed = NormedLinear(linear[path])
    if not path:
        return normed
    parent, _, last = path.rpartition(".")
    setattr(copied.get_submodule(parent), last, normed)
    return copied
