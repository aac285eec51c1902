"""A callback for Lightning: ``Trainer(callbacks=[LayerscopeCallback(every=100)])``."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback

from layerscope.callbacks.metric_logging import log_metrics
from layerscope.monitor.training_monitor import Monitor


class LayerscopeCallback(Callback):  # type: ignore[misc]
    """Checks the module every so many batches; numbers go to the trainer's loggers, and to its
    ``callback_metrics``, where EarlyStopping finds them.

    Scalars of the trainer's ``callback_metrics`` stand beside them in the history. ``stop_on`` ends the run; with
    ``best`` the weights of the best check are put back then.

    :param options: what :class:`~layerscope.Monitor` takes.
    """

    def __init__(self, *, every: int = 100, **options: Any) -> None:
        self._options = {"every": every, **options}
        self.monitor: Monitor | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.is_global_zero:
            self.monitor = self.monitor.reopen() if self.monitor else Monitor(pl_module, **self._options)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.monitor is None:  # of another rank
            return
        metrics = {name.replace("/", "_"): float(x) for name, x in trainer.callback_metrics.items() if x.numel() == 1}
        scalars: dict[str, Any] = {name: x for name, x in metrics.items() if not name.startswith("layerscope")}
        check = self.monitor.advance(scalars)
        if check is not None:
            pl_module.log_dict(dict(check.metrics), on_step=True, on_epoch=False, logger=False)
            for logger in trainer.loggers:  # here and at no other step, as log_dict would
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
