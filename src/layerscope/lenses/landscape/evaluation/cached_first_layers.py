"""Cache the outputs of first layers, which are linear in their weights, for a whole line or plane.

Z(u, v) = (1−v)·Z_A + v·Z_C + u·(Z_B − Z_A), so one forward pass per model and one sum per point suffice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from layerscope.errors import LayerscopeError
from layerscope.live import torch_models
from layerscope.live.call_trace import CallTrace, has_hooks

SUM_TOLERANCE = 1e-9  # coefficients that sum to 1 within this tolerance are treated as affine
MAX_CACHE_BYTES = 1 << 29  # limit on the memory for cached outputs

Run = Callable[[Any], Any]  # runs the model on a batch of inputs
Outputs = dict[Any, list[list[Any]]]  # module → for each point and each input tensor, the outputs for all examples
BatchKey = tuple[int, tuple[int, ...]]  # memory address and shape of a batch


def mix_into(out: Any, vectors: Sequence[Any], coefficients: Sequence[float]) -> Any:
    """Write Σ cᵢ·vectorᵢ to ``out``; vectors with coefficient 0 are skipped, and coefficient 1 is exact."""
    used = [(c, vector) for c, vector in zip(coefficients, vectors, strict=True) if c != 0.0]
    if not used:
        return out.zero_()
    out.copy_(used[0][1])
    if used[0][0] != 1.0:
        out.mul_(used[0][0])
    for c, vector in used[1:]:
        out.add_(vector, alpha=c)
    return out


@dataclass
class CachedMixture:
    """Selects the mixture of cached outputs that the layers return."""

    coefficients: list[float]
    active: bool  # whether the layers return cached outputs
    batch_key: BatchKey | None = None  # the batch that the model is running on

    def set(self, coefficients: Sequence[float]) -> None:
        """Select a mixture by its coefficients."""
        self.coefficients[:] = coefficients

    def agrees(self, run: Callable[[], Any]) -> bool:
        """Whether runs with and without the cached outputs give the same result."""
        outputs = []
        for self.active in (False, True):
            try:
                outputs.append(run().clone())
            except LayerscopeError:
                return False
        return torch_models.nearly_equal(*outputs)

    def before_run(self, x: Any) -> None:
        """Record the batch that the model is about to run on."""
        self.batch_key = _batch_key(x)


def _batch_key(x: Any) -> BatchKey:
    return x.data_ptr(), tuple(x.shape)


@contextmanager
def cached_outputs(
    layers: Sequence[Any], run: Run, inputs: Sequence[tuple[Any, int]], place_point: Callable[[int], None], points: int,
    place_mixture: Callable[[Sequence[float]], Any],
) -> Iterator[CachedMixture]:  # fmt: skip
    """Make layers return mixtures of their cached outputs; yields the object that selects the mixture.

    A returned tensor is valid only until the layer is called again, and the model's output may be a view of it.

    :param layers: the layers found by :func:`layers_fed_by_data`.
    :param inputs: all data that will be run through the model, as pairs (tensor, batch size).
    :param place_point: function that loads the weights of point k into the model.
    :param points: number of points.
    :param place_mixture: function that loads a mixture of the layers' weights, for batches that are not cached.
    """
    outer = {layer: layer.__dict__.pop("forward", None) for layer in layers}  # set by an enclosing session
    mixture = CachedMixture([1.0] + [0.0] * (points - 1), False)
    outputs = _compute_outputs(layers, run, inputs, place_point, points) if points > 1 else {}
    batches = _locate_batches(inputs)
    try:
        for layer, of_points in outputs.items():
            layer.forward = _cached_forward(layer, of_points, batches, mixture, place_mixture)
        mixture.active = bool(outputs)
        yield mixture
    finally:
        for layer, forward in outer.items():
            layer.__dict__.pop("forward", None)
            if forward is not None:
                layer.forward = forward


def _locate_batches(inputs: Sequence[tuple[Any, int]]) -> dict[BatchKey, tuple[int, int]]:
    """Map each batch to (index of its input tensor, index of its first example)."""
    starts: dict[BatchKey, tuple[int, int]] = {}
    for number, (x, batch) in enumerate(inputs):
        for i in range(0, len(x), batch):
            starts.setdefault(_batch_key(x[i : i + batch]), (number, i))
    return starts


def _cached_forward(
    layer: Any, outputs: Sequence[Sequence[Any]], batches: dict[BatchKey, tuple[int, int]], mixture: CachedMixture,
    place_mixture: Callable[[Sequence[float]], Any],
) -> Callable[[Any], Any]:  # fmt: skip
    """Build a forward function that mixes cached outputs.

    :param outputs: outputs of the layer for each point and each input tensor.
    """
    import torch

    differences = [second - first for first, second in zip(outputs[0], outputs[1], strict=True)]
    rows: dict[tuple[int, int, int], tuple[list[float], Any]] = {}  # partial sums shared by a row of a plane
    buffers: dict[int, Any] = {}  # number of examples → reused output tensor, which stays in the CPU cache
    coefficients = mixture.coefficients

    def forward(x: Any) -> Any:
        key = mixture.batch_key
        is_known = key is not None and key in batches and _batch_key(x)[0] == key[0] and len(x) == key[1][0]
        if not mixture.active or not is_known or key is None:
            if mixture.active:
                place_mixture(coefficients)
            return type(layer).forward(layer, x)
        (number, start), count = batches[key], key[1][0]
        part = slice(start, start + count)
        if 0.0 in coefficients[:2] or abs(sum(coefficients) - 1) > SUM_TOLERANCE:  # 0·∞ would be NaN
            parts = [output[number][part] for output in outputs]
            return mix_into(torch.empty_like(parts[0]), parts, coefficients)
        others, base = rows.get((number, start, count), ([math.nan], None))
        if base is None or others != coefficients[2:]:
            parts = [output[number][part] for output in outputs]
            target = torch.empty_like(parts[0]) if base is None else base
            base = mix_into(target, parts, [1 - sum(coefficients[2:]), 0.0, *coefficients[2:]])
            rows[number, start, count] = list(coefficients[2:]), base
        if count not in buffers:
            buffers[count] = torch.empty_like(base)
        return torch.add(base, differences[number][part], alpha=coefficients[1], out=buffers[count])

    return forward


def layers_fed_by_data(model: Any, run: Run, x: Any) -> list[Any]:
    """Find linear layers and convolutions that are called once, on the data, and have no hooks or tied weights.

    The search runs with two and with three examples, so that an axis of size two is not mistaken for the examples.
    """
    with_two, with_three = (_fed_by(model, run, x[: min(count, len(x))]) for count in (2, 3))
    return [module for module in with_two if module in with_three]


def _fed_by(model: Any, run: Run, x: Any) -> list[Any]:
    from torch import nn

    calls, fed = dict[Any, int](), list[Any]()
    parameters = {module: list(module._parameters.values()) for module in model.modules()}
    hooked = {module for module in parameters if has_hooks(module)}

    def record(module: Any, arguments: Any, out: Any) -> None:
        calls[module] = calls.get(module, 0) + 1
        try:
            on_data = bool(arguments) and arguments[0].data_ptr() == x.data_ptr()
        except RuntimeError:  # tensors inside vmap have no memory address
            return
        pairs = zip(module._parameters.values(), parameters[module], strict=False)
        if not on_data or arguments[0].numel() != x.numel() or any(p is not q for p, q in pairs):
            return
        if len(arguments[0]) == len(out) == len(x):  # the first axis counts examples, not tokens or frames
            fed.append(module)

    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    handles = [module.register_forward_hook(record) for module in parameters if type(module) in kinds]
    try:
        use_counts = CallTrace.record(run, x).use_counts()
    finally:
        for handle in handles:
            handle.remove()
    return [
        module for module in dict.fromkeys(fed)
        if calls[module] == 1 and module not in hooked and "weight" in module._parameters
        and all(use_counts.get(id(p), 0) <= 1 for p in module.parameters())
    ]  # fmt: skip


def _compute_outputs(
    layers: Sequence[Any], run: Run, inputs: Sequence[tuple[Any, int]], place_point: Callable[[int], None], points: int
) -> Outputs:
    """Compute the outputs of the layers at every point; empty if this fails or exceeds ``MAX_CACHE_BYTES``."""
    outputs: Outputs = {layer: [] for layer in layers}
    try:
        sample = inputs[0][0][:2]
        of_sample = _layer_outputs(run, layers, sample, 2)
        size = sum(output.numel() * output.element_size() for output in of_sample.values()) / max(len(sample), 1)
        needed = size * sum(len(x) for x, _ in inputs) * (points + 3)
        if needed > MAX_CACHE_BYTES or len(of_sample) < len(layers):
            return {}
        for k in range(points):
            place_point(k)
            of_first = _layer_outputs(run, layers, *inputs[0])
            for layer in layers:
                outputs[layer].append([of_first[layer]])
            for x, batch in inputs[1:]:
                of_input = of_first if _is_head(x, inputs[0][0]) else _layer_outputs(run, layers, x, batch)
                for layer in layers:
                    outputs[layer][-1].append(of_input[layer][: len(x)])
    except (KeyError, LayerscopeError):  # some batch skips a layer, or the model fails at one of the points
        return {}
    return outputs


def _is_head(x: Any, whole: Any) -> bool:
    """Whether one input consists of the first examples of another."""
    is_other = x is not whole and len(x) <= len(whole) and x.stride() == whole.stride()
    return is_other and _batch_key(x) == _batch_key(whole[: len(x)])


def _layer_outputs(run: Run, layers: Sequence[Any], x: Any, batch: int) -> dict[Any, Any]:
    """Return the outputs of the layers for all examples, for layers that are called once per batch."""
    import torch

    parts: dict[Any, list[Any]] = {layer: [] for layer in layers}
    handles = [layer.register_forward_hook(lambda layer, _, out: parts[layer].append(out.clone())) for layer in layers]
    batches = x.split(batch)
    try:
        for part in batches:
            run(part)
    finally:
        for handle in handles:
            handle.remove()
    lengths = [len(part) for part in batches]
    return {layer: torch.cat(outs) for layer, outs in parts.items() if [len(out) for out in outs] == lengths}
