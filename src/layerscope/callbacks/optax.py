"""A wrapper for JAX training steps that return new parameters, as in Optax and Flax."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from layerscope.monitor.checks import Check
from layerscope.monitor.training_monitor import Monitor


def watched(
    update: Callable[..., Any], monitor: Monitor, then: Callable[[Check], Any] | None = None
) -> Callable[..., Any]:
    """Wrap a training step ``(params, …) → (params, …)``, so that the monitor receives the new parameters.

    The step may be jitted. The first number that it returns besides the parameters is stored as the loss.

    :param update: the training step.
    :param monitor: monitor that receives the parameters.
    :param then: function called with each check, for example to log its metrics.
    """

    def step_and_check(*args: Any, **kwargs: Any) -> Any:
        result = update(*args, **kwargs)
        auxiliary = result[1:] if isinstance(result, tuple) else ()
        params = result[0] if isinstance(result, tuple) else result
        numbers = [float(x) for x in auxiliary if getattr(x, "shape", None) == ()]
        loss: dict[str, Any] = {"loss": numbers[0]} if numbers else {}
        check = monitor.step(model=params, **loss)
        if check is not None and then is not None:
            then(check)
        return result

    return step_and_check
