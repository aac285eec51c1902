"""Torch modules and data as evaluators need them: unwrapped, whole, on a device, told apart."""

from __future__ import annotations

import functools
import hashlib
import pickle
import sys
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from layerscope.errors import UsageError
from layerscope.sources._strangers import told

ROUNDING = 1000.0  # units in the last place that sums in another order differ by
WORST = 0.05  # of the largest output, where numbers are narrow


def told_of(function: Any) -> bytes:
    """What tells a function from others: its name, its code, and what it is bound to: arguments of a partial, defaults,
    what a closure holds, the attributes of an object that is called."""
    if isinstance(function, functools.partial):
        return told_of(function.func) + _pickled((function.args, sorted(function.keywords.items())))
    code = getattr(function, "__code__", None)
    name = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', type(function).__qualname__)}"
    if code is None:
        return name.encode() + _pickled(getattr(function, "__dict__", {}))
    held = [cell.cell_contents for cell in function.__closure__ or () if cell != _EMPTY]
    held = [each for each in held if not isinstance(each, list | dict | set)]  # what a function counts in, say
    bound = _pickled((held, function.__defaults__, function.__kwdefaults__))
    return b"".join([name.encode(), code.co_code, repr((code.co_names, code.co_consts)).encode(), bound])


_EMPTY = types.CellType()


def digest(words: Sequence[str], tensors: Sequence[Any], functions: Sequence[Any]) -> bytes:
    """What changes with any of them."""
    found = hashlib.sha256("\0".join(words).encode())
    for tensor in tensors:
        found.update(wide(tensor).cpu().contiguous().numpy().tobytes())
    for function in functions:
        found.update(told_of(function) if callable(function) else repr(function).encode())
    return found.digest()


def _pickled(value: Any) -> bytes:
    """As bytes that change with it; of what cannot be pickled its parts, or its type alone."""
    try:
        return bytes(pickle.dumps(value))
    except Exception:  # pickle and what is pickled raise anything
        if isinstance(value, dict):
            return b"".join(_pickled(each) for each in value.items())
        if isinstance(value, list | tuple):
            return b"".join(_pickled(each) for each in value)
        return told_of(value) if hasattr(value, "__code__") else str(type(value)).encode()


def attributes(model: Any) -> dict[str, Any]:
    """Plain numbers and words that its modules hold: they are part of the function too."""
    plain = (bool, int, float, str, tuple)
    return {
        f"{name}.{key}": value
        for name, module in model.named_modules()
        for key, value in vars(module).items()
        if isinstance(value, plain) and key != "training"
    }


def unmoved(model: Any, moved: Any) -> list[Any]:
    """Tensors that are part of the function whatever the weights: other buffers than those, and plain attributes."""
    import torch

    found = [b for name, b in model.named_buffers() if name not in moved and not name.endswith("num_batches_tracked")]
    for module in model.modules():
        found += [value for value in vars(module).values() if isinstance(value, torch.Tensor)]
    return [each.detach() for each in found]


@contextmanager
def single_threaded() -> Iterator[None]:
    """Inside, torch uses one thread for an operation, where it is loaded: the workers are the parallelism."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def norms() -> Any:
    from torch import nn

    return nn.modules.batchnorm._NormBase


def unwrapped(model: Any) -> Any:
    """Without what training and compilers put around a module."""
    for inner in ("_orig_mod", "module"):
        if type(model).__name__ in ("DataParallel", "DistributedDataParallel", "OptimizedModule"):
            model = getattr(model, inner, model)
    return model


def whole(data: Any, device: Any) -> tuple[Any, Any]:
    """(x, y) on the device, batches put together.

    :raises UsageError: no example, or no pairs.
    """
    import torch

    if not (isinstance(data, tuple) and len(data) == 2 and hasattr(data[0], "shape")):
        with told("the data"):
            batches = list(data)
        if not batches or not all(isinstance(batch, tuple | list) and len(batch) == 2 for batch in batches):
            raise UsageError("the data are (x, y), or batches of such pairs")
        with told("putting the batches together"):
            data = tuple(torch.cat([torch.as_tensor(batch[k]) for batch in batches]) for k in (0, 1))
    x, y = (torch.as_tensor(part).to(device) for part in data)
    if not len(x) or len(x) != len(y):
        raise UsageError(f"the data are {len(x)} examples and {len(y)} labels")
    return x, y


def fitting(x: Any, data: Any, kinds: Any) -> Any:
    """Inputs in the type of the parameters, where they come from NumPy, whose own is float64."""
    import torch

    given = data[0] if isinstance(data, tuple) and data else None
    if isinstance(given, torch.Tensor) or not x.is_floating_point() or not hasattr(given, "__array__") or not kinds:
        return x
    return x.to(getattr(torch, next(iter(kinds))))


def drawn(x: Any, y: Any, count: int) -> tuple[Any, Any]:
    """So many examples, the same every time; of classes each in its share.

    :raises UsageError: fewer than one, or more than there are.
    """
    import torch

    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= len(x):
        raise UsageError(f"examples must be between 1 and {len(x):,}, not {count!r}")
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    if y.dim() == 1 and not y.is_floating_point():
        classes = y.cpu()[order]
        rank = torch.zeros(len(order), dtype=torch.float64)  # how far down its class each is, from 0 to 1
        for each in classes.unique():
            inside = (classes == each).nonzero().reshape(-1)
            rank[inside] = (torch.arange(len(inside)) + 0.5).double() / len(inside)
        order = order[rank.argsort(stable=True)]
    chosen = order[:count].to(x.device)
    return x[chosen], y[chosen]


def same(one: Any, other: Any) -> bool:
    """Equal, NaN being equal to NaN."""
    import torch

    return one.shape == other.shape and bool(((one == other) | (torch.isnan(one) & torch.isnan(other))).all())


def near(one: Any, other: Any) -> bool:
    """The same but for rounding."""
    if not hasattr(one, "shape") or not hasattr(other, "shape") or one.shape != other.shape:
        return False
    if not one.is_floating_point():
        return same(one, other)
    import torch

    finite = one.isfinite() & other.isfinite()
    if not same(one[~finite], other[~finite]):
        return False
    size = one[finite].abs().max() if bool(finite.any()) else one.new_ones(())
    allowed = min(ROUNDING * torch.finfo(one.dtype).eps, WORST) * float(size)
    return not bool(((one - other).abs()[finite] > allowed).any())


def repeated(run: Any, x: Any) -> Any:
    """What a model makes of a few inputs, every time.

    :raises UsageError: a model that changes what it is given, or is random.
    """
    part = x.clone()
    output = run(part)
    if not same(part, x):
        raise UsageError("the model changes its input in place: no two points would see the same data")
    again = run(part)
    if bool(output.isfinite().all()) and not same(output, again):
        raise UsageError("the model is random in evaluation mode: no two points would see the same function")
    return output


def wide(tensor: Any) -> Any:
    """At least float32, which NumPy knows."""
    return tensor if tensor.element_size() >= 4 else tensor.float()


def inputs(calibrate: Any, device: Any) -> Any:
    import torch

    found = calibrate[0] if isinstance(calibrate, tuple) else calibrate
    return torch.as_tensor(found).to(device)
