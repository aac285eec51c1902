"""What is known of one layer, before and after it is measured: frozen records with the shape and unit of each field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from layerscope.numerics.spectrum import Mode, Spectrum

if TYPE_CHECKING:
    from layerscope.records.sources import SourceSpec
    from layerscope.settings import Settings

Value = float | int | str
NOT_SELECTED = "not selected"  # why a layer that a user left out was skipped
UNSURE = "unsure whether a weight: its name does not say so"  # how a matrix is read that may be something else


@dataclass(frozen=True)
class Part:
    """Which rows of one axis of a stored tensor belong to a matrix.

    Blocks of ``length`` entries, the first at ``offset``, one every ``stride`` entries: contiguous thirds of a
    fused projection have stride = the whole axis, head-interleaved ones have stride = one head group.
    """

    axis: int  # axis of the stored tensor
    offset: int  # entries
    length: int  # entries per block
    stride: int  # entries from block to block

    def count(self, size: int) -> int:
        """Entries taken from an axis of ``size``."""
        return size // self.stride * self.length


@dataclass(frozen=True)
class LayerRef:
    """One matrix-to-be of a model: what the header says, no data."""

    index: int  # number of the row, counting every tensor in the model's order
    name: str  # unique; the tensor's name, with "[part]" where a tensor holds several matrices
    shape: tuple[int, ...]  # of this part
    axes: str  # a letter per axis: o out, i in, d h w positions, e experts; "" when not analyzed
    dtype: str  # numpy-style name, e.g. "bfloat16"
    kind: str  # dense, conv2d, embedding, lstm, norm, bias, ...
    role: str = "weight"  # weight, base, input, gradient
    tensor: str = ""  # the stored tensor's name
    part: Part | None = None
    expert: int | None = None  # of a tensor of experts: which one, the index on its first axis
    groups: int = 1  # convolution groups, blocks of the o axis
    symmetric: bool = False  # a covariance: eigenvalues of itself, not of its Gram matrix
    rank: int = 0  # of a product that is never formed: reading gives a (rank, rank) core with its singular values
    slice: int | None = None  # only this matrix of the stack
    heads: int = 0  # attention heads, blocks of the axis ``heads_on``
    heads_on: str = "o"
    flipped: bool = False  # a transposed convolution in groups: the positions of a flat kernel belong to the o axis
    derived: str = ""  # what is diagnosed where it is no model's own weight: "delta", "lora"
    entries: int = 0  # of a row that is one matrix of a tensor; 0: all of the shape
    aliases: tuple[str, ...] = ()  # other names of the same storage
    how: str = ""  # how it is read, for people: "split q,k,v", "tied with ..."
    skipped: str = ""  # why it is never analyzed; "" otherwise
    stored: int = field(default=-1, compare=False, repr=False)  # position in the file, which seeds its shuffles

    @property
    def params(self) -> int:
        """Number of entries."""
        if self.entries:
            return self.entries
        count = 1
        for size in self.shape:
            count *= size
        return count

    @property
    def itemsize(self) -> int:
        """Bytes per entry as stored."""
        digits = "".join(c for c in self.dtype.partition("_")[0] if c.isdigit())
        return max(1, int(digits or 64) // 8)


def with_fields(ref: LayerRef, **fields: Any) -> LayerRef:
    """Return a copy of a ref with some fields changed, as dataclasses.replace does in five times the time."""
    copied = object.__new__(LayerRef)
    copied.__dict__.update(ref.__dict__, **fields)
    return copied


@dataclass(frozen=True)
class Fit:
    """One distribution fitted to one spectrum, or the reason why it could not be."""

    family: str
    ok: bool
    reason: str = ""  # why not ok
    params: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Measurement:
    """One role of one layer, measured."""

    ref: LayerRef
    spectrum: Spectrum | None = None
    fits: Mapping[str, Fit] = field(default_factory=dict)
    skipped: str = ""  # why there is no spectrum
    failed: bool = False  # skipped because something went wrong, not by design
    seconds: float = 0.0  # wall-clock
    modes: tuple[Mode, ...] = ()  # of the weight: every eigenvector, where asked for; of a shuffle: the outliers
    facts: Mapping[str, float] = field(default_factory=dict)  # numbers that no spectrum holds, as the source gave them


@dataclass(frozen=True)
class Job:
    """One layer's work for an engine."""

    spec: SourceSpec
    refs: tuple[LayerRef, ...]  # all roles of one layer
    settings: Settings
    cost: float = 0.0  # floating-point operations
    memory: int = 0  # bytes at the peak


@dataclass(frozen=True)
class LayerReport:
    """Everything measured for one layer."""

    name: str
    parts: Mapping[str, Measurement]
    metrics: Mapping[str, Value] = field(default_factory=dict)
    absent: Mapping[str, str] = field(default_factory=dict)  # metric → why it is not there

    @property
    def ref(self) -> LayerRef:
        """The reference of the diagnosed matrix."""
        return self.parts["weight"].ref

    @property
    def spectrum(self) -> Spectrum | None:
        """The spectrum of the diagnosed matrix."""
        return self.parts["weight"].spectrum

    @property
    def skipped(self) -> str:
        """Why the layer was not analyzed, or ``""``."""
        return self.parts["weight"].skipped

    @property
    def failed(self) -> bool:
        """Did measuring the layer fail?"""
        return any(part.failed for part in self.parts.values())
