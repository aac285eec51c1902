"""Plain PyTorch: ``ride(optimizer, monitor)`` and the loop stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from layerscope.monitor.checks import Check
from layerscope.monitor.training_monitor import Monitor


def ride(optimizer: Any, monitor: Monitor, then: Callable[[Check], Any] | None = None) -> Any:
    """Take a step of the monitor after each step of an optimizer.

    :param then: called with each check: to log its metrics, say.
    :return: a handle; ``remove()`` ends it.
    """

    def after(*_: Any) -> None:
        check = monitor.step()
        if check is not None and then is not None:
            then(check)

    return optimizer.register_step_post_hook(after)
