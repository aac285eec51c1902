"""Loss and accuracy of a model at many points of parameter space. The user's own model is never touched: a copy is.

Any function weights → {metric: value} is an evaluator. This one is for PyTorch classifiers and regressors: the same
examples at every point, no dropout, batch-norm statistics by a stated policy, first layers that see only the data
computed once for the whole line or plane (they are linear in the weights).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from operator import index
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np

from layerscope.errors import LayerscopeError, UnknownName, UsageError
from layerscope.landscape import _first_layers, _gradients, _statistics, _torch
from layerscope.landscape._calls import Calls
from layerscope.landscape._layout import Layout
from layerscope.landscape._quick import Quick
from layerscope.landscape.weights import Weights, check_alike, weights_of
from layerscope.sources._losses import Loss
from layerscope.sources._strangers import Forward, parameters, told
from layerscope.sources.delta import plain_name

if TYPE_CHECKING:
    from layerscope.types import Floats

BN = ("recompute", "batch", "interpolate", "keep")
CALIBRATION = 512  # examples by which statistics are recomputed, where none are given


@dataclass(frozen=True)
class Value:
    """What was found at one point: means over the examples; NaN where an output is not finite."""

    metrics: Mapping[str, float]
    samples: Floats = field(repr=False)  # (n,) loss of each example; empty where the evaluator does not tell
    clamped: int = 0  # variances below zero that were set to zero


class TorchEvaluator:
    """Evaluates weights of one architecture on data that stay the same."""

    def __init__(
        self,
        model: Any,
        data: Any,
        loss: Any = "cross_entropy",
        *,
        bn: str = "recompute",
        calibrate: Any = None,
        batch: int | None = None,
        device: str | None = None,
        forward: Forward | None = None,
        repair: bool = False,
        examples: int | None = None,
    ) -> None:
        """
        :param model: a module of the architecture; it is copied.
        :param data: (x, y), or batches of them, which are put together.
        :param loss: "cross_entropy", "mse" (½‖f − y‖², summed over outputs), or a function of output and labels with a
            value for each example.
        :param bn: statistics of batch norms: "recompute" from ``calibrate``, "batch" (each batch by itself),
            "interpolate" (mixed like weights; variances below zero are set to zero and counted), "keep" (the first
            model's).
        :param calibrate: inputs for "recompute": training data, not those that are evaluated. The first 512 of the
            data themselves where none are given.
        :param batch: examples at once; where none is given, so many that what lies between layers stays in the cache.
        :param forward: (model, x) → output, where it is not ``model(x)``: ``lambda net, x: net(input_ids=x).logits``.
        :param repair: between the models, units of layers without a batch norm get back the means and standard
            deviations that they have at the ends, over ``calibrate`` (REPAIR, Jordan et al. 2023).
        :param examples: so many of the data, drawn class by class; standard errors say what that costs.
        :raises UsageError: no data, an unknown policy or device.
        """
        parameters(model)
        import torch

        if bn not in BN:
            raise UnknownName("policy of batch norms", bn, BN)
        if batch is not None and (not isinstance(batch, SupportsIndex) or isinstance(batch, bool) or index(batch) < 1):
            raise UsageError(f"batch must be 1 or more, not {batch!r}")
        try:
            self.device = torch.device(device or "cpu")
            torch.empty(1, device=self.device)
        except (RuntimeError, AssertionError) as error:
            raise UsageError(f"device {device!r}: {str(error).splitlines()[0]}") from None
        self.loss, self.bn = Loss.of(loss), bn
        self.x, self.y = _torch.whole(data, self.device)
        if examples is not None:
            self.x, self.y = _torch.drawn(self.x, self.y, examples)
        self.forward = forward
        self._seen: Any = None  # shape of outputs that fit the labels
        self._kept = self.loss.kept(self.y)
        model = _torch.unwrapped(model)
        with told("copying the model"):
            self.model = copy.deepcopy(model).to(self.device).eval()
            for p in self.model.parameters():
                p.requires_grad_(False)
            Layout.retied(model, self.model)
        kinds = {str(p.dtype).removeprefix("torch.") for p in self.model.parameters()}
        if len(kinds) > 1:
            raise UsageError(f"parameters of several types, {', '.join(sorted(kinds))}: model.float() makes them one")
        self.x = _torch.fitting(self.x, data, kinds)
        self._own = calibrate is None
        self.calibrate = self.x[:CALIBRATION] if calibrate is None else _torch.inputs(calibrate, self.device)
        if not len(self.calibrate):
            raise UsageError("there are no calibration inputs")
        self._quick = Quick()
        self._choice: _first_layers.Choice | None = None
        self._lay(images=False)
        self._check_input()
        with torch.no_grad():
            calls = Calls.seen(self.run, self.x[:2])
            together = bn == "batch" or self.norms.unkept
            fitting = len(self.x) if together else calls.fitting(len(self.x), self.device.type == "cpu")
            self.batch = min(index(batch) if batch else fitting, len(self.x))
            self._settle(calls)
            fed = _first_layers.fed_by(self.model, self.run, self.x)
        fed = [module for module in fed if self._layout.alone(module)]
        self._fed = [name for name, module in self.model.named_modules() if module in fed]
        self._layout.put_last([p for module in fed for p in module.parameters()])
        self._repair = self._mended() if repair else None

    def _first(self) -> list[Any]:
        modules = dict(self.model.named_modules())
        return [modules[name] for name in self._fed]

    def _lay(self, images: bool) -> None:
        """How inputs and parameters lie in memory."""
        import torch

        self.norms = _statistics.Norms(self.model)
        self._layout = Layout(self.model, images)
        self._buffers = {plain_name(k): v for k, v in self.model.named_buffers() if v.is_floating_point()}
        how = torch.channels_last if images else torch.contiguous_format  # batches lie in memory as they do here
        self.x = self.x.contiguous(memory_format=how)
        if self._own:
            self.calibrate = self.x[:CALIBRATION]
        elif self.calibrate.dim() == self.x.dim():
            self.calibrate = self.calibrate.contiguous(memory_format=how)

    def _settle(self, calls: Calls) -> None:
        """Take the quickest way that gives what the plain one gives: channels last, other pools."""
        if self.x.dim() != 4 or not self.x.is_floating_point():
            return
        plain = self.run(self.x[: self.batch]).clone()
        self._lay(images=True)
        for quick in dict.fromkeys((Quick.of(self.model, calls), Quick())):
            self._quick = quick
            with self._layout.on(), suppress(LayerscopeError):
                if _torch.near(plain, self.run(self.x[: self.batch])):
                    return
        self._lay(images=False)

    @property
    def parameters(self) -> dict[str, Any]:
        """By name; those that are tied once."""
        return self._layout.parameters

    @property
    def names(self) -> dict[str, list[str]]:
        """What the model itself calls each parameter; of tied ones several names."""
        return self._layout.names

    def tied(self, name: str) -> list[Any]:
        """A parameter and those that are the same memory."""
        return self._layout.tied(name)

    @property
    def about(self) -> dict[str, Any]:
        """What every result states."""
        policy = self.bn if self.norms.every else "none"
        found: dict[str, Any] = {"examples": len(self.x), "loss": self.loss.kind, "bn": policy}
        if policy == "batch":
            found["batch"] = self.batch
        if self._repair is not None:
            found["repair"] = f"{len(self._repair.layers)} layers"
        if policy == "recompute" or self._repair is not None:
            own = " of the data themselves" if self._own else ""
            found["calibration"] = f"{len(self.calibrate)}{own}"
        return found

    def __call__(self, weights: Weights) -> Value:
        """Loss, and accuracy where the labels are classes."""
        with self.walk([weights]) as at:
            return at([1.0])

    @property
    def fingerprint(self) -> bytes:
        """Changes with the data, the calibration inputs, the loss, the policy and the function."""
        held = self.loss.function if self.loss.function is not None else self.loss.kind
        told = [repr(sorted(self.about.items())), repr(self.model), repr(_torch.attributes(self.model))]
        own = _torch.unmoved(self.model, {*self.norms.buffers, *self._buffers} & set(self.model.state_dict()))
        return _torch.digest(told, (self.x, self.y, self.calibrate, *own), (held, self.forward))

    def twin(self) -> TorchEvaluator:
        """The same on a copy of the model: for another thread."""
        found = copy.copy(self)
        found.model, found._choice = copy.deepcopy(self.model), None
        Layout.retied(self.model, found.model)
        found._lay(self._layout.images)
        found._layout.put_last([p for module in found._first() for p in module.parameters()])
        found._repair = found._mended() if self._repair is not None else None
        return found

    @contextmanager
    def walk(self, points: Sequence[Weights]) -> Iterator[Callable[[Sequence[float]], Value]]:
        """coefficients → what is found at Σ cᵢ·pointsᵢ: for many of them, faster than one by one."""
        import torch

        points = [weights_of(point) for point in points]
        self.check(points)
        layout = self._layout
        flat = [layout.flat(point) for point in points]
        here = flat[0].clone()
        stats = [{k: torch.from_numpy(np.array(p[k])).to(self.device) for k in self._buffers if k in p} for p in points]
        inputs = [(self.x, self.batch)]
        if self._repair is not None or (self.bn == "recompute" and self.norms.every):
            inputs.append((self.calibrate, len(self.calibrate)))
        rest = [vector[layout.early :] for vector in flat]
        images = _first_layers.replaced(
            self._first(), self.run, inputs, lambda k: here.copy_(flat[k]), len(flat),
            lambda now: _first_layers.mix(rest, now, here[layout.early :]),
        )  # fmt: skip
        outer, self._choice = self._choice, None
        kept, repaired = _statistics.kept(self._buffers), self._repaired(flat, stats, here)
        with torch.no_grad(), layout.on(here), kept, repaired, images as choice:
            self._choice = choice
            choice.active = choice.active and self._agree(choice, flat, here, stats)
            needed = [vector[: layout.early] for vector in flat] if choice.active else flat

            def at(coefficients: Sequence[float]) -> Value:
                self._choice = choice
                layout.again()
                _first_layers.mix(needed, coefficients, here[: len(needed[0])])
                choice(coefficients)
                clamped = self.norms.mix(self._buffers, stats, coefficients, self.bn)
                self._calibrated(coefficients)
                return self._measured(clamped)

            try:
                yield at
            finally:
                self._choice = outer

    def _agree(self, choice: Any, flat: Sequence[Any], here: Any, stats: Sequence[Mapping[str, Any]]) -> bool:
        """Do the images give what the layers themselves would, somewhere between the points?"""
        count = len(flat)
        between = [2 * (k + 1) / (count * (count + 1)) for k in range(count)]
        _first_layers.mix(flat, between, here)
        self.norms.mix(self._buffers, stats, between, self.bn)
        choice(between)
        return bool(choice.agrees(lambda: self.run(self.x[: self.batch])))

    @contextmanager
    def policy(self, bn: str, repair: bool = False) -> Iterator[None]:
        """Inside, another policy of batch norms, and of REPAIR.

        :raises UnknownName: no such policy.
        """
        if bn not in (*BN, "straight"):
            raise UnknownName("policy of batch norms", bn, BN)
        before = self.bn, self._repair
        self.bn, self._repair = bn if bn in BN else self.bn, self._mended() if repair else self._repair
        try:
            yield
        finally:
            self.bn, self._repair = before

    def _mended(self) -> _statistics.Repair:
        return _statistics.Repair(self.model, self.run, self.x[:2])

    def outputs(self) -> Floats:
        """What the model gives for all examples, (n, outputs), at the point where a walk stands."""
        import torch

        with torch.no_grad():
            found = self._whole()
        return np.array(found.reshape(-1, found.shape[-1]).double().cpu().numpy())

    def gradient(self, weights: Weights) -> dict[str, Any]:
        """∂L/∂θ of the mean loss over all examples, arrays by name."""
        with self.walk([weights]) as at:
            at([1.0])
            with self.norms.training(0.0) if self.bn == "batch" else nullcontext():
                found = _gradients.of(self, self.bn == "recompute" and bool(self.norms.every))
        return {name: np.asarray(_torch.wide(g).cpu().numpy()) for name, g in found.items()}

    def unflat(self, vector: Any) -> dict[str, Any]:
        """Arrays by name of a vector of all parameters one after the other, as those of the curvature are."""
        parts = vector.split([p.numel() for p in self.parameters.values()])
        every = zip(self.parameters.items(), parts, strict=True)
        return {name: _torch.wide(part.detach()).reshape(p.shape).cpu().numpy() for (name, p), part in every}

    @property
    def ways(self) -> tuple[str, ...]:
        """Policies that barriers are compared by."""
        if not self.norms.every:
            return ("straight",)
        return ("recompute", "interpolate") if self.bn == "recompute" else (self.bn,)

    @property
    def labels(self) -> Any:
        """Of the examples, an array."""
        return self.y.cpu().numpy()

    def check(self, points: Sequence[Weights]) -> None:
        """
        :raises UsageError: points of another architecture.
        """
        wanted = {k: tuple(v.shape) for k, v in self.parameters.items()}
        model = {k: np.empty(shape) for k, shape in wanted.items()}
        for number, point in enumerate(points):
            known = {k: v for k, v in point.items() if k in wanted or k in self._buffers}
            check_alike(
                [model, {k: v for k, v in known.items() if k in wanted}], ["the evaluator's model", f"point {number}"]
            )

    def _check_input(self) -> None:
        """One pass over a few examples.

        :raises UsageError: labels that do not fit, a model that changes what it is given, or is random.
        """
        import torch

        with torch.no_grad():
            output = _torch.repeated(self.run, self.x[:2])
            self.loss.values(output, self.y[:2])

    @contextmanager
    def _repaired(self, flat: Sequence[Any], stats: Sequence[Mapping[str, Any]], here: Any) -> Iterator[None]:
        """Inside, what is to be repaired is, the ends being known."""
        if self._repair is None:
            yield
            return
        with self._repair.hooked():
            for k, point in enumerate(flat):
                only = [float(k == number) for number in range(len(flat))]
                here.copy_(point)
                self.norms.mix(self._buffers, stats, only, self.bn)
                with self.norms.training(1.0) if self.bn == "recompute" else nullcontext():
                    self._repair.measure(self.run, self.calibrate)
            yield

    def _calibrated(self, coefficients: Sequence[float]) -> None:
        """One pass over the calibration data, all at once: pooled means and variances, and what REPAIR needs."""
        anew = self.norms.training(1.0) if self.norms.every and self.bn == "recompute" else None
        mended = self._repair.fitting(coefficients) if self._repair is not None else None
        if anew is None and mended is None:
            return
        with anew or nullcontext(), mended or nullcontext():
            self.run(self.calibrate)

    def _measured(self, clamped: int) -> Value:
        import torch

        output = self._whole()
        values, kept = self.loss.values(output, self.y, seen=self._seen == output.shape), self._kept
        self._seen = output.shape if self.y.dtype == torch.int64 else None
        samples = np.array((values if kept is None else values[kept.reshape(-1)]).double().cpu().numpy())
        finite = bool(np.isfinite(samples).all()) and bool(len(samples))
        metrics = {"loss": float(samples.mean()) if finite else math.nan}
        classes = output.shape[-1] > 1 if output.dim() == self.y.dim() + 1 else False
        if self.loss.kind != "mse" and not self.y.is_floating_point() and classes:
            right = output.argmax(-1) == self.y
            share = right.double().mean() if kept is None else right[kept].double().mean()
            metrics["accuracy"] = float(share) if finite else math.nan
        return Value(metrics, samples if finite else np.empty(0), clamped)

    def _whole(self) -> Any:
        """What the model makes of all examples."""
        import torch

        with self.norms.training(0.0) if self.bn == "batch" else nullcontext():
            if len(self.x) <= self.batch:
                return self.run(self.x)
            return torch.cat([self.run(x).clone() for x in self.x.split(self.batch)])  # first layers write in place

    def run(self, x: Any) -> Any:
        """What the model makes of some inputs, at the point where a walk stands."""
        if self._choice is not None:
            self._choice.runs_on(x)
        with told("the model"), self._quick.inside():
            return self.model(x) if self.forward is None else self.forward(self.model, x)
