"""The interface of a source of matrices, and how a source is opened again in another process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from layerscope.records.layers import LayerRef

if TYPE_CHECKING:
    from layerscope.array_types import Array


@dataclass(frozen=True)
class SourceSpec:
    """How to open a source again, here or in another process."""

    target: Any  # path of a file, or the object itself for live models
    format: str  # name of the source module
    portable: bool  # whether another process can open it
    key: str  # identifies the opened source within a process
    parts: tuple[SourceSpec, ...] = ()
    note: str = ""  # which part of the target was read, e.g. the file of a folder


class Source(Protocol):
    """A source of layers: headers first, then one tensor at a time."""

    @property
    def spec(self) -> SourceSpec: ...

    def layers(self) -> Iterator[LayerRef]: ...

    def read(self, ref: LayerRef) -> Array: ...


@runtime_checkable
class HasFacts(Protocol):
    """A source that also has numbers of a layer that no matrix contains."""

    def facts(self, ref: LayerRef) -> Mapping[str, float]: ...
