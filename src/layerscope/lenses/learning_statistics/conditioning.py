"""Measures the conditioning of each layer of a live PyTorch model on data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from layerscope import analysis
from layerscope.errors import UnknownName, UsageError
from layerscope.lenses.learning_statistics.curvature import Curvature, curvature
from layerscope.lenses.learning_statistics.curvature_products import MATRICES
from layerscope.lenses.learning_statistics.factors_torch import Factors
from layerscope.live.batches import as_batches, materialize_batches
from layerscope.live.losses import Loss
from layerscope.live.user_code import torch_parameters
from layerscope.records.report import Report
from layerscope.settings import Settings
from layerscope.sources.layouts.torch_names import number_layers
from layerscope.sources.readers.torch_module import Module
from layerscope.tensor_names import Selector, select

REMEMBERED_METRICS = (
    "loss",
    "weight_sigma_max",
    "lambda_max_x",
    "lambda_max_d",
    "beta_negative",
)  # values of an earlier report (``since``) that verdicts compare with
DENSITY_OPTIONS = {"probes": 8, "steps": 30}  # options for the spectral density


def conditioning(
    model: Any,
    data: Any,
    loss: str | Callable[[Any, Any], Any] = "cross_entropy",
    *,
    layers: Iterable[Selector] | Selector | None = None,
    fisher: str = "empirical",
    conv: str = "expand",
    bias: bool = False,
    exact: bool = False,
    curvature_of: str | None = None,
    lr: float | None = None,
    momentum: float = 0.0,
    nesterov: bool = False,
    forward: Callable[[Any, Any], Any] | None = None,
    since: Report | None = None,
    all_reduce: bool = False,
    settings: Settings | None = None,
    progress: Any = None,
    **options: Any,
) -> Report:
    """Measure how each layer of a live PyTorch model learns: the factors of its Fisher block, and weight vs. gradient.

    The model runs in its current mode and is left as it was found, including random generators and running statistics.

    :param data: batches (x, y), e.g. a data loader, or one such pair of tensors.
    :param loss: "cross_entropy" (class labels; −100 is ignored), "mse" (½‖f − y‖²), or a function of outputs and labels
        that returns one value for each example.
    :param layers: names, globs or indices of the layers to measure; None for all.
    :param fisher: labels that define the Fisher matrix: "empirical" (from the data), "mc" (drawn from the model) or
        "exact" (expectation over the model's distribution).
    :param conv: rows of a convolution: "expand" (patches), "reduce" (patches averaged over positions), or "channels"
        (channels without the kernel, as in the paper).
    :param bias: treat the bias as the weight of a constant input 1. The λmax of the inputs is then at least 1.
    :param exact: also compute the exact spectra of the Fisher blocks and of the whole Fisher matrix, from the gradients
        of all examples.
    :param curvature_of: "hessian", "ggn" or "fisher": also estimate its largest eigenvalue and trace for each layer and
        for the whole model, and its spectral density for the whole model; see :func:`curvature`.
    :param lr: learning rate of SGD, with its ``momentum`` and ``nesterov``, to check that steps are not too large for
        the curvature. Leave it out for adaptive optimizers.
    :param forward: function (model, batch) → (output, labels), for models that are not called as model(x).
    :param since: earlier report of the same model, so that verdicts describe changes since then.
    :param all_reduce: combine the batches of all processes of torch.distributed. Every process must make this call.
    :param settings, options: settings of the analysis, as an object and by name.
    :param progress: callback for progress, as for :func:`layerscope.analyze`.
    :raises UsageError: there is no batch, or the labels or the loss do not fit the outputs.
    """
    torch_parameters(model)
    if curvature_of is not None and curvature_of not in MATRICES:
        raise UnknownName("curvature matrix", curvature_of, MATRICES)
    if since is not None and not isinstance(since, Report):
        raise UsageError(f"since must be a Report of the same model, not a {type(since).__name__}")
    batches = as_batches(data)
    batches = materialize_batches(model, batches) if curvature_of is not None else batches
    effective = (settings or Settings()).changed(**options)
    training_facts = {} if lr is None else {"lr": lr, "curvature_limit": _curvature_limit(lr, momentum, nesterov)}
    layers = layers if layers is None or isinstance(layers, str | int) else list(layers)
    only = _selected_weights(model, layers)
    curvatures = None
    if curvature_of is not None:
        density: dict[str, Any] = {**DENSITY_OPTIONS, "fisher": fisher, "seed": effective.seed, "forward": forward}
        curvatures = curvature(model, batches, loss, curvature_of, layers=_trained_weights(model, only), **density)
    known_facts = _known_facts(since, curvatures)
    target = Factors(
        model,
        batches,
        Loss.of(loss),
        fisher,
        conv,
        bias,
        effective.seed,
        forward,
        exact,
        all_reduce,
        only,
        training_facts,
        known_facts,
    )
    engine = "serial" if effective.jobs == 1 else None
    chosen = None if only is not None else layers
    report = analysis.analyze(target, layers=chosen, settings=effective, engine=engine, progress=progress)
    name = loss if isinstance(loss, str) else getattr(loss, "__qualname__", type(loss).__name__)
    how: dict[str, Any] = {"fisher": fisher, "conv": conv, "bias": bias, "loss": name}
    how |= {"exact": True} if exact else {}
    how |= {"training": bool(model.training), "whole": target.whole}
    how |= {} if curvatures is None else {"curvature_of": curvature_of, "curvature": curvatures.to_dict()}
    how |= {} if lr is None else {"lr": lr, "momentum": momentum, "nesterov": nesterov}
    arguments = report.meta.get("asked", {})
    if only is not None and layers is not None:
        arguments = {**arguments, "layers": [layers] if isinstance(layers, str | int) else list(layers)}
    return report.replace(meta={**report.meta, "asked": arguments, "conditioning": how})


def _selected_weights(model: Any, layers: Iterable[Selector] | Selector | None) -> frozenset[str] | None:
    """Return the names of the selected weights, so that others need no hooks; None if selectors contain an index.

    :raises NoLayerMatches: a selector matches nothing.
    """
    if layers is None:
        return None
    selectors = [layers] if isinstance(layers, str | int) else list(layers)
    if any(str(selector).lstrip("-!").isdigit() for selector in selectors):
        return None
    chosen = select(list(number_layers(Module(model).layers())), selectors)
    return frozenset(ref.tensor for ref in chosen if not ref.skipped)


def _trained_weights(model: Any, only: frozenset[str] | None) -> list[str]:
    """Return the names of the selected weights that are trained; all selected ones if the model trains none."""
    named = torch_parameters(model)
    weights = {name: p.requires_grad for name, p in named.items() if p.dim() >= 2}
    none_trained = not any(p.requires_grad for p in named.values())
    return [name for name, trained in weights.items() if (trained or none_trained) and (only is None or name in only)]


def _curvature_limit(lr: float, momentum: float, nesterov: bool) -> float:
    """Return the largest curvature with stable steps: 2(1+m)/η with heavy ball, 2(1+m)/((1+2m)η) with Nesterov."""
    are_numbers = isinstance(lr, int | float) and isinstance(momentum, int | float)
    if not are_numbers or not (0 < lr < math.inf and 0 <= momentum < 1):
        raise UsageError(f"lr must be above 0 and momentum from 0 to below 1, not lr={lr!r}, momentum={momentum!r}")
    return 2 * (1 + momentum) / (1 + 2 * momentum * nesterov) / lr


def _known_facts(since: Report | None, curvatures: Curvature | None) -> Mapping[str, Mapping[str, float]]:
    """Return facts of each layer from other measurements: values of the earlier report, and curvature."""
    facts: dict[str, dict[str, float]] = {}
    for row in since.rows if since is not None else ():
        measured = {**row.parts["weight"].facts, **row.metrics}
        facts[row.ref.tensor] = {
            f"first_{name}": float(measured[name]) for name in REMEMBERED_METRICS if name in measured
        }
    for name, block in curvatures.layers.items() if curvatures is not None else ():
        facts[name] = {**facts.get(name, {}), **block.facts()}
    return facts
