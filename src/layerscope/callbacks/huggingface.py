"""A callback for Hugging Face: ``LayerscopeCallback(every=500).attach(trainer)``, then ``trainer.train()``."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback

from layerscope.callbacks.metric_logging import log_metrics
from layerscope.monitor.training_monitor import Monitor


class LayerscopeCallback(TrainerCallback):  # type: ignore[misc]
    """Checks the model every n optimizer steps.

    Added with :meth:`attach`, it logs its numbers with ``trainer.log``, to the trackers in ``report_to``. Added as
    ``callbacks=[…]``, it logs nothing, but still writes its history and can stop the run. ``stop_on`` ends the run.
    With ``best``, the weights of the best check are restored at the end.

    :param every: number of optimizer steps between checks.
    :param options: options of :class:`~layerscope.Monitor`.
    """

    def __init__(self, *, every: int = 500, **options: Any) -> None:
        self._options = {"every": every, **options}
        self.monitor: Monitor | None = None
        self._trainer: Any = None
        self._loss: dict[str, float] = {}

    def attach(self, trainer: Any) -> LayerscopeCallback:
        """Add the callback to a trainer and log to it."""
        self._trainer = trainer
        trainer.add_callback(self)
        return self

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self.monitor = self.monitor.reopen() if self.monitor else Monitor(kwargs["model"], **self._options)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self._loss |= {name: logs[name] for name in ("loss", "eval_loss") if logs and name in logs}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.monitor is None or state.global_step <= self.monitor.now:  # not rank 0, or an earlier step
            return
        check = self.monitor.advance(self._loss, state.global_step)
        if check is not None and self._trainer is not None:
            control_state = dict(vars(control))  # trainer.log resets these flags; restore them
            log_metrics(self._trainer.log, check.metrics)
            vars(control).update(control_state)
        if self.monitor.stopped:
            control.should_training_stop = True

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.monitor is None:
            return
        self.monitor.close()
        if self.monitor.restorable:
            self.monitor.restore()
