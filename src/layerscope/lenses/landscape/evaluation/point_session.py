"""Session that evaluates many mixtures Σ cᵢ·pointsᵢ of the same points, which is faster than one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np

from layerscope.lenses.landscape.evaluation.batch_norm import BatchNormPolicy
from layerscope.lenses.landscape.evaluation.cached_first_layers import CachedMixture, cached_outputs, mix_into
from layerscope.lenses.landscape.evaluation.evaluation_data import EvaluationData
from layerscope.lenses.landscape.evaluation.fast_path import FastPath
from layerscope.lenses.landscape.evaluation.repair import Repair
from layerscope.lenses.landscape.evaluation.value import Value
from layerscope.sources.model_weights import Weights


class PointSession:
    """Evaluates a model at mixtures of given points while it is :meth:`opened`."""

    def __init__(
        self, path: FastPath, data: EvaluationData, batch_norm: BatchNormPolicy, repair: Repair | None,
        points: Sequence[Weights],
    ) -> None:  # fmt: skip
        import torch

        self._path, self._data, self._batch_norm, self._repair = path, data, batch_norm, repair
        self._vectors = [path.vector.flatten(point) for point in points]
        self._current = self._vectors[0].clone()  # parameters of the current point
        self._statistics = [
            {k: torch.from_numpy(np.array(point[k])).to(data.device) for k in batch_norm.buffers if k in point}
            for point in points
        ]
        self._mixture: CachedMixture | None = None

    @contextmanager
    def opened(self) -> Iterator[Callable[[Sequence[float]], Value]]:
        """Yield a function from coefficients to values; then restore the model and resume an enclosing session."""
        import torch

        outer, self._path.mixture = self._path.mixture, None
        restoring, repaired = self._batch_norm.restoring(), self._repaired()
        with torch.no_grad(), self._path.vector.attached(self._current), restoring, repaired, self._cached() as mixture:
            self._mixture = self._path.mixture = mixture
            mixture.active = mixture.active and self._agrees_with_plain(mixture)
            try:
                yield self.evaluate
            finally:
                self._path.mixture = outer

    def evaluate(self, coefficients: Sequence[float]) -> Value:
        """Return the value at Σ cᵢ·pointsᵢ."""
        mixture = self._mixture
        assert mixture is not None
        self._path.mixture = mixture
        self._path.vector.reattach()
        end = self._path.vector.early if mixture.active else len(self._current)
        mix_into(self._current[:end], [vector[:end] for vector in self._vectors], coefficients)
        mixture.set(coefficients)
        clamped = self._batch_norm.mix(self._statistics, coefficients)
        self._calibrate(coefficients)
        return self._data.value_of(run_all(self._path, self._data, self._batch_norm), clamped)

    def _cached(self) -> Any:
        """Context in which the outputs of the first layers are computed once for each point and cached."""
        inputs = [(self._data.x, self._data.batch)]
        if self._repair is not None or self._batch_norm.recomputes:
            inputs.append((self._data.calibration, len(self._data.calibration)))
        early = self._path.vector.early
        late = [vector[early:] for vector in self._vectors]
        return cached_outputs(
            self._path.cached_layers, self._path.run, inputs, lambda k: self._current.copy_(self._vectors[k]),
            len(self._vectors), lambda now: mix_into(self._current[early:], late, now),
        )  # fmt: skip

    def _agrees_with_plain(self, mixture: CachedMixture) -> bool:
        """Whether cached outputs give the same result as the layers themselves, at one point between the others."""
        count = len(self._vectors)
        between = [2 * (k + 1) / (count * (count + 1)) for k in range(count)]
        mix_into(self._current, self._vectors, between)
        self._batch_norm.mix(self._statistics, between)
        mixture.set(between)
        return mixture.agrees(lambda: self._path.run(self._data.first_batch))

    def _calibrate(self, coefficients: Sequence[float]) -> None:
        """Run all calibration inputs in one batch to recompute batch-norm statistics and fit REPAIR."""
        if self._repair is None and not self._batch_norm.recomputes:
            return
        recomputing = self._batch_norm.recomputing() if self._batch_norm.recomputes else nullcontext()
        fitting = self._repair.fitting(coefficients) if self._repair is not None else nullcontext()
        with recomputing, fitting:
            self._path.run(self._data.calibration)

    @contextmanager
    def _repaired(self) -> Iterator[None]:
        """Apply REPAIR inside the context, with target statistics measured at the given points."""
        if self._repair is None:
            yield
            return
        with self._repair.hooked():
            for k, vector in enumerate(self._vectors):
                self._current.copy_(vector)
                self._batch_norm.mix(self._statistics, [float(k == i) for i in range(len(self._vectors))])
                with self._batch_norm.recomputing():
                    self._repair.measure(self._path.run, self._data.calibration)
            yield


def run_all(path: FastPath, data: EvaluationData, batch_norm: BatchNormPolicy) -> Any:
    """Return the model's outputs for all examples."""
    import torch

    with batch_norm.evaluating():
        if len(data.x) <= data.batch:
            return path.run(data.x)
        return torch.cat([path.run(x).clone() for x in data.x.split(data.batch)])  # layers reuse their output
