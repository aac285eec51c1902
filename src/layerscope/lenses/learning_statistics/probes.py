"""Small experiments on a live PyTorch model: scale a layer, freeze layers, insert a norm before the last layer."""

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
from layerscope.lenses.learning_statistics.weights import is_computed
from layerscope.live.batches import as_batches, materialize_batches
from layerscope.live.user_code import torch_parameters
from layerscope.records.report import Report

INVARIANT, HOMOGENEOUS, NEITHER = "scale-invariant", "homogeneous", "neither"
MAX_DEVIATION = 0.05  # largest relative error of a ratio that still counts as agreement with a theorem
PROBED_METRICS = ("lambda_max_x", "lambda_max_d", "domination")


@dataclass(frozen=True)
class ScaledLayer:
    """Ratios after/before of one layer's quantities, where the weight of the probed layer was scaled in between."""

    name: str
    inputs: float | None  # ratio of λmax(S_x), the input covariance; None if it was not measured
    gradients: float | None  # ratio of λmax(S_d), the gradient covariance
    domination: float | None  # ratio of σmax(∂L/∂W)/σmax(W)
    plain: tuple[float, float, float]  # predicted by Theorem 1: ReLU networks without biases and norms
    normalised: tuple[float, float, float]  # predicted by Theorem 2: a norm follows each linear layer


@dataclass(frozen=True)
class ScaleProbe:
    """The effect of scaling one weight by α on every layer, next to the predictions of the paper's two theorems."""

    layer: str
    alpha: float
    kind: str  # scale-invariant (Theorem 2), homogeneous (Theorem 1), or neither
    deviation: float  # largest |measured / predicted − 1|, for the theorem that fits better
    layers: tuple[ScaledLayer, ...]

    def __repr__(self) -> str:
        width = max(len(layer.name) for layer in self.layers)
        lines = [f"{self.layer} scaled by {self.alpha:g}: {self.kind}"]
        lines += [f"  largest deviation from the closer theorem: {self.deviation:.1%}"]
        lines += [f"  {'':{width}}  {'λmax Sx':>22}  {'λmax Sd':>22}  {'domination':>22}"]
        for layer in self.layers:
            measured = (layer.inputs, layer.gradients, layer.domination)
            cells = [
                f"{'–' if ratio is None else format(ratio, '.3g'):>8} ({first:.3g}; {second:.3g})"
                for ratio, first, second in zip(measured, layer.plain, layer.normalised, strict=True)
            ]
            lines.append(f"  {layer.name:{width}}  " + "  ".join(f"{cell:>22}" for cell in cells))
        return "\n".join([*lines, "  Each cell: measured ratio (predicted by Theorem 1; by Theorem 2)"])


def scale_probe(
    model: Any, data: Any, layer: str, alpha: float = 2.0, *, forward: Callable[[Any, Any], Any] | None = None
) -> ScaleProbe:
    """Multiply one weight by α and measure how every layer responds.

    Theorem 1 (ReLU network without norms and biases): the inputs of all later layers and the output gradients of all
    earlier layers scale by α, their second moments by α². The output gradient of the probed layer does not change.
    Theorem 2 (a norm after each linear layer): only the gradients of the probed layer change, by 1/α.

    The loss is replaced by a fixed linear function of the output, so that the gradient at the output stays the same.
    Biases and the ε of the norms make both theorems approximate. The model is left as it was found. Source: Huang et
    al., ECCV 2020 (arXiv 2002.10801), Theorems 1 and 2.

    :param data: a pair (x, y), or batches of such pairs; y is not used.
    :param layer: name of the weight, as in a report, e.g. "fc1.weight" or "fc1".
    :param alpha: factor above 0 and other than 1.
    :param forward: function (model, batch) → (output, labels), for models that are not called as model(x).
    :raises UsageError: there is no such weight, it cannot be measured, or α is out of range.
    """
    import torch

    torch_parameters(model)
    data = materialize_batches(model, as_batches(data))
    weights = {
        f"{name}.weight".lstrip("."): module.weight
        for name, module in model.named_modules()
        if measurable(module) and not is_computed(module)
    }
    layer = layer if layer in weights else f"{layer}.weight" if f"{layer}.weight" in weights else layer
    if layer not in weights:
        raise UsageError(
            f"no weight called {layer!r}{did_you_mean(layer, weights)} Give the name of a layer or of its weight"
        )
    if not (0 < alpha < math.inf) or alpha == 1:
        raise UsageError(f"alpha must be a finite number above 0 and other than 1, e.g. 2, not {alpha!r}")
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
        raise UsageError(f"{layer} cannot be measured: {before.layers[layer].skipped}; choose another layer")
    layers = tuple(_scaled_layer(name, names.index(layer) - i, alpha, before, after) for i, name in enumerate(names))
    deviations = {HOMOGENEOUS: max(_deviation(scaled, scaled.plain) for scaled in layers)}
    deviations[INVARIANT] = max(_deviation(scaled, scaled.normalised) for scaled in layers)
    nearest = min(deviations, key=lambda kind: deviations[kind])
    kind = nearest if deviations[nearest] <= MAX_DEVIATION else NEITHER
    return ScaleProbe(layer, alpha, kind, deviations[nearest], layers)


def _scaled_layer(name: str, layers_before: int, alpha: float, before: Report, after: Report) -> ScaledLayer:
    """Compare one layer with both theorems.

    :param layers_before: number of layers from this one to the probed one; negative for later layers.
    """
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
    """Context manager that freezes the layers with a 0 in the pattern, as the extreme case of weight domination.

    ``block_updates(model, "00111")`` freezes the weight and the bias of the first two of five linear or convolutional
    layers; norms still train. It yields the names of the frozen modules and unfreezes them on exit. A frozen layer
    keeps its random features, so that the result is an upper bound for the effect of domination: a dominated layer
    still learns slowly. Source: Huang et al., ECCV 2020 (arXiv 2002.10801), §4.2.

    :param pattern: one character per linear or convolutional layer, in the order of modules: 0 frozen, 1 trained.
    :raises UsageError: the pattern has another length than the model has layers, or characters other than 0 and 1.
    """
    torch_parameters(model)
    layers = {name: module for name, module in model.named_modules() if measurable(module)}
    if len(pattern) != len(layers) or set(pattern) - {"0", "1"}:
        raise UsageError(
            f"pattern={pattern!r} must be {len(layers)} zeros and ones, one for each of {', '.join(layers)}"
        )
    frozen = [name for name, sign in zip(layers, pattern, strict=True) if sign == "0"]
    frozen_parameters = [p for name in frozen for p in layers[name].parameters(recurse=False)]
    before = [(p, p.requires_grad, p.grad) for p in frozen_parameters]
    try:
        for p in frozen_parameters:
            p.requires_grad_(False)
            p.grad = None  # optimizers skip parameters without a gradient
        yield tuple(frozen)
    finally:
        for p, requires_grad, gradient in before:
            p.requires_grad_(requires_grad)
            p.grad = gradient


def with_last_bn(model: Any, name: str | None = None) -> Any:
    """Return a copy of the model with a batch norm before its last linear layer, a remedy for deep residual networks.

    The curvature of the last layer is λmax of its input covariance times λmax of its gradient covariance. After a batch
    norm the first factor is of the order of the width, at any depth. Source: Huang et al., ECCV 2020 (arXiv
    2002.10801), §5.

    :param name: name of the linear layer; by default the last one that the model registers.
    :raises UsageError: there is no such linear layer.
    """
    from torch import nn

    from layerscope.lenses.learning_statistics.paper_networks import NormedLinear

    torch_parameters(model)
    copied = copy.deepcopy(model)
    linear = {path: module for path, module in copied.named_modules() if type(module) is nn.Linear}
    if not linear or (name is not None and name not in linear):
        hint = did_you_mean(name or "", linear) or (f"; there are: {', '.join(linear)}" if linear else "")
        called = "" if name is None else f" called {name!r}"
        raise UsageError(f"the model has no linear layer{called}, which the measurement needs{hint}")
    path = name if name is not None else list(linear)[-1]
    normed = NormedLinear(linear[path])
    if not path:
        return normed
    parent, _, last = path.rpartition(".")
    setattr(copied.get_submodule(parent), last, normed)
    return copied
