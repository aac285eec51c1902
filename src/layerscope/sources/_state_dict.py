"""A source made of named tensors: what every file format of weights comes down to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from layerscope.numerics.matrices import take
from layerscope.sources._layout import TensorInfo, layers_of
from layerscope.types import LayerRef, SourceSpec

if TYPE_CHECKING:
    from layerscope.types import Array


class StateDict:
    """Named tensors and a function that fetches one; layers are laid out by name and config."""

    def __init__(
        self,
        spec: SourceSpec,
        tensors: Iterable[TensorInfo],
        fetch: Callable[[str], Array],
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self.spec = spec
        self.tensors = list(tensors)
        self.fetch = fetch
        self._layers = layers_of(self.tensors, config)

    def layers(self) -> Iterator[LayerRef]:
        """Every tensor, in stored order; fused tensors as their parts."""
        return iter(self._layers)

    def read(self, ref: LayerRef) -> Array:
        """The numbers of one layer, in their stored dtype."""
        return take(self.fetch(ref.tensor), ref.part)
