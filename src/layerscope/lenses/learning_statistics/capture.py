"""Factors of each layer's Fisher block, caught while a live PyTorch model runs; the model is left as it was found.

For a layer h = W a: Σ a aᵀ from a hook before the layer, Σ d dᵀ from a hook on its output, d = ∂ℓ/∂h of each example's
own loss ℓ. Nothing is kept but the sums. Which Fisher: "empirical" takes the labels of the data, "mc" labels drawn from
the model's own output, "exact" all of them (a backward pass for each column of the output's square-root Fisher).
Source: Huang et al., ECCV 2020 (arXiv 2002.10801); Martens & Grosse, ICML 2015; Grosse & Martens, ICML 2016.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import ExitStack
from typing import Any

from layerscope.errors import UnknownName, Unreadable, UsageError
from layerscope.lenses.learning_statistics.kfac_hooks import Caught, State, add_gradient, hooked, leave_out, watched
from layerscope.lenses.learning_statistics.layer_rows import CONV, kind_of
from layerscope.lenses.learning_statistics.neuron_activity import activities
from layerscope.live.batches import each_batch, run_batch  # fmt: skip
from layerscope.live.losses import Loss
from layerscope.live.user_code import Forward, require_gradient, restore_model_state, torch_parameters, translate_errors
from layerscope.records.layers import NOT_SELECTED

FISHERS = ("empirical", "mc", "exact")
MOST_CLASSES = 100  # backward passes that "exact" may take


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
    keep: bool = False,
    all_reduce: bool = False,
    only: Collection[str] | None = None,
) -> tuple[list[Caught], int, float]:
    """(what was caught of each weight, examples, Σ loss) over all batches, (x, y) each; one entry for a shared weight.

    ``all_reduce``: over the batches of all processes of torch.distributed. ``only``: of these weights; of the others
    there is an entry that says so.

    :raises UsageError: no batch, a loss that the outputs do not fit, an unknown Fisher or convention.
    """
    if fisher not in FISHERS:
        raise UnknownName("Fisher", fisher, FISHERS)
    if conv not in CONV:
        raise UnknownName("convention of convolutions", conv, CONV)
    torch_parameters(model)
    every = _entries(model, conv)
    if not every:
        raise Unreadable(f"{type(model).__qualname__} has no linear or convolutional layer to measure")
    for caught in every:
        caught.problem = NOT_SELECTED if only is not None and caught.name not in only else ""
    entries = [caught for caught in every if not caught.problem]
    if keep and all_reduce:
        raise UsageError("exact spectra are of the examples of one process: exact and all_reduce contradict each other")
    state = State(bias, keep)
    examples, total = 0, 0.0
    with restore_model_state(model, [caught.module.weight for caught in entries]), ExitStack() as hooks:
        by_weight = {id(caught.module.weight): caught for caught in every}
        for module in model.modules():
            if measurable(module):
                hooks.enter_context(hooked(module, by_weight[id(module.weight)], state))
            elif isinstance(module, _batch_norms()):
                hooks.enter_context(watched(module, state))
        for number, batch in enumerate(each_batch(batches)):
            count, value = _batch(model, batch, loss, fisher, entries, state, (seed, number), forward)
            examples, total = examples + count, total + value
    if all_reduce:
        examples, total = _over_processes(entries, examples, total)
    if not examples:
        raise UsageError("the data have no batch, or none with a label")
    for caught in entries:
        caught.problem = caught.problem or _problem(caught)
    return every, examples, total


def _batch(
    model: Any, batch: Any, loss: Loss, fisher: str, entries: list[Caught], state: State, seed: tuple[int, int],
    forward: Forward | None,
) -> tuple[int, float]:  # fmt: skip
    """(examples, Σ loss) of one batch."""
    import torch

    for caught in entries:
        caught.positions = 0
    state.begin(seed[1])
    with activities(state):
        output, labels = run_batch(model, batch, seed[1], forward)
    state.forward = False
    last, where = state.final
    if last is not None and isinstance(output, torch.Tensor) and where == (output.data_ptr(), output.numel()):
        last.final = True
    values = require_gradient(loss.values(output, labels))
    if state.keep and len(values) != len(output):
        raise UsageError("exact spectra of sequences need a loss for each of them, not for each token")
    kept = loss.label_mask(labels)
    for caught, x, version in state.calls if kept is not None else ():
        leave_out(caught, x, version, kept, state)
    for caught in entries:
        caught.outputs = output.shape[-1] if output.dim() > 1 else 1
        caught.batches[seed[1]] = len(output)
    _learn(values.sum(), entries, state, summing=fisher == "empirical")
    columns = [] if fisher == "empirical" else list(loss.columns(output, labels, fisher, seed, MOST_CLASSES))
    state.learning, state.summing = False, True
    for i, column in enumerate(columns if state.edges else []):
        with translate_errors(
            "the backward pass"
        ):  # no further than to the layers' outputs: no gradient of a weight is computed
            more = i < len(columns) - 1
            torch.autograd.grad(output, state.edges, column, retain_graph=more, allow_unused=True)
    state.begin(seed[1])
    return loss.examples(values, labels), float(values.detach().sum())


def _learn(loss: Any, entries: list[Caught], state: State, *, summing: bool) -> None:
    """The backward pass of the loss. Gradients of linear weights are products of what the hooks see, those of
    convolutions autograd's."""
    import torch

    state.learning, state.summing = True, summing
    convolutions = [caught for caught in entries if kind_of(caught.module) != "linear"]
    wanted = [*(caught.module.weight for caught in convolutions), *state.edges]
    if not wanted:
        return
    with translate_errors("the backward pass"):
        found = torch.autograd.grad(loss, wanted, retain_graph=True, allow_unused=True)
    for caught, gradient in zip(convolutions, found, strict=False):
        if gradient is not None:
            add_gradient(caught, gradient.detach().flatten(1))


def measurable(module: Any) -> bool:
    """Is it a linear map with a weight of its own, not one that is computed anew from others?"""
    from torch import nn

    return bool(kind_of(module)) and isinstance(module.weight, nn.Parameter) and module.weight.is_floating_point()


def _entries(model: Any, conv: str) -> list[Caught]:
    """One entry per weight, in the order of modules; a transposed convolution has no patches."""
    found: dict[int, Caught] = {}
    for name, module in model.named_modules():
        if measurable(module) and id(module.weight) not in found:
            only = {"conv_transpose": "channels", "linear": "expand" if conv == "channels" else conv}
            how = only.get(kind_of(module), conv)
            found[id(module.weight)] = Caught(f"{name}.weight".lstrip("."), module, how)
    return list(found.values())


def _batch_norms() -> Any:
    from torch import nn

    return nn.modules.batchnorm._BatchNorm


def _over_processes(entries: list[Caught], examples: int, total: float) -> tuple[int, float]:
    """The sums of all processes in each of them.

    :raises UsageError: torch.distributed is not initialised, or a layer was seen by some processes only.
    """
    import torch
    from torch import distributed

    if not distributed.is_available() or not distributed.is_initialized():
        raise UsageError("all_reduce: torch.distributed is not initialised")
    every: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(every, [(len(e.inputs), len(e.gradients), e.ever is not None) for e in entries])
    if any(seen != every[0] for seen in every):
        raise UsageError("all_reduce: the processes did not run through the same layers")

    def summed(tensor: Any) -> Any:
        tensor = tensor.clone()
        distributed.all_reduce(tensor)
        return tensor

    for caught in entries:
        for sums in (*caught.inputs, *caught.gradients):
            sums.second, sums.first = summed(sums.second), summed(sums.first)
            sums.rows = int(summed(sums.second.new_tensor([sums.rows], dtype=torch.float64)))
        if caught.gradients:
            caught.weight_gradient = summed(caught.weight_gradient)
        if caught.ever is not None:
            caught.ever = summed(caught.ever.int()) > 0
            caught.always = summed((~caught.always).int()) == 0
    device = entries[0].inputs[0].second.device if entries and entries[0].inputs else "cpu"
    both = summed(torch.tensor([examples, total], dtype=torch.float64, device=device))
    return int(both[0]), float(both[1])


def _problem(caught: Caught) -> str:
    if not caught.inputs:
        return "its module was not called"
    if not caught.gradients:
        return "no gradient of the loss reaches it: unused, detached, or inside a module that hides it"
    for sums, what in ((caught.inputs, "inputs"), (caught.gradients, "output-gradients")):
        if not all(bool(total.second.diagonal().isfinite().all()) for total in sums):  # squares: NaN shows there
            return f"{what} that are not finite"
    return ""
