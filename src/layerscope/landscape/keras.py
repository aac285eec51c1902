"""Loss and accuracy of a Keras model at points of parameter space, for lines and planes. The model is copied."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from layerscope.errors import UnknownName, UsageError
from layerscope.landscape.evaluate import Value
from layerscope.landscape.weights import Weights, check_alike, weights_of
from layerscope.sources._strangers import told

BN = ("recompute", "keep")


class KerasEvaluator:
    """Evaluates weights of one Keras architecture, as :func:`layerscope.line` and :func:`layerscope.plane` ask for."""

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
        """
        :param data: (x, y), arrays.
        :param loss: "cross_entropy" of whole labels, "mse" (½‖f − y‖²), or a function of outputs and labels, arrays,
            with a value for each example.
        :param logits: does the model give logits? Otherwise it gives probabilities.
        :param bn: "recompute" the moving statistics from ``calibrate`` at each point, or "keep" those of the weights.
        :raises UsageError: no data, an unknown policy or loss.
        """
        if bn not in BN:
            raise UnknownName("policy of batch norms", bn, BN)
        if not callable(loss) and loss not in ("cross_entropy", "mse"):
            raise UnknownName("loss", str(loss), ("cross_entropy", "mse"))
        if not (isinstance(data, tuple) and len(data) == 2 and len(data[0]) == len(data[1]) > 0):
            raise UsageError("the data are (x, y), as many of the one as of the other")
        import keras

        with told("copying the model"):
            self.model = keras.models.clone_model(model)
            for variable, original in zip(self.model.weights, model.weights, strict=True):
                variable.assign(keras.ops.convert_to_numpy(original))
        self.x, self.y = (np.asarray(part) for part in data)
        self.loss, self.logits, self.bn, self.batch = loss, logits, bn, batch
        layers = self.model._flatten_layers() if hasattr(self.model, "_flatten_layers") else self.model.layers
        self._norms = [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]
        self.calibrate = np.asarray(self.x[:512] if calibrate is None else calibrate)
        self._own = calibrate is None

    @property
    def about(self) -> dict[str, Any]:
        """What every result states."""
        found: dict[str, Any] = {
            "examples": len(self.x),
            "loss": self.loss if isinstance(self.loss, str) else "function",
        }
        found["bn"] = self.bn if self._norms else "none"
        if found["bn"] == "recompute":
            found["calibration"] = f"{len(self.calibrate)}{' of the data themselves' * self._own}"
        return found

    def __call__(self, weights: Weights) -> Value:
        """Loss, and accuracy where the labels are classes."""
        import keras

        weights = weights_of(weights)
        own = weights_of(self.model)
        check_alike(
            [own, {name: weights[name] for name in own if name in weights}], ["the evaluator's model", "the weights"]
        )
        with told("the model"):
            for place, variable in enumerate(self.model.weights):
                if f"{place}.{variable.name}" in own:
                    variable.assign(weights[f"{place}.{variable.name}"])
            if self._norms and self.bn == "recompute":
                self._recompute()
            parts = [self.model(self.x[i : i + self.batch], training=False) for i in range(0, len(self.x), self.batch)]
            output = np.concatenate([keras.ops.convert_to_numpy(part) for part in parts]).astype(np.float64)
        samples = self._losses(output)
        finite = bool(np.isfinite(samples).all())
        metrics = {"loss": float(samples.mean()) if finite else math.nan}
        if self.loss != "mse" and self.y.dtype.kind in "iu" and output.ndim == self.y.ndim + 1:
            metrics["accuracy"] = float((output.argmax(-1) == self.y).mean()) if finite else math.nan
        return Value(metrics, samples if finite else np.empty(0))

    def _recompute(self) -> None:
        """One pass over the calibration inputs, all at once."""
        before = [(layer, layer.momentum) for layer in self._norms]
        try:
            for layer in self._norms:
                layer.momentum = 0.0
            self.model(self.calibrate, training=True)
        finally:
            for layer, momentum in before:
                layer.momentum = momentum

    def _losses(self, output: Any) -> Any:
        if callable(self.loss):
            return np.asarray(self.loss(output, self.y), np.float64).reshape(-1)
        if self.loss == "mse":
            return 0.5 * np.square(output - self.y.reshape(output.shape)).reshape(len(output), -1).sum(1)
        rows, labels = output.reshape(-1, output.shape[-1]), self.y.reshape(-1)
        if labels.min() < 0 or labels.max() >= rows.shape[1]:
            raise UsageError(f"labels from {labels.min()} to {labels.max()}, and the model has {rows.shape[1]} outputs")
        at = rows[np.arange(len(rows)), labels]
        if self.logits:
            top = rows.max(1)
            return top + np.log(np.exp(rows - top[:, None]).sum(1)) - at
        return -np.log(np.maximum(at / rows.sum(1), np.finfo(np.float64).tiny))
