"""The conditioning of each layer: one measurement of a live PyTorch model on data."""

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
)  # that later reports are compared with
DENSITY_OPTIONS = {"probes": 8, "steps": 30}  # of the spectral density


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
    """How each layer of a live PyTorch model learns: the factors of its Fisher block, weight against gradient.

    The model runs in the mode it is in and is left as it was found, random generators and running statistics too.

    :param data: batches (x, y), as of a loader; or one such pair of tensors.
    :param loss: "cross_entropy" (labels; −100 is ignored), "mse" (½‖f − y‖²), or a function of output and labels that
        gives one value for each example.
    :param fisher: "empirical" (the data's labels), "mc" (labels drawn from the model), "exact" (all of them).
    :param conv: what a convolution's rows are: "expand" (patches), "reduce", or "channels" as in the paper.
    :param bias: count the bias as a weight of a constant input 1, which λmax then is at least.
    :param exact: the spectra of the blocks themselves too, and of the whole matrix, from all examples' gradients.
    :param curvature_of: "hessian", "ggn" or "fisher": its largest eigenvalue and its trace in each layer, and of the
        whole model its density too, by products with vectors; see :func:`curvature`.
    :param lr: rate of the gradient descent that trains it, with ``momentum`` and ``nesterov``: what curvature it can
        follow; none for adaptive optimisers.
    :param forward: (model, batch) → (output, labels), where calling the model on x is not it.
    :param since: a report of the same model earlier in its training: verdicts then speak of what changed.
    :param all_reduce: over the batches of all processes of torch.distributed, each of which calls it.
    :raises UsageError: no batch, labels or a loss that do not fit.
    """
    torch_parameters(model)
    if curvature_of is not None and curvature_of not in MATRICES:
        raise UnknownName("curvature matrix", curvature_of, MATRICES)
    if since is not None and not isinstance(since, Report):
        raise UsageError(f"since is a report of the same model, not a {type(since).__name__}")
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
    """Names of the weights that are meant, so that the others need no hooks; None where indices decide.

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
    """Names of the weights among them that are trained; of all, where none is."""
    named = torch_parameters(model)
    weights = {name: p.requires_grad for name, p in named.items() if p.dim() >= 2}
    none_trained = not any(p.requires_grad for p in named.values())
    return [name for name, trained in weights.items() if (trained or none_trained) and (only is None or name in only)]


def _curvature_limit(lr: float, momentum: float, nesterov: bool) -> float:
    """The largest curvature that gradient descent can follow: heavy ball 2(1+m)/η, Nesterov 2(1+m)/((1+2m)η)."""
    are_numbers = isinstance(lr, int | float) and isinstance(momentum, int | float)
    if not are_numbers or not (0 < lr < math.inf and 0 <= momentum < 1):
        raise UsageError(f"lr must be above 0 and momentum from 0 to 1, not {lr!r} and {momentum!r}")
    return 2 * (1 + momentum) / (1 + 2 * momentum * nesterov) / lr


def _known_facts(since: Report | None, curvatures: Curvature | None) -> Mapping[str, Mapping[str, float]]:
    """Facts of each layer that this pass does not see: how it was at first, and its curvature."""
    facts: dict[str, dict[str, float]] = {}
    for row in since.rows if since is not None else ():
        measured = {**row.parts["weight"].facts, **row.metrics}
        facts[row.ref.tensor] = {
            f"first_{name}": float(measured[name]) for name in REMEMBERED_METRICS if name in measured
        }
    for name, block in curvatures.layers.items() if curvatures is not None else ():
        facts[name] = {**facts.get(name, {}), **block.facts()}
    return facts
