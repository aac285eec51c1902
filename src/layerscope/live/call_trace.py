"""Records the torch functions that a model calls in one run, in order, and counts the uses of each tensor."""

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
)  # functions that read the values of a tensor but return none
CACHE_BYTES = 4 << 20  # limit for the largest tensor between layers on a CPU, so that it stays in the cache
DEVICE_BYTES = 256 << 20  # the same limit on other devices
MIN_EXAMPLES = 16  # fewest examples per call: with fewer, the overhead of a call dominates


@dataclass
class CallTrace:
    """The calls of one run. Their arguments and results stay alive, so that the ids of tensors stay unique."""

    calls: list[tuple[Any, tuple[Any, Any], Any]] = field(default_factory=list)  # (function, (args, kwargs), result)
    output: Any = None
    examples: int = 1  # number of examples in the run

    @classmethod
    def record(cls, run: Callable[[Any], Any], x: Any) -> CallTrace:
        """Run a model on inputs and record every call.

        :param run: function that runs the model on inputs.
        :param x: inputs, with the examples on the first axis.
        """
        from torch.overrides import TorchFunctionMode

        trace = cls(examples=len(x))

        class Recorder(TorchFunctionMode):  # type: ignore[misc]
            """Executes and records every call."""

            def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                result = func(*args, **(kwargs or {}))
                trace.calls.append((func, (args, kwargs or {}), result))
                return result

        with Recorder():
            trace.output = run(x)
        return trace

    def use_counts(self) -> dict[int, int]:
        """Count the functions that use each tensor, by its id. Functions that only read a shape do not count."""
        counts: dict[int, int] = {}
        for func, arguments, result in self.calls:
            if getattr(func, "__name__", "") in CONSUMERS or any(True for _ in tensors_in(result)):
                for tensor in tensors_in(arguments):
                    counts[id(tensor)] = counts.get(id(tensor), 0) + 1
        return counts

    def examples_that_fit(self, count: int, on_cpu: bool) -> int:
        """Split ``count`` examples into equal parts with tensors that fit into the cache; return the size of a part."""
        tensors = (tensor for _, _, result in self.calls for tensor in tensors_in(result))
        largest = max((tensor.numel() * tensor.element_size() for tensor in tensors), default=0) / self.examples
        limit = max(MIN_EXAMPLES, int((CACHE_BYTES if on_cpu else DEVICE_BYTES) / max(largest, 1.0)))
        return math.ceil(count / math.ceil(count / limit))


def has_hooks(*modules: Any) -> bool:
    """Return whether any module has a forward hook or a forward pre-hook, global hooks included."""
    from torch.nn.modules import module as torch_module

    global_hooks = (torch_module._global_forward_hooks, torch_module._global_forward_pre_hooks)
    return any(global_hooks) or any(
        child._forward_hooks or child._forward_pre_hooks for module in modules for child in module.modules()
    )
