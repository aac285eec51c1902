"""A callback for Keras 3: ``model.fit(..., callbacks=[LayerscopeCallback(path="run.layerscope")])``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from layerscope.monitor.checks import Check
from layerscope.monitor.training_monitor import Monitor


class LayerscopeCallback(keras.callbacks.Callback):  # type: ignore[misc]
    """Checks the model every n epochs or batches.

    It adds its numbers to the logs of the epoch, where callbacks that come later in the list (History, CSVLogger,
    TensorBoard, trackers) find them. ``stop_on`` ends the fit. With ``best``, the weights of the best check are
    restored at the end.

    :param every: number of epochs between checks, or of batches if ``batches`` is True.
    :param batches: check after batches instead of epochs.
    :param options: options of :class:`~layerscope.Monitor`.
    """

    def __init__(self, *, every: int = 1, batches: bool = False, **options: Any) -> None:
        super().__init__()
        self._options = {"every": every, **options}
        self._batches = batches
        self.monitor: Monitor | None = None
        self._last: Check | None = None

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        self.monitor = self.monitor.reopen() if self.monitor else Monitor(self.model, **self._options)

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        if self._batches:
            self._advance(None, logs or {})

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        logs = {} if logs is None else logs
        if not self._batches:
            self._advance(epoch, logs)
        if self._last is not None:
            logs.update(self._last.metrics)

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        if self.monitor is None:
            return
        self.monitor.close()
        if self.monitor.restorable:
            self.monitor.restore()

    def _advance(self, number: int | None, logs: Mapping[str, Any]) -> None:
        assert self.monitor is not None
        scalars = {name: float(value) for name, value in logs.items() if not name.startswith("layerscope/")}
        number = number if number is not None and number > self.monitor.now else None  # fit() again: count on
        self._last = self.monitor.advance(scalars, number) or self._last
        if self.monitor.stopped:
            self.model.stop_training = True
