"""Low-rank adapters: match factors to modules, and reduce s·B·A to a small matrix with the same singular values."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from layerscope.errors import Unreadable
from layerscope.records.layers import LayerRef
from layerscope.sources.adapters.dora_magnitude import MAGNITUDE_NAME
from layerscope.sources.layouts.torch_names import TensorInfo

if TYPE_CHECKING:
    from layerscope.array_types import Array, Floats

FACTOR_NAME = re.compile(
    r"(?P<stem>.+)\.lora_(?P<embedding>embedding_)?(?P<which>[AB])(\.(?!weight$)(?P<adapter>[^.]+))?(\.weight)?$",
    re.DOTALL,
)
PREFIX = "base_model.model."


@dataclass
class Factors:
    """The tensors of one adapted module."""

    stem: str  # the module's name in the base model
    adapter: str  # "" or the adapter's name
    embedding: bool = False
    experts: int = 0  # of a parameter that holds a stack of experts
    tensors: dict[str, TensorInfo] = field(default_factory=dict)  # "A", "B", "magnitude"

    @property
    def label(self) -> str:
        """The name of its row in reports."""
        return f"{self.stem}.lora" + (f".{self.adapter}" if self.adapter else "")

    @property
    def rank(self) -> int:
        """The rank r, the number of rows of A (per expert)."""
        return self.tensors["A"].shape[0] // (self.experts or 1)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of s·B·A, in the layout of the module's weight."""
        a, b = self.tensors["A"].shape, self.tensors["B"].shape
        return (a[1], b[0]) if self.embedding else (b[0], *a[1:])

    def fault(self) -> str:
        """Return why the product cannot be formed, or ""."""
        missing = [which for which in "AB" if which not in self.tensors]
        if missing:
            return f"its factor {' and '.join(missing)} is missing"
        a, b = self.tensors["A"], self.tensors["B"]
        for info in (a, b):
            if info.fault or "float" not in info.dtype:
                return info.fault or f"its factors are {info.dtype} codes, not decoded"
        if len(a.shape) not in (2, 4) or len(b.shape) != len(a.shape):
            return f"its factors have {len(a.shape)} and {len(b.shape)} axes, not 2 or 4 each"
        if a.shape[0] == 0 or 0 in a.shape or 0 in b.shape:
            return "rank 0: an adapter without parameters"
        if b.shape[1] != a.shape[0]:
            return f"A has rank {a.shape[0]}, but B has rank {b.shape[1]}"
        if any(size != 1 for size in b.shape[2:]):
            return f"B is {'×'.join(map(str, b.shape))}, but its kernel must have size 1"
        magnitude = self.tensors.get("magnitude")
        if magnitude is not None and math.prod(magnitude.shape) != b.shape[0]:
            return f"it has {math.prod(magnitude.shape)} DoRA magnitudes for {b.shape[0]} outputs"
        return ""


def group_factors(tensors: Iterable[TensorInfo]) -> tuple[list[Factors], list[TensorInfo]]:
    """Return (adapted modules in stored order, other tensors).

    :raises Unreadable: two tensors are the same factor of a module.
    """
    factors_by_module: dict[tuple[str, str], Factors] = {}
    others = []
    for info in tensors:
        if info.name.endswith(".bias"):  # of a factor (lora_bias), or trained beside it
            others.append(info)
            continue
        match, which = FACTOR_NAME.match(info.name), ""
        if match:
            which = match["which"]
        elif match := MAGNITUDE_NAME.match(info.name):
            which = "magnitude"
        if not match:
            others.append(info)
            continue
        stem, adapter = match["stem"].removeprefix(PREFIX), match["adapter"] or ""
        adapter = "" if adapter == "default" else adapter
        factors = factors_by_module.setdefault((stem, adapter), Factors(stem, adapter))
        factors.embedding = factors.embedding or bool(which in "AB" and match["embedding"])
        if which in factors.tensors:
            raise Unreadable(f"two tensors are factor {which} of {stem}: {factors.tensors[which].name} and {info.name}")
        factors.tensors[which] = info
    return list(factors_by_module.values()), others


def adapter_rows(factors: Factors, scale: float) -> list[LayerRef]:
    """Return the row of one adapter, or one per expert.

    It is an r × r core for two-dimensional factors, and the full kernel for convolutions.
    """
    name, info = factors.label, next(iter(factors.tensors.values()))
    fault = factors.fault()
    if fault:
        return [LayerRef(0, name, info.shape, "", info.dtype, "lora", tensor=name, skipped=fault)]
    shape, rank = factors.shape, factors.rank
    how = f"{scale:.4g}·B·A of rank {rank}"
    if "magnitude" in factors.tensors:
        how += ", without DoRA magnitudes"
    row = LayerRef(0, name, shape, "oi", "float64", "lora", tensor=name, how=how, derived="lora")
    if len(shape) == 4:
        return [replace(row, axes="oihw")]
    if rank > min(shape):
        row = replace(row, how=f"{how}, above the matrix's maximum ({min(shape)}), formed in full")
    else:
        row = replace(row, rank=rank)
    if not factors.experts:
        return [row]
    stem, _, last = name.rpartition("experts.")
    return [replace(row, name=f"{stem}experts.{e}.{last}", expert=e) for e in range(factors.experts)]


def full_product(factors: Factors, a: Array, b: Array, scale: float) -> Floats:
    """Return s·B·A in float64, in the layout of the module's weight."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        product: Floats = scale * (y.reshape(len(y), -1) @ x.reshape(len(x), -1))
    return product.T if factors.embedding else product.reshape(factors.shape)
