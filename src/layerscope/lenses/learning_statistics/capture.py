"""Records the Kronecker factors of each layer's Fisher block while a live PyTorch model runs.

For a layer h = W a, a hook before the layer sums a aᵀ and a hook on its output sums d dᵀ, where d = ∂ℓ/∂h for the loss
ℓ of each example. Only the sums are stored, and the model is left as it was found.

Three kinds of Fisher matrix differ in their labels: "empirical" uses the labels of the data, "mc" draws labels from the
model's output, and "exact" takes the expectation over all labels, with a backward pass for each class or output.
Source: Huang et al., ECCV 2020 (arXiv 2002.10801); Martens & Grosse, ICML 2015; Grosse & Martens, ICML 2016.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from contextlib import ExitStack
from typing import Any

from layerscope.errors import UnknownName, Unreadable, UsageError
from layerscope.lenses.learning_statistics.kfac_hooks import (
    CaptureState,
    LayerStatistics,
    Phase,
    add_gradient,
    layer_hooks,
    norm_hook,
    remove_unlabeled,
)
from layerscope.lenses.learning_statistics.layer_rows import CONVENTIONS, kind_of
from layerscope.lenses.learning_statistics.neuron_activity import count_active_units
from layerscope.lenses.learning_statistics.weights import (
    computed_weight,
    edges_into,
    is_computed,
    is_used_elsewhere,
)
from layerscope.live.batches import iterate_batches, run_batch
from layerscope.live.losses import Loss
from layerscope.live.torch_models import uncompiled
from layerscope.live.user_code import Forward, require_gradient, restore_model_state, torch_parameters, translate_errors
from layerscope.records.layers import NOT_SELECTED

FISHERS = ("empirical", "mc", "exact")
MAX_EXACT_CLASSES = 100  # largest number of backward passes for "exact"


def capture(
    model: Any,
    batches: Iterable[Any],
    loss: Loss,
    *,
    fisher: str = "empirical",
    conv: str = "expand",
    bias: bool = False,
    seed: int = 0,
    forward: Forward | None = None,
    keep_rows: bool = False,
    all_reduce: bool = False,
    only: Collection[str] | None = None,
) -> tuple[list[LayerStatistics], int, float]:
    """Run the model on all batches and return (statistics of each weight, number of examples, Σ loss).

    A weight that several modules share has one entry.

    :param batches: pairs (x, y), or whatever ``forward`` accepts.
    :param fisher: kind of Fisher matrix, one of ``FISHERS``.
    :param conv: convention for the rows of convolutions, one of ``CONVENTIONS``.
    :param bias: treat the bias as the weight of a constant input 1.
    :param keep_rows: also store the rows themselves, for exact spectra.
    :param all_reduce: sum over the batches of all processes of torch.distributed.
    :param only: names of the weights to measure; None for all. Other weights get an entry marked as not selected.
    :raises UsageError: no batch, a loss that does not fit the outputs, or an unknown Fisher matrix or convention.
    :raises Unreadable: the model has no layer to measure, or user code raises an exception.
    """
    if fisher not in FISHERS:
        raise UnknownName("kind of Fisher matrix", fisher, FISHERS)
    if conv not in CONVENTIONS:
        raise UnknownName("convolution convention", conv, CONVENTIONS)
    torch_parameters(model)
    layers = _layers_to_measure(model, conv)
    if not layers:
        raise Unreadable(f"{type(model).__qualname__} has no linear or convolutional layer to measure")
    for layer in layers:
        layer.problem = NOT_SELECTED if only is not None and layer.name not in only else ""
    selected = [layer for layer in layers if not layer.problem]
    if keep_rows and all_reduce:
        raise UsageError("exact=True and all_reduce=True contradict each other; exact spectra need a single process")
    state = CaptureState(bias, keep_rows)
    examples, total = 0, 0.0
    trained = [p for layer in selected for p in _trained_parameters(layer.module)]
    with restore_model_state(model, trained), uncompiled(), ExitStack() as hooks:
        by_weight = {_weight_key(layer.module): layer for layer in layers}
        for module in model.modules():
            if measurable(module):
                hooks.enter_context(layer_hooks(module, by_weight[_weight_key(module)], state))
            elif isinstance(module, _batch_norm_class()):
                hooks.enter_context(norm_hook(module, state))
        for number, batch in enumerate(iterate_batches(batches)):
            count, value = _capture_batch(model, batch, loss, fisher, selected, state, (seed, number), forward)
            examples, total = examples + count, total + value
    if all_reduce:
        examples, total = _sum_over_processes(selected, examples, total)
    if not examples:
        raise UsageError("the data have no batch with a labeled example; pass at least one batch (x, y)")
    for layer in selected:
        layer.problem = layer.problem or _describe_problem(layer)
    return layers, examples, total


def _capture_batch(
    model: Any, batch: Any, loss: Loss, fisher: str, layers: list[LayerStatistics], state: CaptureState,
    seed: tuple[int, int], forward: Forward | None,
) -> tuple[int, float]:  # fmt: skip
    """Run one batch and return (number of examples, Σ loss)."""
    import torch

    for layer in layers:
        layer.positions = 0
    state.begin_batch(seed[1])
    with count_active_units(state):
        output, labels = run_batch(model, batch, seed[1], forward)
    state.end_forward()
    last, memory = state.last_output
    if last is not None and isinstance(output, torch.Tensor) and memory == (output.data_ptr(), output.numel()):
        last.is_final = True
    values = require_gradient(loss.values(output, labels))
    if state.keep_rows and len(values) != len(output):
        raise UsageError("exact=True needs one loss per sequence, not one per token; pass a loss that sums over tokens")
    mask = loss.label_mask(labels)
    for layer, x, version in state.calls if mask is not None else ():
        remove_unlabeled(layer, x, version, mask, state)
    for layer in layers:
        layer.outputs = output.shape[-1] if output.dim() > 1 else 1
        layer.batches[seed[1]] = len(output)
    state.phase = Phase.WEIGHT_GRADIENT | (Phase.FACTORS if fisher == "empirical" else Phase.NOTHING)
    _accumulate_weight_gradients(values.sum(), layers, state)
    columns = [] if fisher == "empirical" else list(loss.columns(output, labels, fisher, seed, MAX_EXACT_CLASSES))
    state.phase = Phase.FACTORS
    for i, column in enumerate(columns if state.output_edges else []):
        with translate_errors("the backward pass"):
            # stops at the outputs of the layers, so that no weight gradients are computed
            is_last = i == len(columns) - 1
            torch.autograd.grad(output, state.output_edges, column, retain_graph=not is_last, allow_unused=True)
    state.end_batch()
    return loss.examples(values, labels), float(values.detach().sum())


def _accumulate_weight_gradients(loss: Any, layers: list[LayerStatistics], state: CaptureState) -> None:
    """Run the backward pass of the loss, and add up the gradients of all weights.

    The hooks compute those of linear weights, which saves autograd the work. Autograd computes those of convolutions,
    and of weights that are also used elsewhere, e.g. by a tied embedding: the hooks see only the calls of the layer.
    """
    import torch

    shared = _used_elsewhere(loss, layers, state)
    for layer in layers:
        layer.is_shared = layer.is_shared or layer.name in shared
    plain = [layer for layer in layers if not is_computed(layer.module)]
    state.by_autograd = [layer for layer in plain if kind_of(layer.module) != "linear" or layer.is_shared]
    targets = [*(layer.module.weight for layer in state.by_autograd), *state.output_edges]
    if not targets:
        return
    with translate_errors("the backward pass"):
        gradients = torch.autograd.grad(loss, targets, retain_graph=True, allow_unused=True)
    for layer, gradient in zip(state.by_autograd, gradients, strict=False):
        if gradient is not None:
            add_gradient(layer, gradient.detach().flatten(1))


def _used_elsewhere(loss: Any, layers: list[LayerStatistics], state: CaptureState) -> set[str]:
    """Names of the weights that the graph of the loss uses more often than their layers were called."""
    import torch

    edges = edges_into([loss.grad_fn])
    calls = Counter(layer.name for layer, _, _ in state.calls)
    shared = set()
    for layer in layers:
        if is_computed(layer.module):
            is_shared = calls[layer.name] > 0 and is_used_elsewhere(layer.module, calls[layer.name], edges.__getitem__)
        elif kind_of(layer.module) == "linear":
            node = torch.autograd.graph.get_gradient_edge(layer.module.weight).node
            is_shared = edges[node] > calls[layer.name]
        else:
            is_shared = False  # autograd gives its whole gradient in any case
        if is_shared:
            shared.add(layer.name)
    return shared


def measurable(module: Any) -> bool:
    """Return whether a module is a linear or convolution layer whose weight holds floating-point numbers."""
    import torch

    if not kind_of(module) or (is_computed(module) and kind_of(module) == "conv_transpose"):
        return False
    weight = computed_weight(module) if is_computed(module) else module.weight
    return isinstance(weight, torch.Tensor) and weight.is_floating_point()


def _weight_key(module: Any) -> int:
    """A key that modules with the same weight share; a computed weight belongs to its module."""
    return id(module) if is_computed(module) else id(module.weight)


def _trained_parameters(module: Any) -> list[Any]:
    """The parameters through which the gradient reaches the weight."""
    if not is_computed(module):
        return [module.weight]
    return [parameter for parameter in module.parameters() if parameter.is_floating_point()]


def _layers_to_measure(model: Any, conv: str) -> list[LayerStatistics]:
    """Return one entry per weight, in the order of modules. Transposed convolutions have no patches."""
    layer_by_weight: dict[int, LayerStatistics] = {}
    for name, module in model.named_modules():
        if measurable(module) and _weight_key(module) not in layer_by_weight:
            conventions = {"conv_transpose": "channels", "linear": "expand" if conv == "channels" else conv}
            convention = conventions.get(kind_of(module), conv)
            layer_by_weight[_weight_key(module)] = LayerStatistics(f"{name}.weight".lstrip("."), module, convention)
    return list(layer_by_weight.values())


def _batch_norm_class() -> Any:
    from torch import nn

    return nn.modules.batchnorm._BatchNorm


def _sum_over_processes(layers: list[LayerStatistics], examples: int, total: float) -> tuple[int, float]:
    """Replace the sums of each process with the sums over all processes.

    :raises UsageError: torch.distributed is not initialized, or only some processes ran through a layer.
    """
    import torch
    from torch import distributed

    if not distributed.is_available() or not distributed.is_initialized():
        raise UsageError("all_reduce=True: torch.distributed is not initialized; call init_process_group() first")
    recorded = [(len(layer.inputs), len(layer.gradients), layer.ever_active is not None) for layer in layers]
    of_processes: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(of_processes, recorded)
    if any(of_process != of_processes[0] for of_process in of_processes):
        raise UsageError("all_reduce=True: the processes ran through different layers; all must run the same ones")

    def reduce_sum(tensor: Any) -> Any:
        tensor = tensor.clone()
        distributed.all_reduce(tensor)
        return tensor

    for layer in layers:
        for sums in (*layer.inputs, *layer.gradients):
            sums.second, sums.first = reduce_sum(sums.second), reduce_sum(sums.first)
            sums.rows = int(reduce_sum(sums.second.new_tensor([sums.rows], dtype=torch.float64)))
        if layer.gradients:
            layer.weight_gradient = reduce_sum(layer.weight_gradient)
        if layer.ever_active is not None:
            layer.ever_active = reduce_sum(layer.ever_active.int()) > 0
            layer.always_active = reduce_sum((~layer.always_active).int()) == 0
    device = layers[0].inputs[0].second.device if layers and layers[0].inputs else "cpu"
    sums_of_all = reduce_sum(torch.tensor([examples, total], dtype=torch.float64, device=device))
    return int(sums_of_all[0]), float(sums_of_all[1])


def _describe_problem(layer: LayerStatistics) -> str:
    if not layer.inputs:
        return "the module was not called in the forward pass"
    if not layer.gradients:
        return "no gradient of the loss reaches the layer: its output is unused, detached or hidden in a module"
    for sums, what in ((layer.inputs, "inputs"), (layer.gradients, "output gradients")):
        # the diagonal holds sums of squares, so that one NaN or infinity in any row shows there
        if not all(bool(total.second.diagonal().isfinite().all()) for total in sums):
            return f"some {what} are not finite"
    return ""
