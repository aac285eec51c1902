"""Which torch functions a model calls, in their order, and how many of them take each tensor."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from layerscope.landscape._moves import tensors

TAKE = ("tolist", "item", "numpy", "__array__", "__float__", "__int__", "__bool__", "__setitem__")  # and give no tensor


CACHE = 4 << 20  # bytes of the largest tensor between layers: it stays where the processor is fast
MEMORY = 256 << 20  # the same on other devices
FEWEST = 16  # examples at once that are worth a call


@dataclass
class Calls:
    """Of one run."""

    made: list[tuple[Any, tuple[Any, Any], Any]] = field(default_factory=list)  # (function, arguments, result), alive
    output: Any = None
    examples: int = 1  # that it was of

    @classmethod
    def seen(cls, run: Callable[[Any], Any], x: Any) -> Calls:
        """
        :param run: the model on inputs.
        """
        from torch.overrides import TorchFunctionMode

        calls = cls(examples=len(x))

        class Watch(TorchFunctionMode):  # type: ignore[misc]
            """Passes every call on."""

            def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                result = func(*args, **(kwargs or {}))
                calls.made.append((func, (args, kwargs or {}), result))
                return result

        with Watch():
            calls.output = run(x)
        return calls

    def takers(self) -> dict[int, int]:
        """How many functions took each tensor, by its id. What looks at a shape alone takes nothing of it."""
        found: dict[int, int] = {}
        for func, given, result in self.made:
            if getattr(func, "__name__", "") in TAKE or any(True for _ in tensors(result)):
                for each in tensors(given):
                    found[id(each)] = found.get(id(each), 0) + 1
        return found

    def fitting(self, count: int, processor: bool) -> int:
        """How many of so many examples at once, in parts of equal size, leave what lies between layers in the cache."""
        every = (each for _, _, result in self.made for each in tensors(result))
        largest = max((each.numel() * each.element_size() for each in every), default=0) / self.examples
        most = max(FEWEST, int((CACHE if processor else MEMORY) / max(largest, 1.0)))
        return math.ceil(count / math.ceil(count / most))


def hooked(*modules: Any) -> bool:
    """Does anyone look at what modules are given or give?"""
    from torch.nn.modules import module as every

    everywhere = (every._global_forward_hooks, every._global_forward_pre_hooks)
    return any(everywhere) or any(m._forward_hooks or m._forward_pre_hooks for each in modules for m in each.modules())
