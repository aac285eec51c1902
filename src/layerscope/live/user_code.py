"""Running what a user brought (a model, its data, a loss): what it raises is told in a line, nothing is left behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from layerscope.errors import LayerscopeError, MissingExtra, Unreadable, UsageError

Forward = Callable[[Any, Any], Any]


@contextmanager
def translate_errors(what: str) -> Iterator[None]:
    """Errors of others become one of ours that says what raised them."""
    try:
        yield
    except (LayerscopeError, GeneratorExit):
        raise
    except Exception as error:
        raise Unreadable(f"{what}: {type(error).__name__}: {error}") from error


def require_gradient(values: Any) -> Any:
    """The losses of the examples.

    :raises UsageError: they do not depend on any weight.
    """
    if not values.requires_grad:
        raise UsageError("the loss does not depend on the model's weights: its output is detached, or computed anew")
    return values


def torch_parameters(model: Any) -> dict[str, Any]:
    """All of a model's, by name.

    :raises Unreadable: no torch module.
    :raises UsageError: parameters that have no shape yet.
    :raises MissingExtra: torch is not installed.
    """
    try:
        from torch import nn
    except ImportError:
        raise MissingExtra("a live model", "torch") from None

    if not isinstance(model, nn.Module):
        raise Unreadable(f"{type(model).__name__} is no torch module")
    found = dict(model.named_parameters())
    for name, parameter in found.items():
        if nn.parameter.is_lazy(parameter):
            raise UsageError(f"{name} has no shape yet: run the model once")
    return found


@contextmanager
def preserve_randomness(model: Any) -> Iterator[None]:
    """Random generators are afterwards as they were."""
    import torch

    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices):
        yield


@contextmanager
def restore_model_state(model: Any, parameters: list[Any]) -> Iterator[None]:
    """These ask for gradients inside; buffers, requires_grad and random generators are as before afterwards."""
    import torch

    buffers = [
        (module, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    wanted = [(parameter, parameter.requires_grad) for parameter in parameters]
    with preserve_randomness(model), torch.enable_grad():
        try:
            for parameter, _ in wanted:
                parameter.requires_grad_(True)
            yield
        finally:
            for parameter, had in wanted:
                parameter.requires_grad_(had)
            with torch.no_grad():
                for module, name, buffer, value in buffers:
                    buffer.copy_(value)
                    module._buffers[name] = buffer  # a forward may have put another one there
