"""Factors of each layer's Fisher block, caught while a live PyTorch model runs; the model is left as it was found.

For a layer h = W a: Σ a aᵀ from a hook before the layer, Σ d dᵀ from a hook on its output, d = ∂ℓ/∂h of each example's
own loss ℓ. Nothing is kept but the sums. Which Fisher: "empirical" takes the labels of the data, "mc" labels drawn from
the model's own output, "exact" all of them (a backward pass for each column of the output's square-root Fisher).
Source: Huang et al., ECCV 2020 (arXiv 2002.10801); Martens & Grosse, ICML 2015; Grosse & Martens, ICML 2016.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from layerscope.errors import UnknownName, Unreadable, UsageError
from layerscope.numerics.accumulate import FactorSum
from layerscope.sources._losses import Loss
from layerscope.sources._neurons import activities
from layerscope.sources._rows import CONV, gradient_rows, input_rows, kind_of
from layerscope.sources._strangers import checked, each_batch, outcome, parameters, told, untouched
from layerscope.types import NOT_SELECTED

FISHERS = ("empirical", "mc", "exact")
MOST_CLASSES = 100  # backward passes that "exact" may take


@dataclass
class Caught:
    """What was caught of one weight: sums for each group of a convolution."""

    name: str  # of the weight
    module: Any
    conv: str
    inputs: list[FactorSum] = field(default_factory=list)
    gradients: list[FactorSum] = field(default_factory=list)
    weight_gradient: Any = None  # Σ ∂ℓ/∂W over the examples
    positions: int = 0  # summed over the calls of one example
    calls: int = 0
    outputs: int = 0  # of the model
    kept_inputs: list[Any] = field(default_factory=list)  # rows of each batch, where exact spectra were asked for
    kept_gradients: list[Any] = field(default_factory=list)  # and of each backward pass
    ever: Any = None  # (out,) was the unit active behind its ReLU for any example and position?
    always: Any = None  # (out,) for all of them?
    final: bool = False  # is its output the model's?
    norm: Any = None  # the batch normalisation that its output goes into
    problem: str = ""  # why it could not be measured

    def factors(self, examples: int) -> tuple[Any, Any]:
        """(S_x, S_d), each (groups, d, d).

        "expand": means over examples and positions of a aᵀ, over examples of Σₜ d dᵀ; "reduce": over examples of the
        position-means' and position-sums' products; "channels": a without the kernel, T²·mean of d dᵀ.
        """
        import torch

        inside = torch.stack([total.finish() for total in self.inputs])
        return inside, torch.stack([total.finish(examples) for total in self.gradients])


def capture(
    model: Any,
    batches: Iterable[Any],
    loss: Loss,
    *,
    fisher: str = "empirical",
    conv: str = "expand",
    bias: bool = False,
    seed: int = 0,
    forward: Callable[[Any, Any], Any] | None = None,
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
    parameters(model)
    every = _entries(model, conv)
    if not every:
        raise Unreadable(f"{type(model).__qualname__} has no linear or convolutional layer to measure")
    for caught in every:
        caught.problem = NOT_SELECTED if only is not None and caught.name not in only else ""
    entries = [caught for caught in every if not caught.problem]
    state = _State(bias, keep)
    examples, total = 0, 0.0
    with untouched(model, [caught.module.weight for caught in entries]), ExitStack() as hooks:
        by_weight = {id(caught.module.weight): caught for caught in every}
        for module in model.modules():
            if measurable(module):
                hooks.enter_context(_hooked(module, by_weight[id(module.weight)], state))
            elif isinstance(module, _batch_norms()):
                hooks.enter_context(_watched(module, state))
        for number, batch in enumerate(each_batch(batches)):
            count, value = _batch(model, batch, loss, fisher, entries, state, (seed, number), forward)
            examples, total = examples + count, total + value
    if all_reduce:
        examples, total = _over_processes(entries, examples, total)
    if not examples:
        raise UsageError("the data have no batch")
    for caught in entries:
        caught.problem = _problem(caught)
    return every, examples, total


class _State:
    """What the hooks are to do: nothing, or sum the gradients that come."""

    def __init__(self, bias: bool, keep: bool) -> None:
        self.bias, self.keep = bias, keep
        self.summing = False
        self.final: tuple[Caught | None, Any] = (None, None)  # whose output came last, and where it lies
        self.edges: list[Any] = []  # of the graph, to the layers' outputs
        self.forward = False  # not what a checkpoint runs again on the way back
        self.last: Caught | None = None  # whose output comes to the next ReLU


def _batch(
    model: Any, batch: Any, loss: Loss, fisher: str, entries: list[Caught], state: _State, seed: tuple[int, int],
    forward: Callable[[Any, Any], Any] | None,
) -> tuple[int, float]:  # fmt: skip
    """(examples, Σ loss) of one batch."""
    import torch

    for caught in entries:
        caught.positions = 0
    state.last = None
    state.forward, state.final, state.edges = True, (None, None), []
    with activities(state):
        output, labels = outcome(model, batch, seed[1], forward)
    state.forward = False
    last, where = state.final
    if last is not None and isinstance(output, torch.Tensor) and where == (output.data_ptr(), output.numel()):
        last.final = True
    values = loss.values(output, labels)
    if state.keep and len(values) != len(output):
        raise UsageError("exact spectra of sequences need a loss for each of them, not for each token")
    for caught in entries:
        caught.outputs = output.shape[-1]
    weights = [caught.module.weight for caught in entries]
    state.summing = fisher == "empirical"
    again = fisher != "empirical"
    with told("the backward pass"):
        found = torch.autograd.grad(checked(values).sum(), weights, retain_graph=again, allow_unused=True)
    for caught, gradient in zip(entries, found, strict=True):
        if gradient is not None:
            gradient = gradient.detach().flatten(1)
            caught.weight_gradient = gradient if caught.weight_gradient is None else caught.weight_gradient + gradient
    state.summing = True
    columns = list(loss.columns(output, labels, fisher, seed, MOST_CLASSES)) if again and state.edges else []
    for i, column in enumerate(columns):
        more = i < len(columns) - 1
        with told("the backward pass"):  # no further than to the layers' outputs: no gradient of a weight is computed
            torch.autograd.grad(output, state.edges, column, retain_graph=more, allow_unused=True)
    return loss.examples(values, labels), float(values.detach().sum())


def measurable(module: Any) -> bool:
    """Is it a linear map with a weight of its own, not one that is computed anew from others?"""
    from torch import nn

    return bool(kind_of(module)) and isinstance(module.weight, nn.Parameter)


def _entries(model: Any, conv: str) -> list[Caught]:
    """One entry per weight, in the order of modules; a transposed convolution has no patches."""
    found: dict[int, Caught] = {}
    for name, module in model.named_modules():
        if measurable(module) and id(module.weight) not in found:
            only = {"conv_transpose": "channels", "linear": "expand" if conv == "channels" else conv}
            how = only.get(kind_of(module), conv)
            found[id(module.weight)] = Caught(f"{name}.weight".lstrip("."), module, how)
    return list(found.values())


@contextmanager
def _hooked(module: Any, caught: Caught, state: _State) -> Iterator[None]:
    """Hooks before the module and on its output; removed at the end."""
    from torch.autograd import graph

    def before(_: Any, arguments: tuple[Any, ...]) -> None:
        if not state.forward or caught.problem:
            return
        rows = input_rows(module, arguments[0].detach(), caught.conv).to(_wide(arguments[0]))
        caught.calls += 1
        caught.positions += rows.shape[1]
        if caught.conv == "reduce":
            rows = rows.mean(1, keepdim=True)
        if state.bias:
            import torch

            rows = torch.cat([rows, torch.ones_like(rows[..., :1])], -1)
        _add(caught.inputs, rows)
        if state.keep:
            caught.kept_inputs.append(rows.cpu().numpy())

    def after(_: Any, __: Any, output: Any) -> None:
        if not state.forward:
            return
        state.last, state.final = caught, (caught, (output.data_ptr(), output.numel()))
        if output.requires_grad and not caught.problem:
            output.register_hook(back)
            state.edges.append(graph.get_gradient_edge(output))  # an activation in place may follow

    def back(gradient: Any) -> None:
        if not state.summing:
            return
        rows = gradient_rows(module, gradient.detach()).to(_wide(gradient))
        if caught.conv == "reduce":
            rows = rows.sum(1, keepdim=True)
        elif caught.conv == "channels":
            rows = rows * rows.shape[1] ** 0.5  # T²/(N·T) of their sum is T² times their mean
        _add(caught.gradients, rows)
        if state.keep:
            caught.kept_gradients.append(rows.cpu().numpy())

    handles = (module.register_forward_pre_hook(before), module.register_forward_hook(after))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _watched(module: Any, state: _State) -> Iterator[None]:
    """Whose output goes into this normalisation?"""

    def before(_: Any, __: Any) -> None:
        if state.forward and state.last is not None:
            last = state.last.module
            units = last.out_features if kind_of(last) == "linear" else last.out_channels
            if units == module.num_features:
                state.last.norm = module

    handle = module.register_forward_pre_hook(before)
    try:
        yield
    finally:
        handle.remove()


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


def _add(sums: list[FactorSum], rows: Any) -> None:
    for group in range(rows.shape[2]):
        if len(sums) <= group:
            sums.append(FactorSum())
        sums[group].add(rows[:, :, group].reshape(-1, rows.shape[-1]))


def _wide(tensor: Any) -> Any:
    """At least float32: products of narrower numbers lose the small eigenvalues."""
    import torch

    return tensor.dtype if tensor.dtype == torch.float64 else torch.float32


def _problem(caught: Caught) -> str:
    if not caught.inputs:
        return "its module was not called"
    if not caught.gradients:
        return "no gradient of the loss reaches it: unused, detached, or inside a module that hides it"
    for sums, what in ((caught.inputs, "inputs"), (caught.gradients, "output-gradients")):
        if not all(bool(total.second.diagonal().isfinite().all()) for total in sums):  # squares: NaN shows there
            return f"{what} that are not finite"
    return ""
