"""Unwraps, copies and compares torch modules, and collects everything that their outputs depend on."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from layerscope.errors import UsageError
from layerscope.live.user_code import translate_errors

ROUNDING_ULPS = 1000.0  # rounding error, in units in the last place, that another order of summation may cause
MAX_RELATIVE_ERROR = 0.05  # relative to the largest output; caps the tolerance for half precision


def unwrapped(model: Any) -> Any:
    """Return a module without the wrappers of DataParallel, DistributedDataParallel and torch.compile."""
    for inner in ("_orig_mod", "module"):
        if type(model).__name__ in ("DataParallel", "DistributedDataParallel", "OptimizedModule"):
            model = getattr(model, inner, model)
    return model


def device_of(name: str | None) -> Any:
    """Return a torch device that works; the CPU if no name is given.

    :raises UsageError: this machine has no such device.
    """
    import torch

    try:
        device = torch.device(name or "cpu")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            f"device {name!r} cannot be used: {str(error).splitlines()[0]}; use cpu or a device of this machine"
        ) from None
    return device


def copy_for_evaluation(model: Any, device: Any) -> Any:
    """Copy a module to a device, in evaluation mode, with gradients of its parameters switched off."""
    with translate_errors("copying the model"), _computed_tensors_detached(model):
        copied = _without_compiled_parts(copy.deepcopy(unwrapped(model))).to(device).eval()
        for p in copied.parameters():
            p.requires_grad_(False)
    return copied


@contextmanager
def _computed_tensors_detached(model: Any) -> Iterator[None]:
    """Replace tensors that a forward pass computed and stored in a module, which cannot be copied with their graph.

    The old weight_norm, spectral_norm and pruning of torch.nn.utils keep the weight so.
    """
    import torch

    computed = [
        (module, name, value)
        for module in model.modules()
        for name, value in vars(module).items()
        if isinstance(value, torch.Tensor) and not value.is_leaf
    ]
    for module, name, value in computed:
        vars(module)[name] = value.detach()
    try:
        yield
    finally:
        for module, name, value in computed:
            vars(module)[name] = value


def _without_compiled_parts(model: Any) -> Any:
    """Run all modules of a copy uncompiled: thousands of weights and modes would each be compiled anew."""
    for module in list(model.modules()):
        if getattr(module, "_compiled_call_impl", None) is not None:
            module._compiled_call_impl = None
        for name, child in list(module._modules.items()):
            module._modules[name] = unwrapped(child)
    return model


@contextmanager
def uncompiled() -> Iterator[None]:
    """Run compiled models as they were written: hooks and modes that change would make new graphs of them."""
    import torch

    with torch.compiler.set_stance("force_eager"):
        yield


def parameter_dtypes(model: Any) -> set[str]:
    """Return the name of the dtype of a module's parameters, as a set; empty if it has no parameters.

    :raises UsageError: the parameters have several dtypes.
    """
    dtypes = {str(p.dtype).removeprefix("torch.") for p in model.parameters()}
    if len(dtypes) > 1:
        raise UsageError(
            f"the model has parameters of several dtypes, {', '.join(sorted(dtypes))}; convert them: model.float()"
        )
    return dtypes


def norm_classes() -> Any:
    """Return the common base class of all batch and instance norms."""
    from torch import nn

    return nn.modules.batchnorm._NormBase


def plain_attributes(model: Any) -> dict[str, Any]:
    """Return the plain numbers, strings and tuples in a model's modules: its outputs may depend on them."""
    plain = (bool, int, float, str, tuple)
    return {
        f"{name}.{key}": value
        for name, module in model.named_modules()
        for key, value in vars(module).items()
        if isinstance(value, plain) and key != "training"
    }


def constant_tensors(model: Any, mixed_names: Any) -> list[Any]:
    """Return tensors, besides the mixed ones, that outputs depend on: other buffers, and attributes of modules.

    :param mixed_names: names of the tensors that are mixed (interpolated) between models.
    """
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
    """Limit torch, if it is loaded, to one thread per operation: the workers already run in parallel."""
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
    """Return whether two tensors are equal; NaN equals NaN."""
    import torch

    return a.shape == b.shape and bool(((a == b) | (torch.isnan(a) & torch.isnan(b))).all())


def nearly_equal(a: Any, b: Any) -> bool:
    """Return whether two outputs are equal up to rounding."""
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
    """Run a model twice on a few inputs and return its output.

    :raises UsageError: the model changes its input in place, or its two outputs differ.
    """
    inputs = x.clone()
    output = run(inputs)
    if not equal(inputs, x):
        raise UsageError(
            "the model changes its input in place, so no two points would see the same data; clone x in forward()"
        )
    second_output = run(inputs)
    if bool(output.isfinite().all()) and not equal(output, second_output):
        raise UsageError(
            "two runs of the model on the same inputs differ; remove the randomness from its evaluation mode"
        )
    return output


def at_least_float32(tensor: Any) -> Any:
    """Convert a tensor narrower than 32 bits to float32, because NumPy has no bfloat16."""
    return tensor if tensor.element_size() >= 4 else tensor.float()
