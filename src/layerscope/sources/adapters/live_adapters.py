"""Adapted layers of live PEFT models: the weight that the forward pass uses, formed by PEFT's own merge."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

FORMED = "with its adapter, as PEFT merges it"
ALONE = "of a layer whose adapter is switched off"


@dataclass(frozen=True)
class AdaptedTensor:
    """A parameter of a layer with its adapters merged; calling it computes the values."""

    layer: Any  # the outermost layer of PEFT
    local: str  # name of the parameter in the layer that PEFT wraps
    template: Any  # the parameter without its adapters, which has the same shape and type

    def __call__(self) -> Any:
        """The values. A copy of the layer is merged, so that the model stays as it is."""
        import torch

        duplicate = copy.deepcopy(self.layer)
        with torch.no_grad():
            for layer in duplicate.modules():
                if is_adapted(layer) and not layer.merged and not layer.disable_adapters:
                    layer.merge()
        return dict(innermost(duplicate).named_parameters(recurse=False))[self.local].detach()


def is_adapted(module: Any) -> bool:
    """Is it a layer of PEFT that holds the original layer and its adapters?"""
    return hasattr(module, "base_layer") and hasattr(module, "active_adapters") and callable(
        getattr(module, "merge", None)
    )  # fmt: skip


def innermost(module: Any) -> Any:
    """The original layer inside all wrappers of PEFT."""
    while hasattr(module, "base_layer"):
        module = module.base_layer
    return module


def adapted_tensors(layer: Any) -> Iterator[tuple[str, AdaptedTensor, str]]:
    """Yield (name, tensor, how it is formed) for the parameters of an adapted layer."""
    how = ALONE if layer.disable_adapters else FORMED
    for local, parameter in innermost(layer).named_parameters(recurse=False):
        yield local, AdaptedTensor(layer, local, parameter), how


def unused_parts(root: Any) -> dict[str, str]:
    """Path → reason, of the modules of a PEFT model whose tensors are not weights of their own, with all below them."""
    reasons: dict[str, str] = {}
    for path, module in root.named_modules():
        prefix = f"{path}." if path else ""
        above = reasons.get(path.rpartition(".")[0]) if path else None
        if above is not None or path in reasons:
            reasons.setdefault(path, above or "")
        elif is_adapted(module):
            children = (name for name, _ in module.named_children())
            reasons |= {f"{prefix}{name}": f"part of {prefix}weight, which is formed" for name in children}
        elif hasattr(module, "original_module") and hasattr(module, "modules_to_save"):
            active = set(() if module.disable_adapters else module.active_adapters)
            unused = [f"{prefix}modules_to_save.{name}" for name in module.modules_to_save if name not in active]
            unused += [f"{prefix}original_module"] if active else []
            reasons |= dict.fromkeys(unused, "unused: another copy of the module is active")
    return reasons
