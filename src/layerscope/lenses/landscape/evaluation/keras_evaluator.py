"""Evaluator for Keras models: loss and accuracy at points in weight space. It works on a copy of the model."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from layerscope.choices import BATCH_NORM_POLICIES
from layerscope.errors import UnknownName, UsageError
from layerscope.lenses.landscape.evaluation.value import Value
from layerscope.live.fingerprints import identify_function
from layerscope.live.user_code import translate_errors
from layerscope.sources.model_weights import Weights, check_same_tensors, combine, weights_of

MOVING_STATISTICS = ("moving_mean", "moving_variance")
NOISE_SETTINGS = ("rate", "stddev", "dropout", "recurrent_dropout")  # attributes of layers that add noise


class KerasEvaluator:
    """Evaluates different weights of one Keras architecture on fixed data."""

    def __init__(
        self,
        model: Any,
        data: Any,
        loss: str | Callable[[Any, Any], Any] = "cross_entropy",
        *,
        logits: bool = False,
        bn: str = "recompute",
        calibrate: Any = None,
        batch: int = 256,
    ) -> None:
        """Copy the model and prepare the data.

        :param model: a Keras model of the architecture; it is copied.
        :param data: (x, y) as arrays.
        :param loss: "cross_entropy" for integer labels, "mse" (½‖f − y‖²), or a function of outputs and labels (arrays)
            that returns one value for each example.
        :param logits: whether the model outputs logits; otherwise it outputs probabilities.
        :param bn: policy for batch-norm statistics, as for :class:`~layerscope.TorchEvaluator`.
        :param calibrate: training inputs for "recompute"; by default the first 512 evaluation examples.
        :param batch: number of examples per forward pass.
        :raises UsageError: if there are no data, or the policy or loss is unknown.
        """
        if bn not in BATCH_NORM_POLICIES:
            raise UnknownName("batch-norm policy", bn, BATCH_NORM_POLICIES)
        if not callable(loss) and loss not in ("cross_entropy", "mse"):
            raise UnknownName("loss", str(loss), ("cross_entropy", "mse"))
        if not (isinstance(data, tuple) and len(data) == 2 and len(data[0]) == len(data[1]) > 0):
            raise UsageError("data must be a tuple (x, y) of two arrays with the same number of examples, at least one")
        import keras

        with translate_errors("copying the model"):
            self.model = keras.models.clone_model(model)
            for variable, original in zip(self.model.weights, model.weights, strict=True):
                variable.assign(keras.ops.convert_to_numpy(original))
        self.x, self.y = (np.asarray(part) for part in data)
        self.loss, self.logits, self.bn, self.batch = loss, logits, bn, batch
        layers = list(self.model._flatten_layers() if hasattr(self.model, "_flatten_layers") else self.model.layers)
        self._norms = [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]
        for layer in layers:  # disable noise, also for passes in training mode
            for setting in NOISE_SETTINGS:
                if isinstance(getattr(layer, setting, None), float | int):
                    setattr(layer, setting, 0.0)
        self.calibrate = np.asarray(self.x[:512] if calibrate is None else calibrate)
        self._calibrates_on_itself = calibrate is None
        self._output = np.zeros((0, 0))

    @property
    def about(self) -> dict[str, Any]:
        """Settings that every result reports: examples, loss, batch-norm policy and calibration."""
        policy = self.bn if self._norms else "none"
        facts: dict[str, Any] = {
            "examples": len(self.x),
            "loss": self.loss if isinstance(self.loss, str) else "function",
            "bn": policy,
        }
        if policy == "recompute":
            source = " of the evaluation examples" if self._calibrates_on_itself else ""
            facts["calibration"] = f"{len(self.calibrate)}{source}"
        return facts

    @property
    def barrier_policies(self) -> tuple[str, ...]:
        """Batch-norm policies under which loss barriers are measured and compared."""
        if not self._norms:
            return ("straight",)
        return ("recompute", "interpolate") if self.bn == "recompute" else (self.bn,)

    @property
    def labels(self) -> Any:
        """Labels of the examples, as an array."""
        return self.y

    @property
    def fingerprint(self) -> bytes:
        """Hash of the data, calibration inputs, loss, batch-norm policy and architecture."""
        digest = hashlib.sha256(repr(sorted(self.about.items())).encode())
        for part in (self.x, self.y, self.calibrate):
            digest.update(np.ascontiguousarray(part).tobytes())
        digest.update(self.loss.encode() if isinstance(self.loss, str) else identify_function(self.loss))
        digest.update(self.model.to_json().encode())
        return digest.digest()

    def __call__(self, weights: Weights) -> Value:
        """Return the loss, and the accuracy if the labels are classes."""
        with self.walk([weights]) as value_at:
            return value_at([1.0])

    @contextmanager
    def walk(self, points: Sequence[Weights]) -> Iterator[Callable[[Sequence[float]], Value]]:
        """Yield a function that maps coefficients to the value at Σ cᵢ·pointsᵢ."""
        corners, model_weights = [weights_of(point) for point in points], weights_of(self.model)
        for number, point in enumerate(corners):
            known = {name: point[name] for name in model_weights if name in point}
            check_same_tensors([model_weights, known], ["the evaluator's model", f"point {number}"])
        yield lambda coefficients: self._evaluate(corners, coefficients)

    @contextmanager
    def policy(self, bn: str) -> Iterator[None]:
        """Use another batch-norm policy inside the context.

        :raises UnknownName: if there is no such policy.
        """
        if bn not in (*BATCH_NORM_POLICIES, "straight"):
            raise UnknownName("batch-norm policy", bn, BATCH_NORM_POLICIES)
        original, self.bn = self.bn, bn if bn in BATCH_NORM_POLICIES else self.bn
        try:
            yield
        finally:
            self.bn = original

    def outputs(self) -> Any:
        """Return the logits, or the log-probabilities, of all examples at the last evaluated point."""
        rows = self._output.reshape(-1, self._output.shape[-1])
        return rows if self.logits else np.log(np.maximum(rows, np.finfo(np.float64).tiny))

    def _evaluate(self, corners: Sequence[Weights], coefficients: Sequence[float]) -> Value:
        import keras

        weights: dict[str, Any] = dict(combine(corners, coefficients))
        clamped = self._apply_policy(weights, corners[0])
        training = bool(self._norms) and self.bn == "batch"
        with translate_errors("the model"), self._norm_momentum(1.0 if training else None):
            for position, variable in enumerate(self.model.weights):
                if f"{position}.{variable.name}" in weights:
                    variable.assign(weights[f"{position}.{variable.name}"])
            if self._norms and self.bn == "recompute":
                with self._norm_momentum(0.0):
                    self.model(self.calibrate, training=True)
            parts = [
                self.model(self.x[i : i + self.batch], training=training) for i in range(0, len(self.x), self.batch)
            ]
            self._output = np.concatenate([keras.ops.convert_to_numpy(part) for part in parts]).astype(np.float64)
        return self._value_of(self._output, clamped)

    def _apply_policy(self, weights: dict[str, Any], first: Mapping[str, Any]) -> int:
        """Set the moving statistics by the policy, and return the number of clamped variances."""
        clamped = 0
        for name in [name for name in weights if name.endswith(MOVING_STATISTICS)]:
            if self.bn == "keep":
                weights[name] = first[name]
            elif name.endswith("variance"):
                clamped += int((weights[name] < 0).sum()) if self.bn == "interpolate" else 0
                weights[name] = np.maximum(weights[name], 0.0)
        return clamped

    @contextmanager
    def _norm_momentum(self, value: float | None) -> Iterator[None]:
        """Set the momentum of batch norms: 0 stores the statistics of a training pass, 1 keeps the stored ones."""
        originals = [(layer, layer.momentum) for layer in self._norms]
        try:
            for layer in self._norms if value is not None else ():
                layer.momentum = value
            yield
        finally:
            for layer, momentum in originals:
                layer.momentum = momentum

    def _value_of(self, output: Any, clamped: int) -> Value:
        samples = self._losses(output)
        is_finite = bool(np.isfinite(samples).all())
        metrics = {"loss": float(samples.mean()) if is_finite else math.nan}
        if self.loss != "mse" and self.y.dtype.kind in "iu" and output.ndim == self.y.ndim + 1:
            metrics["accuracy"] = float((output.argmax(-1) == self.y).mean()) if is_finite else math.nan
        return Value(metrics, samples if is_finite else np.empty(0), clamped)

    def _losses(self, output: Any) -> Any:
        if callable(self.loss):
            return np.asarray(self.loss(output, self.y), np.float64).reshape(-1)
        if self.loss == "mse":
            return 0.5 * np.square(output - self.y.reshape(output.shape)).reshape(len(output), -1).sum(1)
        rows, labels = output.reshape(-1, output.shape[-1]), self.y.reshape(-1)
        if labels.min() < 0 or labels.max() >= rows.shape[1]:
            found = f"labels range from {labels.min()} to {labels.max()}"
            raise UsageError(
                f"{found}: a model with {rows.shape[1]} outputs needs labels from 0 to {rows.shape[1] - 1}"
            )
        of_labels = rows[np.arange(len(rows)), labels]
        if self.logits:
            largest = rows.max(1)
            return largest + np.log(np.exp(rows - largest[:, None]).sum(1)) - of_labels
        return -np.log(np.maximum(of_labels / rows.sum(1), np.finfo(np.float64).tiny))
