"""What a source of matrices offers, and how it is opened again in another process."""

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

    target: Any  # path for files; the object itself for live models
    format: str  # name of the source module
    portable: bool  # can another process open it?
    key: str  # identifies the opened source within a process
    parts: tuple[SourceSpec, ...] = ()
    note: str = ""  # what was read of a target that holds more: the file of a folder


class Source(Protocol):
    """Something that has layers: headers first, then one tensor at a time."""

    @property
    def spec(self) -> SourceSpec: ...

    def layers(self) -> Iterator[LayerRef]: ...

    def read(self, ref: LayerRef) -> Array: ...


@runtime_checkable
class HasFacts(Protocol):
    """A source that knows more of a layer than its matrices."""

    def facts(self, ref: LayerRef) -> Mapping[str, float]: ...
