"""Hooks that record statistics of each layer while a live PyTorch model runs: sums over rows, the rows on request."""

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
    """Statistics of one weight that the hooks record, with sums for each group of a convolution."""

    name: str  # name of the weight
    module: Any
    conv: str
    inputs: list[FactorSum] = field(default_factory=list)
    gradients: list[FactorSum] = field(default_factory=list)
    weight_gradient: Any = None  # Σ ∂ℓ/∂W over the examples
    is_shared: bool = False  # is the weight used elsewhere too, e.g. by a tied embedding?
    positions: int = 0  # number of positions of one example, summed over calls
    calls: int = 0
    outputs: int = 0  # number of outputs of the model
    batches: dict[int, int] = field(default_factory=dict)  # batch → number of examples, labeled or not
    stored_inputs: list[tuple[int, Any]] = field(default_factory=list)  # (batch, rows), for exact spectra only
    stored_gradients: list[tuple[int, Any]] = field(default_factory=list)  # (batch, rows) of each backward pass
    ever_active: Any = None  # (out,) is the unit active after its ReLU for any example and position?
    always_active: Any = None  # (out,) is it active for all of them?
    is_final: bool = False  # is its output the output of the model?
    norm: Any = None  # batch norm that takes its output
    problem: str = ""  # reason why the layer could not be measured

    @property
    def units(self) -> int:
        """Number of output features or channels."""
        return int(self.module.out_features if kind_of(self.module) == "linear" else self.module.out_channels)

    def factors(self, examples: int) -> tuple[Any, Any]:
        """Return the input and the gradient covariance, (S_x, S_d), each (groups, d, d).

        With T positions t per example, by convention:

        - "expand": S_x is the mean of a aᵀ over examples and positions, S_d the mean of Σₜ d dᵀ over examples;
        - "reduce": S_x is the mean over examples for a averaged over positions, S_d for d summed over positions;
        - "channels": a leaves out the kernel, and S_d is T² times the mean of d dᵀ.
        """
        import torch

        inside = torch.stack([total.finish() for total in self.inputs])
        return inside, torch.stack([total.finish(examples) for total in self.gradients])


class Phase(enum.Flag):
    """The quantities that the hooks record at the moment."""

    NOTHING = 0
    FORWARD = enum.auto()  # inputs, into S_x; off when gradient checkpointing reruns a part of the forward pass
    WEIGHT_GRADIENT = enum.auto()  # weight gradients, in the backward pass of the loss
    FACTORS = enum.auto()  # output gradients, into S_d; together with WEIGHT_GRADIENT for "empirical"


@dataclass
class CaptureState:
    """Settings of the hooks, and the state that they share during one batch."""

    bias: bool
    keep_rows: bool
    batch: int = 0
    phase: Phase = Phase.NOTHING
    output_edges: list[Any] = field(default_factory=list)  # edges of the autograd graph to the outputs of layers
    calls: list[tuple[LayerStatistics, Any, int]] = field(default_factory=list)  # (layer, input, version of input)
    layer_by_tensor: dict[int, LayerStatistics] = field(default_factory=dict)  # id of a tensor → layer of its units
    referenced: list[Any] = field(default_factory=list)  # keeps these tensors alive, so that ids stay unique
    by_autograd: list[LayerStatistics] = field(default_factory=list)  # layers whose weight gradient autograd computes
    last_output: tuple[LayerStatistics | None, Any] = (None, None)  # (last layer with an output, its memory)

    def begin_batch(self, batch: int) -> None:
        """Forget the previous batch and start to record inputs."""
        self.phase, self.batch = Phase.FORWARD, batch
        self._forget_tensors()

    def end_batch(self) -> None:
        """Stop recording until the next batch: a data loader may run the model, too."""
        self.phase = Phase.NOTHING
        self._forget_tensors()

    def _forget_tensors(self) -> None:
        self.last_output, self.by_autograd = (None, None), []
        self.output_edges, self.calls, self.layer_by_tensor, self.referenced = [], [], {}, []

    def end_forward(self) -> None:
        """Stop recording inputs."""
        self.phase &= ~Phase.FORWARD

    def assign_units(self, tensor: Any, layer: LayerStatistics) -> None:
        """Remember that the units of a tensor belong to this layer."""
        self.layer_by_tensor[id(tensor)] = layer
        self.referenced.append(tensor)


@contextmanager
def layer_hooks(module: Any, layer: LayerStatistics, state: CaptureState) -> Iterator[None]:
    """Register hooks that record inputs and output gradients of a module; remove them on exit."""
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
        state.output_edges.append(graph.get_gradient_edge(output))  # before an in-place activation

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
    import torch

    rows = gradient_rows(module, gradient.detach()).to(_sum_dtype(gradient))
    if Phase.WEIGHT_GRADIENT in state.phase and not any(layer is other for other in state.by_autograd):
        if x._version != version:
            layer.problem = "its input is overwritten in place before the backward pass"
            return
        inputs = input_rows(module, x.detach(), "expand").to(_sum_dtype(x))
        groups = [rows[:, :, g].flatten(0, 1).T @ inputs[:, :, g].flatten(0, 1) for g in range(rows.shape[2])]
        add_gradient(layer, groups[0] if len(groups) == 1 else torch.cat(groups))
    if Phase.FACTORS not in state.phase:
        return
    if state.keep_rows:
        layer.stored_gradients.append((state.batch, rows.cpu().numpy()))
    if layer.conv == "reduce":
        rows = rows.sum(1, keepdim=True)
    elif layer.conv == "channels":
        rows = rows * rows.shape[1] ** 0.5  # the sum times T²/(N·T) is T² times the mean
    _add_rows(layer.gradients, rows)


def add_gradient(layer: LayerStatistics, gradient: Any) -> None:
    """Add to the sum Σ ∂ℓ/∂W of a layer."""
    layer.weight_gradient = gradient if layer.weight_gradient is None else layer.weight_gradient + gradient


def remove_unlabeled(layer: LayerStatistics, x: Any, version: int, mask: Any, state: CaptureState) -> None:
    """Subtract examples without a label from S_x, because they do not count.

    :param mask: boolean tensor of the examples (or tokens of sequences) that have a label.
    """
    with autocast_off(x):
        rows = _input_rows(layer.module, x.detach(), layer, state)
        if mask.dim() > 1 and layer.conv != "expand":
            mask = mask.flatten(1).any(1)
        fits = tuple(mask.shape) == tuple(rows.shape[: mask.dim()])
        if not fits or bool(mask.all()):
            return  # rows and labels have different positions, so all rows count
        if x._version != version:
            layer.problem = "its input is overwritten in place, so examples without a label cannot be left out"
            return
        unlabeled = apply_convention(rows, layer.conv)[~mask]
        for group, total in enumerate(layer.inputs):
            total.remove(unlabeled[..., group, :].reshape(-1, unlabeled.shape[-1]))


def apply_convention(rows: Any, conv: str) -> Any:
    """Average the rows over positions for "reduce"; leave them as they are otherwise."""
    return rows.mean(1, keepdim=True) if conv == "reduce" else rows


@contextmanager
def norm_hook(module: Any, state: CaptureState) -> Iterator[None]:
    """Register a hook that finds the layer before this norm; remove it on exit."""

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
    """Context manager that disables autocast: sums in half precision lose the small eigenvalues."""
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
    """Return float64 for float64 tensors, float32 for all others."""
    import torch

    return tensor.dtype if tensor.dtype == torch.float64 else torch.float32
