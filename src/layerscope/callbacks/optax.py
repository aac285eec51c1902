"""JAX: a loop over parameters that are values, as Optax and Flax have it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from layerscope.monitor.checks import Check
from layerscope.monitor.training_monitor import Monitor


def watched(
    update: Callable[..., Any], monitor: Monitor, then: Callable[[Check], Any] | None = None
) -> Callable[..., Any]:
    """A train step, ``(params, …) → (params, …)``, that the monitor sees the new parameters of.

    The function may be jitted: it is wrapped from outside. A number beside the parameters that the step returns first
    is kept as the loss.

    :param then: called with each check: to log its metrics, say.
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
