"""The torch functions that a model calls in one run, in their order, and how many of them take each tensor."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from layerscope.live.nested_tensors import tensors_in

CONSUMERS = (
    "tolist",
    "item",
    "numpy",
    "__array__",
    "__float__",
    "__int__",
    "__bool__",
    "__setitem__",
)  # give no tensor
CACHE_BYTES = 4 << 20  # of the largest tensor between layers: it stays where the processor is fast
DEVICE_BYTES = 256 << 20  # the same on other devices
MIN_EXAMPLES = 16  # at once that are worth a call


@dataclass
class CallTrace:
    """The calls of one run, their arguments and results alive."""

    calls: list[tuple[Any, tuple[Any, Any], Any]] = field(default_factory=list)  # (function, (args, kwargs), result)
    output: Any = None
    examples: int = 1  # in the run

    @classmethod
    def record(cls, run: Callable[[Any], Any], x: Any) -> CallTrace:
        """Run a model on inputs and record every call.

        :param run: the model on inputs.
        """
        from torch.overrides import TorchFunctionMode

        trace = cls(examples=len(x))

        class Recorder(TorchFunctionMode):  # type: ignore[misc]
            """Passes every call on."""

            def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                result = func(*args, **(kwargs or {}))
                trace.calls.append((func, (args, kwargs or {}), result))
                return result

        with Recorder():
            trace.output = run(x)
        return trace

    def use_counts(self) -> dict[int, int]:
        """How many functions took each tensor, by its id. A function that looks at a shape alone takes nothing."""
        counts: dict[int, int] = {}
        for func, arguments, result in self.calls:
            if getattr(func, "__name__", "") in CONSUMERS or any(True for _ in tensors_in(result)):
                for tensor in tensors_in(arguments):
                    counts[id(tensor)] = counts.get(id(tensor), 0) + 1
        return counts

    def examples_that_fit(self, count: int, on_cpu: bool) -> int:
        """How many of ``count`` examples at once, in equal parts, leave the tensors between layers in the cache."""
        tensors = (tensor for _, _, result in self.calls for tensor in tensors_in(result))
        largest = max((tensor.numel() * tensor.element_size() for tensor in tensors), default=0) / self.examples
        limit = max(MIN_EXAMPLES, int((CACHE_BYTES if on_cpu else DEVICE_BYTES) / max(largest, 1.0)))
        return math.ceil(count / math.ceil(count / limit))


def has_hooks(*modules: Any) -> bool:
    """Does any module have a hook on its inputs or outputs?"""
    from torch.nn.modules import module as torch_module

    global_hooks = (torch_module._global_forward_hooks, torch_module._global_forward_pre_hooks)
    return any(global_hooks) or any(
        child._forward_hooks or child._forward_pre_hooks for module in modules for child in module.modules()
    )
