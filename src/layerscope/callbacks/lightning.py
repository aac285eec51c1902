"""A callback for Lightning: ``Trainer(callbacks=[LayerscopeCallback(every=100)])``."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback

from layerscope.callbacks.metric_logging import log_metrics
from layerscope.monitor.training_monitor import Monitor


class LayerscopeCallback(Callback):  # type: ignore[misc]
    """Checks the module every n batches.

    Its numbers go to the trainer's loggers and to ``callback_metrics``, where EarlyStopping can use them. The history
    also stores the other scalars in ``callback_metrics``. ``stop_on`` ends the run. With ``best``, the weights of the
    best check are restored at the end.

    :param every: number of batches between checks.
    :param options: options of :class:`~layerscope.Monitor`.
    """

    def __init__(self, *, every: int = 100, **options: Any) -> None:
        self._options = {"every": every, **options}
        self.monitor: Monitor | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.is_global_zero:
            self.monitor = self.monitor.reopen() if self.monitor else Monitor(pl_module, **self._options)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.monitor is None:  # not rank 0
            return
        metrics = {name.replace("/", "_"): float(x) for name, x in trainer.callback_metrics.items() if x.numel() == 1}
        scalars: dict[str, Any] = {name: x for name, x in metrics.items() if not name.startswith("layerscope")}
        check = self.monitor.advance(scalars)
        if check is not None:
            pl_module.log_dict(dict(check.metrics), on_step=True, on_epoch=False, logger=False)
            for logger in trainer.loggers:  # log_dict would repeat the numbers at other steps
                log_metrics(logger.log_metrics, check.metrics, step=trainer.global_step)
        if self.monitor.stopped:
            trainer.should_stop = True

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        if self.monitor is None:
            return
        self.monitor.close()
        if self.monitor.restorable:
            self.monitor.restore()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        if self.monitor is not None:
            self.monitor.close()
