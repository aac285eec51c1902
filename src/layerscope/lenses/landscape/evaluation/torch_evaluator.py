"""Loss and accuracy of a PyTorch model at many points of parameter space. The user's own model is never touched.

Any function weights → {metric: value} is an evaluator. This one is for PyTorch classifiers and regressors: the same
examples at every point, no dropout, batch-norm statistics by a stated policy. It puts together what one file each does:
the data and the loss (``evaluation_data``), batch norms (``batch_norm``), REPAIR (``repair``), the quickest way to run
the model (``fast_path``), and walks between points (``point_session``).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.choices import BATCH_NORM_POLICIES
from layerscope.errors import UnknownName
from layerscope.lenses.landscape.evaluation import loss_gradient
from layerscope.lenses.landscape.evaluation.batch_norm import BatchNormPolicy
from layerscope.lenses.landscape.evaluation.evaluation_data import EvaluationData, check_batch
from layerscope.lenses.landscape.evaluation.fast_path import FastPath
from layerscope.lenses.landscape.evaluation.parameter_vector import ParameterVector
from layerscope.lenses.landscape.evaluation.point_session import PointSession, run_all
from layerscope.lenses.landscape.evaluation.repair import Repair
from layerscope.lenses.landscape.evaluation.value import Value
from layerscope.live import fingerprints, torch_models
from layerscope.live.call_trace import CallTrace
from layerscope.live.losses import Loss
from layerscope.live.user_code import Forward, torch_parameters
from layerscope.sources.model_weights import Weights, check_same_tensors, weights_of

if TYPE_CHECKING:
    from layerscope.array_types import Floats


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
        torch_parameters(model)
        import torch

        if bn not in BATCH_NORM_POLICIES:
            raise UnknownName("policy of batch norms", bn, BATCH_NORM_POLICIES)
        batch = check_batch(batch)
        self.device = torch_models.device_of(device)
        self._data = EvaluationData(data, Loss.of(loss), self.device, examples)
        self.model = torch_models.copy_for_evaluation(model, self.device)
        ParameterVector.retie(torch_models.unwrapped(model), self.model)
        self._data.convert_inputs(data, torch_models.parameter_dtypes(self.model))
        self._data.set_calibration(calibrate)
        self._batch_norm = BatchNormPolicy(self.model, bn)
        self._path = FastPath(self.model, forward)
        self._data.set_memory_format(channels_last=False)
        with torch.no_grad():
            self._check_inputs()
            trace = CallTrace.record(self.run, self.x[:2])
            fitting = trace.examples_that_fit(len(self.x), self.device.type == "cpu")
            fitting = len(self.x) if self._batch_norm.ties_examples else fitting
            self._data.batch = min(batch or fitting, len(self.x))
            self._path.choose(trace, self._data)
        self._repair = self._build_repair() if repair else None

    @property
    def x(self) -> Any:
        """The inputs that are evaluated."""
        return self._data.x

    @property
    def y(self) -> Any:
        """Their labels."""
        return self._data.y

    @property
    def calibrate(self) -> Any:
        """The inputs by which statistics are recomputed."""
        return self._data.calibration

    @property
    def loss(self) -> Loss:
        """The loss, example by example."""
        return self._data.loss

    @property
    def batch(self) -> int:
        """Examples at once."""
        return self._data.batch

    @property
    def bn(self) -> str:
        """The policy of batch norms."""
        return self._batch_norm.policy

    @property
    def forward(self) -> Forward | None:
        """(model, x) → output, where it is not ``model(x)``."""
        return self._path.forward

    @property
    def parameters(self) -> dict[str, Any]:
        """By name; those that are tied once."""
        return self._path.vector.parameters

    @property
    def names(self) -> dict[str, list[str]]:
        """What the model itself calls each parameter; of tied ones several names."""
        return self._path.vector.names

    @property
    def about(self) -> dict[str, Any]:
        """What every result states."""
        policy = self._batch_norm.stated
        facts: dict[str, Any] = {"examples": len(self.x), "loss": self.loss.kind, "bn": policy}
        if policy == "batch":
            facts["batch"] = self.batch
        if self._repair is not None:
            facts["repair"] = f"{len(self._repair.layers)} layers"
        if policy == "recompute" or self._repair is not None:
            source = " of the data themselves" if self._data.calibrates_on_itself else ""
            facts["calibration"] = f"{len(self.calibrate)}{source}"
        return facts

    @property
    def barrier_policies(self) -> tuple[str, ...]:
        """Policies of batch norms that barriers are compared by."""
        if not self._batch_norm.norms.tracked:
            return ("straight",)
        return ("recompute", "interpolate") if self.bn == "recompute" else (self.bn,)

    @property
    def labels(self) -> Any:
        """Of the examples, an array."""
        return self.y.cpu().numpy()

    @property
    def fingerprint(self) -> bytes:
        """Changes with the data, the calibration inputs, the loss, the policy and the function."""
        loss = self.loss.function if self.loss.function is not None else self.loss.kind
        words = [repr(sorted(self.about.items())), repr(self.model), repr(torch_models.plain_attributes(self.model))]
        mixed = {*self._batch_norm.norms.statistic_names, *self._batch_norm.buffers} & set(self.model.state_dict())
        constants = torch_models.constant_tensors(self.model, mixed)
        return fingerprints.digest(words, (self.x, self.y, self.calibrate, *constants), (loss, self.forward))

    def __call__(self, weights: Weights) -> Value:
        """Loss, and accuracy where the labels are classes."""
        with self.walk([weights]) as at:
            return at([1.0])

    @contextmanager
    def walk(self, points: Sequence[Weights]) -> Iterator[Callable[[Sequence[float]], Value]]:
        """coefficients → what is found at Σ cᵢ·pointsᵢ: for many of them, faster than one by one."""
        points = [weights_of(point) for point in points]
        self.check(points)
        session = PointSession(self._path, self._data, self._batch_norm, self._repair, points)
        with session.opened() as at:
            yield at

    @contextmanager
    def policy(self, bn: str, repair: bool = False) -> Iterator[None]:
        """Inside, another policy of batch norms, and of REPAIR.

        :raises UnknownName: no such policy.
        """
        if bn not in (*BATCH_NORM_POLICIES, "straight"):
            raise UnknownName("policy of batch norms", bn, BATCH_NORM_POLICIES)
        original = self.bn, self._repair
        self._batch_norm.policy = bn if bn in BATCH_NORM_POLICIES else self.bn
        self._repair = self._build_repair() if repair else self._repair
        try:
            yield
        finally:
            self._batch_norm.policy, self._repair = original

    def twin(self) -> TorchEvaluator:
        """The same on a copy of the model: for another thread."""
        twin = copy.copy(self)
        twin.model = copy.deepcopy(self.model)
        ParameterVector.retie(self.model, twin.model)
        twin._data = copy.copy(self._data)
        twin._batch_norm = BatchNormPolicy(twin.model, self.bn)
        twin._path = self._path.on_copy(twin.model)
        twin._repair = twin._build_repair() if self._repair is not None else None
        return twin

    def run(self, x: Any) -> Any:
        """What the model makes of some inputs, at the point where a walk stands."""
        return self._path.run(x)

    def outputs(self) -> Floats:
        """What the model gives for all examples, (n, outputs), at the point where a walk stands."""
        import torch

        with torch.no_grad():
            output = run_all(self._path, self._data, self._batch_norm)
        return np.array(output.reshape(-1, output.shape[-1]).double().cpu().numpy())

    def gradient(self, weights: Weights) -> dict[str, Any]:
        """∂L/∂θ of the mean loss over all examples, arrays by name."""
        with self.walk([weights]) as at:
            at([1.0])
            with self._batch_norm.evaluating():
                gradient = loss_gradient.mean_loss_gradient(self._path, self._data, self._batch_norm)
        return {name: np.asarray(torch_models.at_least_float32(g).cpu().numpy()) for name, g in gradient.items()}

    def unflat(self, vector: Any) -> dict[str, Any]:
        """Arrays by name of a vector of all parameters one after the other, as those of the curvature are."""
        parts = vector.split([p.numel() for p in self.parameters.values()])
        pairs = zip(self.parameters.items(), parts, strict=True)
        return {
            name: torch_models.at_least_float32(part.detach()).reshape(p.shape).cpu().numpy()
            for (name, p), part in pairs
        }

    def check(self, points: Sequence[Weights]) -> None:
        """
        :raises UsageError: points of another architecture.
        """
        shapes = {k: tuple(v.shape) for k, v in self.parameters.items()}
        model = {k: np.empty(shape) for k, shape in shapes.items()}
        for number, point in enumerate(points):
            known = {k: v for k, v in point.items() if k in shapes}
            check_same_tensors([model, known], ["the evaluator's model", f"point {number}"])

    def _build_repair(self) -> Repair:
        return Repair(self.model, self.run, self.x[:2])

    def _check_inputs(self) -> None:
        """One pass over a few examples.

        :raises UsageError: labels that do not fit, a model that changes what it is given, or is random.
        """
        output = torch_models.run_twice(self.run, self.x[:2])
        self.loss.values(output, self.y[:2])
