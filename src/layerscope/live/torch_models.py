"""Torch modules of users: unwrapped, copied, compared, and what of them is part of their function."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from layerscope.errors import UsageError
from layerscope.live.user_code import translate_errors

ROUNDING_ULPS = 1000.0  # units in the last place that sums in another order differ by
MAX_RELATIVE_ERROR = 0.05  # of the largest output, where numbers are narrow


def unwrapped(model: Any) -> Any:
    """A module without what training and compilers put around it."""
    for inner in ("_orig_mod", "module"):
        if type(model).__name__ in ("DataParallel", "DistributedDataParallel", "OptimizedModule"):
            model = getattr(model, inner, model)
    return model


def device_of(name: str | None) -> Any:
    """A torch device that works; the CPU where no name is given.

    :raises UsageError: there is no such device here.
    """
    import torch

    try:
        device = torch.device(name or "cpu")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device {name!r}: {str(error).splitlines()[0]}") from None
    return device


def copy_for_evaluation(model: Any, device: Any) -> Any:
    """A copy of a module on a device, in evaluation mode, whose parameters ask for no gradient."""
    with translate_errors("copying the model"):
        copied = copy.deepcopy(unwrapped(model)).to(device).eval()
        for p in copied.parameters():
            p.requires_grad_(False)
    return copied


def parameter_dtypes(model: Any) -> set[str]:
    """The type of a module's parameters, by name; empty where it has none.

    :raises UsageError: they have several types.
    """
    dtypes = {str(p.dtype).removeprefix("torch.") for p in model.parameters()}
    if len(dtypes) > 1:
        raise UsageError(f"parameters of several types, {', '.join(sorted(dtypes))}: model.float() makes them one")
    return dtypes


def norm_classes() -> Any:
    """The class of all batch and instance norms."""
    from torch import nn

    return nn.modules.batchnorm._NormBase


def plain_attributes(model: Any) -> dict[str, Any]:
    """Plain numbers and words that a model's modules hold: they are part of its function too."""
    plain = (bool, int, float, str, tuple)
    return {
        f"{name}.{key}": value
        for name, module in model.named_modules()
        for key, value in vars(module).items()
        if isinstance(value, plain) and key != "training"
    }


def constant_tensors(model: Any, mixed_names: Any) -> list[Any]:
    """Tensors that are part of the function whatever the weights: buffers of other names, and plain attributes."""
    import torch

    tensors = [
        buffer
        for name, buffer in model.named_buffers()
        if name not in mixed_names and not name.endswith("num_batches_tracked")
    ]
    for module in model.modules():
        tensors += [value for value in vars(module).values() if isinstance(value, torch.Tensor)]
    return [tensor.detach() for tensor in tensors]


@contextmanager
def single_threaded() -> Iterator[None]:
    """Inside, torch uses one thread for an operation, where it is loaded: the workers are the parallelism."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    original = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(original)


def equal(a: Any, b: Any) -> bool:
    """Are two tensors equal, NaN being equal to NaN?"""
    import torch

    return a.shape == b.shape and bool(((a == b) | (torch.isnan(a) & torch.isnan(b))).all())


def nearly_equal(a: Any, b: Any) -> bool:
    """Are two outputs equal but for rounding?"""
    if not hasattr(a, "shape") or not hasattr(b, "shape") or a.shape != b.shape:
        return False
    if not a.is_floating_point():
        return equal(a, b)
    import torch

    finite = a.isfinite() & b.isfinite()
    if not equal(a[~finite], b[~finite]):
        return False
    magnitude = a[finite].abs().max() if bool(finite.any()) else a.new_ones(())
    tolerance = min(ROUNDING_ULPS * torch.finfo(a.dtype).eps, MAX_RELATIVE_ERROR) * float(magnitude)
    return not bool(((a - b).abs()[finite] > tolerance).any())


def run_twice(run: Any, x: Any) -> Any:
    """A model's output for a few inputs, which is the same every time.

    :raises UsageError: a model that changes what it is given, or is random.
    """
    inputs = x.clone()
    output = run(inputs)
    if not equal(inputs, x):
        raise UsageError("the model changes its input in place: no two points would see the same data")
    second_output = run(inputs)
    if bool(output.isfinite().all()) and not equal(output, second_output):
        raise UsageError("the model is random in evaluation mode: no two points would see the same function")
    return output


def at_least_float32(tensor: Any) -> Any:
    """A tensor in a type that NumPy knows."""
    return tensor if tensor.element_size() >= 4 else tensor.float()
