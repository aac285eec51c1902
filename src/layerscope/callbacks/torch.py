"""A callback for plain PyTorch: ``ride(optimizer, monitor)``, without changes to the training loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from layerscope.monitor.checks import Check
from layerscope.monitor.training_monitor import Monitor


def ride(optimizer: Any, monitor: Monitor, then: Callable[[Check], Any] | None = None) -> Any:
    """Call ``monitor.step()`` after each step of an optimizer.

    :param optimizer: torch optimizer of the training loop.
    :param monitor: monitor of the model.
    :param then: function called with each check, for example to log its metrics.
    :return: a handle with a method ``remove()`` that detaches the monitor.
    """

    def after(*_: Any) -> None:
        check = monitor.step()
        if check is not None and then is not None:
            then(check)

    return optimizer.register_step_post_hook(after)
