"""One part of a checkpoint as a model of its own, such as the EMA copy that is skipped otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from layerscope.errors import UsageError
from layerscope.numerics.matrices import pick
from layerscope.records.layers import LayerRef
from layerscope.sources.inventory import SEPARATORS
from layerscope.sources.layouts.layer_order import in_model_order
from layerscope.sources.layouts.torch_names import TensorInfo, layers_of, number_layers
from layerscope.sources.opening import open_target
from layerscope.sources.targets import Composed, make_spec, name_of

if TYPE_CHECKING:
    from layerscope.array_types import Array

PLUGIN_NAME, PORTABLE = "chosen", True
MAX_LISTED_PARTS = 8  # parts named in an error message


@dataclass(frozen=True)
class Chosen(Composed):
    """The tensors of a checkpoint below one module: the copy called ``part``."""

    target: Any
    part: str

    def __str__(self) -> str:
        return f"{self.part} of {name_of(self.target)}"


def accepts(target: Any) -> bool:
    """Return whether the target is a Chosen."""
    return isinstance(target, Chosen)


def open(target: Chosen) -> ChosenSource:
    """Open the checkpoint and keep the tensors of the part."""
    return ChosenSource(target, open_target(target.target))


class ChosenSource:
    """The layers of one part; what the inventory says of second copies does not apply to it."""

    def __init__(self, target: Chosen, model: Any) -> None:
        self.spec = make_spec(target, PLUGIN_NAME, portable=True, parts=(model.spec,))
        self.model = model
        tensors: list[TensorInfo] = list(getattr(model, "tensors", ()))
        if not tensors:
            raise UsageError(f"select={target.part!r} needs a checkpoint with tensors by name, not {model.spec.format}")
        chosen = [info for info in tensors if _is_below(info.name, target.part)] or [
            info for info in tensors if _is_copy(info) and target.part in info.name.rpartition(".")[0].lower()
        ]
        if not chosen:
            parts = dict.fromkeys(SEPARATORS.split(info.name)[0] for info in tensors)
            listed = ", ".join(list(parts)[:MAX_LISTED_PARTS])
            raise UsageError(f"select={target.part!r} matches no tensor; the checkpoint has the parts {listed}")
        self.tensors = [replace(info, not_weight=None) if _is_copy(info) else info for info in chosen]
        self.config = getattr(model, "config", None)
        self._layers = number_layers(in_model_order(layers_of(self.tensors, self.config)))

    def layers(self) -> Iterator[LayerRef]:
        """Every tensor of the part."""
        return iter(self._layers)

    def fetch(self, name: str) -> Array:
        """A tensor as it is stored, or decoded."""
        array: Array = self.model.fetch(name)
        return array

    def read(self, ref: LayerRef) -> Array:
        """The numbers of one layer."""
        return pick(self.fetch(ref.tensor), ref)


def _is_copy(info: TensorInfo) -> bool:
    return info.not_weight is not None and info.not_weight[0] == "copy"


def _is_below(name: str, part: str) -> bool:
    """Is the tensor below a module of this name, at any depth?"""
    words, wanted = SEPARATORS.split(name), SEPARATORS.split(part)
    return any(words[i : i + len(wanted)] == wanted for i in range(len(words) - len(wanted)))
