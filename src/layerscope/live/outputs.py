"""Run a model and pick the tensor of its output that the loss takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from layerscope.errors import UsageError
from layerscope.live.user_code import Forward

PREDICTIONS = ("logits", "out", "prediction", "predictions", "output")  # names of the output in dicts and ModelOutputs
MAX_LISTED_KEYS = 6


def run_model(model: Any, x: Any, forward: Forward | None) -> Any:
    """Return the tensor that the model, or ``forward(model, x)``, gives for the inputs x.

    :raises UsageError: the output has several tensors and none with a known name.
    """
    return output_tensor(model(x) if forward is None else forward(model, x))


def output_tensor(output: Any) -> Any:
    """Return the predictions in an output: a tensor, the only tensor of a tuple, or the logits of a dict.

    :raises UsageError: it is not clear which tensor they are.
    """
    import torch

    if isinstance(output, torch.Tensor):
        return output
    fields: Mapping[Any, Any] = {}
    if isinstance(output, Mapping):
        fields = output
    elif isinstance(output, tuple | list):
        fields = dict(enumerate(output))
    elif hasattr(output, "__dict__"):
        fields = vars(output)
    tensors = {key: value for key, value in fields.items() if isinstance(value, torch.Tensor)}
    known = [tensors[name] for name in PREDICTIONS if name in tensors]
    if known:
        return known[0]
    if len(tensors) == 1:
        return next(iter(tensors.values()))
    keys = ", ".join(str(key)[:40] for key in list(fields)[:MAX_LISTED_KEYS])
    found = f" with {keys}" if keys else ""
    raise UsageError(
        f"the model returns a {type(output).__name__}{found}, not a tensor; give forward= a function that picks the "
        "predictions, e.g. lambda net, x: net(x)['scores']"
    )
