"""Find the fastest way to run a model that gives the same results as a plain forward pass.

Three techniques speed up a network without changing its results: the channels-last memory format, ReLUs moved after
2 × 2 pools (:mod:`fast_pooling`), and cached first layers for a whole line or plane (:mod:`cached_first_layers`). Each
is compared with the plain forward pass on one batch and dropped if the results differ.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from layerscope.errors import LayerscopeError
from layerscope.lenses.landscape.evaluation.cached_first_layers import CachedMixture, layers_fed_by_data
from layerscope.lenses.landscape.evaluation.evaluation_data import EvaluationData
from layerscope.lenses.landscape.evaluation.fast_pooling import FastPooling
from layerscope.lenses.landscape.evaluation.parameter_vector import ParameterVector
from layerscope.live import torch_models
from layerscope.live.call_trace import CallTrace
from layerscope.live.outputs import run_model
from layerscope.live.user_code import Forward, translate_errors


class FastPath:
    """Runs a model on its fastest path, with all parameters as views of one vector."""

    def __init__(self, model: Any, forward: Forward | None) -> None:
        self.model, self.forward = model, forward
        self.vector = ParameterVector(model, channels_last=False)
        self.mixture: CachedMixture | None = None  # set by the active session
        self._pooling = FastPooling()
        self._cached_names: list[str] = []  # names of the first layers with cached outputs

    def run(self, x: Any) -> Any:
        """Run the model on a batch of inputs with its current weights."""
        if self.mixture is not None:
            self.mixture.before_run(x)
        with translate_errors("the model"), self._pooling.applied():
            return run_model(self.model, x, self.forward)

    def choose(self, trace: CallTrace, data: EvaluationData) -> None:
        """Choose the fastest path that gives the same output on the first batch as a plain forward pass."""
        self._choose_layout(trace, data)
        layers = layers_fed_by_data(self.model, self.run, data.x)
        layers = [layer for layer in layers if self.vector.shares_nothing(layer)]
        self._cached_names = [name for name, module in self.model.named_modules() if module in layers]
        self._put_cached_last()

    def _choose_layout(self, trace: CallTrace, data: EvaluationData) -> None:
        if data.x.dim() != 4 or not data.x.is_floating_point():
            return
        plain = self.run(data.first_batch).clone()
        self._set_channels_last(True, data)
        for pooling in dict.fromkeys((FastPooling.from_trace(self.model, trace), FastPooling())):
            self._pooling = pooling
            with self.vector.attached(), suppress(LayerscopeError):
                if torch_models.nearly_equal(plain, self.run(data.first_batch)):
                    return
        self._set_channels_last(False, data)

    def _set_channels_last(self, channels_last: bool, data: EvaluationData) -> None:
        self.vector = ParameterVector(self.model, channels_last)
        data.set_memory_format(channels_last)

    @property
    def cached_layers(self) -> list[Any]:
        """First layers with cached outputs: linear in their weights and applied directly to the data."""
        modules = dict(self.model.named_modules())
        return [modules[name] for name in self._cached_names]

    def _put_cached_last(self) -> None:
        self.vector.place_last([p for layer in self.cached_layers for p in layer.parameters()])

    def on_copy(self, model: Any) -> FastPath:
        """Return the same path for a copy of the model."""
        twin = FastPath(model, self.forward)
        twin.vector = ParameterVector(model, self.vector.channels_last)
        twin._pooling, twin._cached_names = self._pooling, self._cached_names
        twin._put_cached_last()
        return twin
