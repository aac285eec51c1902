"""What a network's units have on average at a point between others: statistics of batch norms by a policy, and REPAIR
for layers without one.

REPAIR (Jordan et al., ICLR 2023): averaged weights make units of less variance; each is scaled and shifted so that over
the calibration inputs its mean is Σ cᵢμᵢ and its standard deviation Σ cᵢσᵢ, layer after layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from layerscope.errors import UsageError
from layerscope.landscape import _first_layers, _torch
from layerscope.landscape.weights import STATISTICS
from layerscope.sources.delta import plain_name

Run = Callable[[Any], Any]  # the model, in one of its forms, on some inputs
FLAT = 1e-12  # of the target's standard deviation: a unit that does not change is left alone


class Norms:
    """The batch norms of a model that keep statistics."""

    def __init__(self, model: Any) -> None:
        norms = {name: m for name, m in model.named_modules() if isinstance(m, _torch.norms())}
        found = {name: m for name, m in norms.items() if m.track_running_stats}
        self.every = list(found.values())
        self.unkept = len(found) < len(norms)  # some know each batch alone
        self.buffers = {plain_name(f"{name}.{which}".lstrip(".")) for name in found for which in STATISTICS}

    @contextmanager
    def training(self, momentum: float) -> Iterator[None]:
        """Inside, they take each batch's own statistics, and keep them (1) or theirs (0)."""
        before = [(norm, norm.momentum) for norm in self.every]
        for norm in self.every:
            norm.momentum = momentum
            norm.train()
        try:
            yield
        finally:
            for norm, kept in before:
                norm.momentum = kept
                norm.eval()

    def mix(
        self, buffers: Mapping[str, Any], points: Sequence[Mapping[str, Any]], coefficients: Sequence[float],
        policy: str,
    ) -> int:  # fmt: skip
        """Mix all buffers of the points; how many variances had to be clamped."""
        clamped = 0
        for name, buffer in buffers.items():
            if not all(name in point for point in points):
                continue
            if name not in self.buffers and all(_torch.same(points[0][name], point[name]) for point in points[1:]):
                buffer.copy_(points[0][name])  # a mask that is −∞ here and there
                continue
            if name in self.buffers and policy == "keep":
                buffer.copy_(points[0][name])
                continue
            _first_layers.mix([point[name] for point in points], coefficients, buffer)
            if name in self.buffers and name.endswith(("var", "variance")):
                clamped += int((buffer < 0).sum()) if policy == "interpolate" else 0
                buffer.clamp_(min=0.0)
        return clamped


@contextmanager
def kept(buffers: Mapping[str, Any]) -> Iterator[None]:
    """Afterwards they are what they were."""
    before = {name: b.clone() for name, b in buffers.items()}
    try:
        yield
    finally:
        for name, b in buffers.items():
            b.copy_(before[name])


class Repair:
    """Layers whose units get back the mean and the spread that they have at the ends."""

    def __init__(self, model: Any, run: Run, x: Any) -> None:
        """
        :param run: the model on inputs, of which ``x`` are a few.
        :raises UsageError: no layer could be repaired.
        """
        import torch

        with torch.no_grad():
            self.layers = _hidden(model, run, x)
        if not self.layers:
            raise UsageError("repair: there is no linear layer or convolution but before batch norms and at the end")
        self._ends: list[dict[Any, tuple[Any, Any]]] = []  # of each point: layer → (means, standard deviations)
        self._now: dict[Any, tuple[Any, Any]] = {}  # layer → (scale, shift)
        self._wanted: Sequence[float] | None = None  # coefficients, while they are fitted

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Inside, the layers give what is repaired."""
        handles = [layer.register_forward_hook(self._hook) for layer in self.layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._ends, self._now, self._wanted = [], {}, None

    def measure(self, run: Run, x: Any) -> None:
        """The point where the model stands is the next of the ends."""
        found: dict[Any, tuple[Any, Any]] = {}
        handles = [
            layer.register_forward_hook(lambda module, _, out: found.update({module: _moments(module, out)}))
            for layer in self.layers
        ]
        self._now, self._wanted = {}, None
        try:
            run(x)
        finally:
            for handle in handles:
                handle.remove()
        self._ends.append(found)

    @contextmanager
    def fitting(self, coefficients: Sequence[float]) -> Iterator[None]:
        """A pass inside sets what each layer is scaled and shifted by; at the ends nothing is."""
        self._now = {}
        self._wanted = None if 1.0 in coefficients and sum(c != 0.0 for c in coefficients) == 1 else coefficients
        try:
            yield
        finally:
            self._wanted = None

    def _hook(self, module: Any, _: Any, out: Any) -> Any:
        if self._wanted is not None:
            mean, spread = _moments(module, out)
            means, spreads = zip(*(end[module] for end in self._ends), strict=True)
            aim, wide = (
                sum(c * part for c, part in zip(self._wanted, parts, strict=True)) for parts in (means, spreads)
            )
            scale = (wide.clamp(min=0.0) / spread).where(spread > FLAT * wide.abs(), spread.new_ones(()))
            self._now[module] = scale, aim - scale * mean
        if module not in self._now:
            return out
        scale, shift = (_shaped(module, part, out) for part in self._now[module])
        return out * scale + shift


def _hidden(model: Any, run: Run, x: Any) -> list[Any]:
    """Linear layers and convolutions that are called once, neither the last to run nor straight before a batch norm."""
    from torch import nn

    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    outputs: dict[Any, list[tuple[int, int]]] = {}  # module → (tensor, how often it was changed in place) of each call
    normed: set[tuple[int, int]] = set()
    alive: list[Any] = []  # a tensor's id is its own as long as it lives

    def look(module: Any, arguments: Any, out: Any) -> None:
        if isinstance(module, _torch.norms()):
            normed.update((id(each), each._version) for each in arguments)
        else:
            outputs.setdefault(module, []).append((id(out), out._version))
        alive.extend((*arguments, out))

    handles = [m.register_forward_hook(look) for m in model.modules() if isinstance(m, (*kinds, _torch.norms()))]
    try:
        run(x)
    finally:
        for handle in handles:
            handle.remove()
    once = {module: made[0] for module, made in outputs.items() if len(made) == 1}
    return [module for module, out in list(once.items())[:-1] if out not in normed]


def _axis(module: Any) -> int:
    from torch import nn

    return -1 if isinstance(module, nn.Linear) else 1


def _moments(module: Any, out: Any) -> tuple[Any, Any]:
    rows = out.movedim(_axis(module), -1).reshape(-1, out.shape[_axis(module)])
    return rows.mean(0), rows.std(0, correction=0)


def _shaped(module: Any, part: Any, out: Any) -> Any:
    shape = [1] * out.dim()
    shape[_axis(module)] = -1
    return part.reshape(shape)
