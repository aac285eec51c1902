"""Runs user code (a model, its data, a loss): its errors become one line, and the model's state is restored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from layerscope.errors import LayerscopeError, MissingExtra, Unreadable, UsageError
from layerscope.text import printable

MAX_ERROR_CHARS = 1000

Forward = Callable[[Any, Any], Any]


@contextmanager
def translate_errors(what: str) -> Iterator[None]:
    """Re-raise exceptions from user code as Unreadable, naming the call that failed."""
    try:
        yield
    except (LayerscopeError, GeneratorExit):
        raise
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # sys.exit() in user code would end the tool as if it had succeeded
        raise Unreadable(f"{what}: {describe_user_error(error)}") from error


def describe_user_error(error: BaseException) -> str:
    """Return the type of an exception of user code and what it says, in one short line."""
    try:
        words = " ".join(str(error).split())
    except Exception:  # user code may raise an exception that cannot be shown
        words = "(its text cannot be shown)"
    return printable(f"{type(error).__name__}: {words}" if words else type(error).__name__, MAX_ERROR_CHARS)


def require_gradient(values: Any) -> Any:
    """Return the losses unchanged, after checking that they have a gradient.

    :raises UsageError: the losses do not depend on any weight.
    """
    if not values.requires_grad:
        raise UsageError(
            "the loss does not depend on the model's weights; check for detach() or no_grad() in the model and the loss"
        )
    return values


def torch_parameters(model: Any) -> dict[str, Any]:
    """Return all parameters of a model, by name.

    :raises Unreadable: the model is not a torch module.
    :raises UsageError: a lazy parameter has no shape yet.
    :raises MissingExtra: torch is not installed.
    """
    try:
        from torch import nn
    except ImportError:
        raise MissingExtra("a live model", "torch") from None

    if not isinstance(model, nn.Module):
        raise Unreadable(f"the model is a {type(model).__name__}, not a torch.nn.Module")
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        if nn.parameter.is_lazy(parameter):
            raise UsageError(f"{name} has no shape yet; run the model once on a batch to initialize it")
    return parameters


@contextmanager
def preserve_randomness(model: Any) -> Iterator[None]:
    """Restore the state of the random generators on exit."""
    import torch

    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices):
        yield


@contextmanager
def restore_model_state(model: Any, parameters: list[Any]) -> Iterator[None]:
    """Enable gradients of these parameters; on exit restore buffers, requires_grad and random generators."""
    import torch

    buffers = [
        (module, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    requires_grad = [(parameter, parameter.requires_grad) for parameter in parameters]
    with preserve_randomness(model), torch.enable_grad():
        try:
            for parameter, _ in requires_grad:
                parameter.requires_grad_(True)
            yield
        finally:
            for parameter, required in requires_grad:
                parameter.requires_grad_(required)
            with torch.no_grad():
                for module, name, buffer, value in buffers:
                    buffer.copy_(value)
                    module._buffers[name] = buffer  # a forward pass may have replaced the buffer object
