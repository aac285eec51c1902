"""Evaluator for PyTorch models: loss and accuracy at many points in weight space. It works on a copy of the model.

Any function from weights to {metric: value} can serve as an evaluator. This one is for PyTorch classifiers and
regressors. It uses the same examples at every point, no dropout, and a stated policy for batch-norm statistics. Its
parts are the data and loss (``evaluation_data``), batch norms (``batch_norm``), REPAIR (``repair``), the fastest way to
run the model (``fast_path``), and sessions that evaluate many points (``point_session``).
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
from layerscope.sources.model_weights import (
    Weights,
    check_same_tensors,
    named_like,
    weights_of,
)
from layerscope.tensor_names import strip_wrapper_prefixes

if TYPE_CHECKING:
    from layerscope.array_types import Floats


class TorchEvaluator:
    """Evaluates different weights of one PyTorch architecture on fixed data."""

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
        """Copy the model and prepare the data.

        :param model: a module of the architecture; it is copied.
        :param data: (x, y), or an iterable of such batches, which are concatenated.
        :param loss: "cross_entropy", "mse" (½‖f − y‖², summed over outputs), or a function of output and labels that
            returns one value for each example.
        :param bn: policy for batch-norm statistics: "recompute" them from ``calibrate``, use those of each "batch",
            "interpolate" them like weights (negative variances are set to zero and counted), or "keep" those of the
            first model.
        :param calibrate: inputs for "recompute" and REPAIR, preferably training data. The default is the first 512
            evaluation examples.
        :param batch: number of examples per forward pass. By default it is chosen so that activations fit in the CPU
            cache.
        :param device: torch device to run on; see :func:`layerscope.evaluator`.
        :param forward: function (model, x) → output, if calling ``model(x)`` is not enough, e.g.
            ``lambda net, x: net(input_ids=x).logits``.
        :param repair: apply REPAIR (Jordan et al. 2023) to layers without a batch norm: between the models, each unit
            gets the interpolated mean and standard deviation of the end models over ``calibrate``.
        :param examples: number of examples to draw, stratified by class; standard errors show the loss of precision.
        :raises UsageError: if there are no data, or the policy or device is unknown.
        """
        torch_parameters(model)
        import torch

        if bn not in BATCH_NORM_POLICIES:
            raise UnknownName("batch-norm policy", bn, BATCH_NORM_POLICIES)
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
        """Inputs of the evaluation examples."""
        return self._data.x

    @property
    def y(self) -> Any:
        """Labels of the evaluation examples."""
        return self._data.y

    @property
    def calibrate(self) -> Any:
        """Inputs for recomputing batch-norm statistics."""
        return self._data.calibration

    @property
    def loss(self) -> Loss:
        """Loss function, with one value for each example."""
        return self._data.loss

    @property
    def batch(self) -> int:
        """Number of examples per forward pass."""
        return self._data.batch

    @property
    def bn(self) -> str:
        """Policy for batch-norm statistics."""
        return self._batch_norm.policy

    @property
    def forward(self) -> Forward | None:
        """Function (model, x) → output, or None for ``model(x)``."""
        return self._path.forward

    @property
    def parameters(self) -> dict[str, Any]:
        """Parameters by name; tied parameters appear once."""
        return self._path.vector.parameters

    @property
    def names(self) -> dict[str, list[str]]:
        """All names of each parameter in the model; tied parameters have several."""
        return self._path.vector.names

    @property
    def about(self) -> dict[str, Any]:
        """Settings that every result reports: examples, loss, batch-norm policy, calibration and REPAIR."""
        policy = self._batch_norm.stated
        facts: dict[str, Any] = {"examples": len(self.x), "loss": self.loss.kind, "bn": policy}
        if policy == "batch":
            facts["batch"] = self.batch
        if self._repair is not None:
            facts["repair"] = f"{len(self._repair.layers)} layers"
        if policy == "recompute" or self._repair is not None:
            source = " of the evaluation examples" if self._data.calibrates_on_itself else ""
            facts["calibration"] = f"{len(self.calibrate)}{source}"
        return facts

    @property
    def barrier_policies(self) -> tuple[str, ...]:
        """Batch-norm policies under which loss barriers are measured and compared."""
        if not self._batch_norm.norms.tracked:
            return ("straight",)
        return ("recompute", "interpolate") if self.bn == "recompute" else (self.bn,)

    @property
    def labels(self) -> Any:
        """Labels of the examples, as a NumPy array."""
        return self.y.cpu().numpy()

    @property
    def fingerprint(self) -> bytes:
        """Hash of the data, calibration inputs, loss, batch-norm policy, model code and forward function."""
        loss = self.loss.function if self.loss.function is not None else self.loss.kind
        words = [repr(sorted(self.about.items())), repr(self.model), repr(torch_models.plain_attributes(self.model))]
        mixed = {*self._batch_norm.norms.statistic_names, *self._batch_norm.buffers} & set(self.model.state_dict())
        constants = torch_models.constant_tensors(self.model, mixed)
        return fingerprints.digest(words, (self.x, self.y, self.calibrate, *constants), (loss, self.forward))

    def __call__(self, weights: Weights) -> Value:
        """Return the loss, and the accuracy if the labels are classes."""
        with self.walk([weights]) as at:
            return at([1.0])

    @contextmanager
    def walk(self, points: Sequence[Weights]) -> Iterator[Callable[[Sequence[float]], Value]]:
        """Yield a function from coefficients to the value at Σ cᵢ·pointsᵢ; many calls are faster than one by one."""
        state = self.model.state_dict().items()
        own_names = [strip_wrapper_prefixes(name) for name, value in state if value.is_floating_point()]
        points = [named_like(weights_of(point), own_names) for point in points]
        self.check(points)
        session = PointSession(self._path, self._data, self._batch_norm, self._repair, points)
        with session.opened() as at:
            yield at

    @contextmanager
    def policy(self, bn: str, repair: bool = False) -> Iterator[None]:
        """Use another batch-norm policy, and optionally REPAIR, inside the context.

        :raises UnknownName: if there is no such policy.
        """
        if bn not in (*BATCH_NORM_POLICIES, "straight"):
            raise UnknownName("batch-norm policy", bn, BATCH_NORM_POLICIES)
        original = self.bn, self._repair
        self._batch_norm.policy = bn if bn in BATCH_NORM_POLICIES else self.bn
        self._repair = self._build_repair() if repair else self._repair
        try:
            yield
        finally:
            self._batch_norm.policy, self._repair = original

    def twin(self) -> TorchEvaluator:
        """Return an equal evaluator with its own copy of the model, for use in another thread."""
        twin = copy.copy(self)
        twin.model = copy.deepcopy(self.model)
        ParameterVector.retie(self.model, twin.model)
        twin._data = copy.copy(self._data)
        twin._batch_norm = BatchNormPolicy(twin.model, self.bn)
        twin._path = self._path.on_copy(twin.model)
        twin._repair = twin._build_repair() if self._repair is not None else None
        return twin

    def run(self, x: Any) -> Any:
        """Run the model on a batch of inputs at the current point of a walk."""
        return self._path.run(x)

    def outputs(self) -> Floats:
        """Return the outputs (n, outputs) for all examples at the current point of a walk."""
        import torch

        with torch.no_grad():
            output = run_all(self._path, self._data, self._batch_norm)
        return np.array(output.reshape(-1, output.shape[-1]).double().cpu().numpy())

    def gradient(self, weights: Weights) -> dict[str, Any]:
        """Return the gradient ∂L/∂θ of the mean loss over all examples, as arrays by name."""
        with self.walk([weights]) as at:
            at([1.0])
            with self._batch_norm.evaluating():
                gradient = loss_gradient.mean_loss_gradient(self._path, self._data, self._batch_norm)
        return {name: np.asarray(torch_models.at_least_float32(g).cpu().numpy()) for name, g in gradient.items()}

    def unflat(self, vector: Any) -> dict[str, Any]:
        """Split a vector of all parameters, such as a curvature eigenvector, into arrays by name."""
        parts = vector.split([p.numel() for p in self.parameters.values()])
        pairs = zip(self.parameters.items(), parts, strict=True)
        return {
            name: torch_models.at_least_float32(part.detach()).reshape(p.shape).cpu().numpy()
            for (name, p), part in pairs
        }

    def check(self, points: Sequence[Weights]) -> None:
        """Check that points belong to this evaluator's architecture.

        :raises UsageError: if a point has tensors of other shapes.
        """
        shapes = {k: tuple(v.shape) for k, v in self.parameters.items()}
        model = {k: np.empty(shape) for k, shape in shapes.items()}
        for number, point in enumerate(points):
            known = {k: v for k, v in point.items() if k in shapes}
            check_same_tensors([model, known], ["the evaluator's model", f"point {number}"])

    def _build_repair(self) -> Repair:
        return Repair(self.model, self.run, self.x[:2])

    def _check_inputs(self) -> None:
        """Run the model on a few examples to check that it can be evaluated.

        :raises UsageError: if the labels do not fit, or if the model changes its inputs in place or is random.
        """
        output = torch_models.run_twice(self.run, self.x[:2])
        self.loss.values(output, self.y[:2])
