"""What hooks catch of each layer while a live PyTorch model runs: sums over rows, never the rows, unless asked for."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from layerscope.lenses.learning_statistics.layer_rows import gradient_rows, input_rows, kind_of
from layerscope.numerics.second_moments import FactorSum


@dataclass
class LayerStatistics:
    """What the hooks recorded of one weight: sums for each group of a convolution."""

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
    stored_inputs: list[tuple[int, Any]] = field(default_factory=list)  # (batch, rows), where exact spectra are wanted
    stored_gradients: list[tuple[int, Any]] = field(default_factory=list)  # of each backward pass
    ever_active: Any = None  # (out,) was the unit active behind its ReLU for any example and position?
    always_active: Any = None  # (out,) for all of them?
    is_final: bool = False  # is its output the model's?
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


class Phase(enum.Flag):
    """What the hooks record at the moment."""

    NOTHING = 0
    FORWARD = enum.auto()  # inputs, into S_x; not while a checkpoint runs its part again during the backward pass
    WEIGHT_GRADIENT = enum.auto()  # the backward pass is that of the loss
    FACTORS = enum.auto()  # output gradients, into S_d; with WEIGHT_GRADIENT for the empirical Fisher


@dataclass
class CaptureState:
    """What the hooks are to record, and what they share with each other during one batch."""

    bias: bool
    keep_rows: bool
    batch: int = 0
    phase: Phase = Phase.NOTHING
    output_edges: list[Any] = field(default_factory=list)  # of the graph, to the layers' outputs
    calls: list[tuple[LayerStatistics, Any, int]] = field(default_factory=list)  # (layer, its input, version of it)
    layer_by_tensor: dict[int, LayerStatistics] = field(default_factory=dict)  # id of a tensor → layer of its units
    referenced: list[Any] = field(default_factory=list)  # these tensors, so that their ids stay unique
    last_output: tuple[LayerStatistics | None, Any] = (None, None)  # whose output came last, and where it lies

    def begin_batch(self, batch: int) -> None:
        """Record inputs from now on, and nothing of the previous batch."""
        self.phase, self.batch = Phase.FORWARD, batch
        self._forget_tensors()

    def end_batch(self) -> None:
        """Record nothing until the next batch: a loader may run the model, too."""
        self.phase = Phase.NOTHING
        self._forget_tensors()

    def _forget_tensors(self) -> None:
        self.last_output = (None, None)
        self.output_edges, self.calls, self.layer_by_tensor, self.referenced = [], [], {}, []

    def end_forward(self) -> None:
        """Record no more inputs."""
        self.phase &= ~Phase.FORWARD

    def assign_units(self, tensor: Any, layer: LayerStatistics) -> None:
        """Remember that a tensor has the units of a layer."""
        self.layer_by_tensor[id(tensor)] = layer
        self.referenced.append(tensor)


@contextmanager
def layer_hooks(module: Any, layer: LayerStatistics, state: CaptureState) -> Iterator[None]:
    """Record what a module is called with and what gradients its outputs get, by hooks that are removed at the end."""
    from torch.autograd import graph

    def record_input(_: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        if Phase.FORWARD not in state.phase or layer.problem:
            return
        x = arguments[0] if arguments else next(iter(keywords.values()))
        with autocast_off(x):
            rows = _input_rows(module, x.detach(), layer, state)
            layer.calls += 1
            layer.positions += rows.shape[1]
            if state.keep_rows:
                layer.stored_inputs.append((state.batch, rows.cpu().numpy()))
            _add_rows(layer.inputs, apply_convention(rows, layer.conv))
        state.calls.append((layer, x, x._version))

    def record_output(_: Any, __: Any, output: Any) -> None:
        if Phase.FORWARD not in state.phase:
            return
        state.assign_units(output, layer)
        state.last_output = layer, (output.data_ptr(), output.numel())
        if not output.requires_grad or layer.problem:
            return
        _, x, version = state.calls[-1]

        def record_gradient(gradient: Any) -> None:
            with autocast_off(gradient):
                _record_output_gradient(module, layer, state, x, version, gradient)

        output.register_hook(record_gradient)
        state.output_edges.append(graph.get_gradient_edge(output))  # an activation in place may follow

    handles = (
        module.register_forward_pre_hook(record_input, with_kwargs=True),
        module.register_forward_hook(record_output),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _record_output_gradient(
    module: Any, layer: LayerStatistics, state: CaptureState, x: Any, version: int, gradient: Any
) -> None:
    """Add the output gradient of one call of a module to the sums."""
    rows = gradient_rows(module, gradient.detach()).to(_sum_dtype(gradient))
    if Phase.WEIGHT_GRADIENT in state.phase and kind_of(module) == "linear":
        if x._version != version:
            layer.problem = "its input is overwritten in place before the gradient comes back"
            return
        inputs = input_rows(module, x.detach(), layer.conv).to(_sum_dtype(x))
        add_gradient(layer, rows.flatten(0, 2).T @ inputs.flatten(0, 2))
    if Phase.FACTORS not in state.phase:
        return
    if state.keep_rows:
        layer.stored_gradients.append((state.batch, rows.cpu().numpy()))
    if layer.conv == "reduce":
        rows = rows.sum(1, keepdim=True)
    elif layer.conv == "channels":
        rows = rows * rows.shape[1] ** 0.5  # T²/(N·T) of their sum is T² times their mean
    _add_rows(layer.gradients, rows)


def add_gradient(layer: LayerStatistics, gradient: Any) -> None:
    """Add a part of Σ ∂ℓ/∂W."""
    layer.weight_gradient = gradient if layer.weight_gradient is None else layer.weight_gradient + gradient


def remove_unlabeled(layer: LayerStatistics, x: Any, version: int, mask: Any, state: CaptureState) -> None:
    """Subtract from S_x what examples without a label added: they do not count.

    :param mask: which examples, or which tokens of sequences, have a label.
    """
    with autocast_off(x):
        rows = _input_rows(layer.module, x.detach(), layer, state)
        if mask.dim() > 1 and layer.conv != "expand":
            mask = mask.flatten(1).any(1)
        fits = tuple(mask.shape) == tuple(rows.shape[: mask.dim()])
        if not fits or bool(mask.all()):
            return  # other positions than the labels have: all count
        if x._version != version:
            layer.problem = "its input is overwritten in place, and some examples have no label"
            return
        unlabeled = apply_convention(rows, layer.conv)[~mask]
        for group, total in enumerate(layer.inputs):
            total.remove(unlabeled[..., group, :].reshape(-1, unlabeled.shape[-1]))


def apply_convention(rows: Any, conv: str) -> Any:
    """The rows of a convention: of "reduce" the mean over positions."""
    return rows.mean(1, keepdim=True) if conv == "reduce" else rows


@contextmanager
def norm_hook(module: Any, state: CaptureState) -> Iterator[None]:
    """Find the layer whose output goes into this normalization."""

    def find_layer(_: Any, arguments: Any, output: Any) -> None:
        is_recording = Phase.FORWARD in state.phase and bool(arguments)
        layer = state.layer_by_tensor.get(id(arguments[0])) if is_recording else None
        if layer is not None and layer.units == module.num_features:
            layer.norm = module
            state.assign_units(output, layer)

    handle = module.register_forward_hook(find_layer)
    try:
        yield
    finally:
        handle.remove()


def autocast_off(tensor: Any) -> Any:
    """Outside autocast: sums of narrower numbers lose the small eigenvalues."""
    import torch

    return torch.autocast(tensor.device.type, enabled=False)


def _input_rows(module: Any, x: Any, layer: LayerStatistics, state: CaptureState) -> Any:
    import torch

    rows = input_rows(module, x, layer.conv).to(_sum_dtype(x))
    if state.bias and module.bias is not None:
        rows = torch.cat([rows, torch.ones_like(rows[..., :1])], -1)
    return rows


def _add_rows(sums: list[FactorSum], rows: Any) -> None:
    for group in range(rows.shape[2]):
        if len(sums) <= group:
            sums.append(FactorSum())
        sums[group].add(rows[:, :, group].reshape(-1, rows.shape[-1]))


def _sum_dtype(tensor: Any) -> Any:
    """At least float32."""
    import torch

    return tensor.dtype if tensor.dtype == torch.float64 else torch.float32
