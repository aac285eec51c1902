"""What hooks catch of each layer while a live PyTorch model runs: sums over rows, never the rows, unless asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from layerscope.lenses.learning_statistics.layer_rows import gradient_rows, input_rows, kind_of
from layerscope.numerics.second_moments import FactorSum


@dataclass
class Caught:
    """What was caught of one weight: sums for each group of a convolution."""

    name: str  # of the weight
    module: Any
    conv: str
    inputs: list[FactorSum] = field(default_factory=list)
    gradients: list[FactorSum] = field(default_factory=list)
    weight_gradient: Any = None  # Σ ∂ℓ/∂W over the examples, by this layer's uses of it
    positions: int = 0  # summed over the calls of one example
    calls: int = 0
    outputs: int = 0  # of the model
    batches: dict[int, int] = field(default_factory=dict)  # batch → examples in it, those without a label too
    kept_inputs: list[tuple[int, Any]] = field(default_factory=list)  # (batch, rows), where exact spectra are wanted
    kept_gradients: list[tuple[int, Any]] = field(default_factory=list)  # of each backward pass
    ever: Any = None  # (out,) was the unit active behind its ReLU for any example and position?
    always: Any = None  # (out,) for all of them?
    final: bool = False  # is its output the model's?
    norm: Any = None  # the batch normalisation that its output goes into
    problem: str = ""  # why it could not be measured

    @property
    def units(self) -> int:
        """Features or channels of its output."""
        return int(self.module.out_features if kind_of(self.module) == "linear" else self.module.out_channels)

    def factors(self, examples: int) -> tuple[Any, Any]:
        """(S_x, S_d), each (groups, d, d).

        "expand": means over examples and positions of a aᵀ, over examples of Σₜ d dᵀ; "reduce": over examples of the
        position-means' and position-sums' products; "channels": a without the kernel, T²·mean of d dᵀ.
        """
        import torch

        inside = torch.stack([total.finish() for total in self.inputs])
        return inside, torch.stack([total.finish(examples) for total in self.gradients])


@dataclass
class State:
    """Where the measurement stands, and what the hooks are to do."""

    bias: bool
    keep: bool
    batch: int = 0
    forward: bool = False  # not what a checkpoint runs again on the way back
    learning: bool = False  # does the pass that comes back belong to the loss: is it the weight's gradient?
    summing: bool = False  # is it to be summed up in S_d?
    edges: list[Any] = field(default_factory=list)  # of the graph, to the layers' outputs
    calls: list[tuple[Caught, Any, int]] = field(default_factory=list)  # (layer, its input, version of it)
    makers: dict[int, Caught] = field(default_factory=dict)  # id of a tensor → the layer whose units it has
    alive: list[Any] = field(default_factory=list)  # these tensors, so that ids stay theirs
    final: tuple[Caught | None, Any] = (None, None)  # whose output came last, and where it lies

    def begin(self, batch: int) -> None:
        """A batch comes."""
        self.batch, self.forward, self.final = batch, True, (None, None)
        self.edges, self.calls, self.makers, self.alive = [], [], {}, []

    def made(self, tensor: Any, caught: Caught) -> None:
        """A tensor that has the units of a layer."""
        self.makers[id(tensor)] = caught
        self.alive.append(tensor)


@contextmanager
def hooked(module: Any, caught: Caught, state: State) -> Iterator[None]:
    """Hooks before the module and on its output; removed at the end."""
    from torch.autograd import graph

    def before(_: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        if not state.forward or caught.problem:
            return
        x = arguments[0] if arguments else next(iter(named.values()))
        with narrow_off(x):
            rows = _rows(module, x.detach(), caught, state)
            caught.calls += 1
            caught.positions += rows.shape[1]
            if state.keep:
                caught.kept_inputs.append((state.batch, rows.cpu().numpy()))
            _add(caught.inputs, reduced(rows, caught.conv))
        state.calls.append((caught, x, x._version))

    def after(_: Any, __: Any, output: Any) -> None:
        if not state.forward:
            return
        state.made(output, caught)
        state.final = caught, (output.data_ptr(), output.numel())
        if not output.requires_grad or caught.problem:
            return
        _, x, version = state.calls[-1]

        def back(gradient: Any) -> None:
            with narrow_off(gradient):
                _back(module, caught, state, x, version, gradient)

        output.register_hook(back)
        state.edges.append(graph.get_gradient_edge(output))  # an activation in place may follow

    handles = (
        module.register_forward_pre_hook(before, with_kwargs=True),
        module.register_forward_hook(after),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _back(module: Any, caught: Caught, state: State, x: Any, version: int, gradient: Any) -> None:
    """What comes back to a call of the module."""
    rows = gradient_rows(module, gradient.detach()).to(_wide(gradient))
    if state.learning and kind_of(module) == "linear":
        if x._version != version:
            caught.problem = "its input is overwritten in place before the gradient comes back"
            return
        inside = input_rows(module, x.detach(), caught.conv).to(_wide(x))
        add_gradient(caught, rows.flatten(0, 2).T @ inside.flatten(0, 2))
    if not state.summing:
        return
    if state.keep:
        caught.kept_gradients.append((state.batch, rows.cpu().numpy()))
    if caught.conv == "reduce":
        rows = rows.sum(1, keepdim=True)
    elif caught.conv == "channels":
        rows = rows * rows.shape[1] ** 0.5  # T²/(N·T) of their sum is T² times their mean
    _add(caught.gradients, rows)


def add_gradient(caught: Caught, gradient: Any) -> None:
    """A part of Σ ∂ℓ/∂W."""
    caught.weight_gradient = gradient if caught.weight_gradient is None else caught.weight_gradient + gradient


def leave_out(caught: Caught, x: Any, version: int, kept: Any, state: State) -> None:
    """Take back from S_x what examples without a label put in: they do not count.

    :param kept: which examples, or which tokens of sequences, have a label.
    """
    with narrow_off(x):
        rows = _rows(caught.module, x.detach(), caught, state)
        if kept.dim() > 1 and caught.conv != "expand":
            kept = kept.flatten(1).any(1)
        fits = tuple(kept.shape) == tuple(rows.shape[: kept.dim()])
        if not fits or bool(kept.all()):
            return  # other positions than the labels have: all count
        if x._version != version:
            caught.problem = "its input is overwritten in place, and some examples have no label"
            return
        ignored = reduced(rows, caught.conv)[~kept]
        for group, total in enumerate(caught.inputs):
            total.remove(ignored[..., group, :].reshape(-1, ignored.shape[-1]))


def reduced(rows: Any, conv: str) -> Any:
    """The rows of a convention: of "reduce" the mean over positions."""
    return rows.mean(1, keepdim=True) if conv == "reduce" else rows


@contextmanager
def watched(module: Any, state: State) -> Iterator[None]:
    """Whose output goes into this normalisation?"""

    def look(_: Any, arguments: Any, output: Any) -> None:
        caught = state.makers.get(id(arguments[0])) if state.forward and arguments else None
        if caught is not None and caught.units == module.num_features:
            caught.norm = module
            state.made(output, caught)

    handle = module.register_forward_hook(look)
    try:
        yield
    finally:
        handle.remove()


def narrow_off(tensor: Any) -> Any:
    """Outside autocast: sums of narrower numbers lose the small eigenvalues."""
    import torch

    return torch.autocast(tensor.device.type, enabled=False)


def _rows(module: Any, x: Any, caught: Caught, state: State) -> Any:
    import torch

    rows = input_rows(module, x, caught.conv).to(_wide(x))
    if state.bias and module.bias is not None:
        rows = torch.cat([rows, torch.ones_like(rows[..., :1])], -1)
    return rows


def _add(sums: list[FactorSum], rows: Any) -> None:
    for group in range(rows.shape[2]):
        if len(sums) <= group:
            sums.append(FactorSum())
        sums[group].add(rows[:, :, group].reshape(-1, rows.shape[-1]))


def _wide(tensor: Any) -> Any:
    """At least float32."""
    import torch

    return tensor.dtype if tensor.dtype == torch.float64 else torch.float32
